"""The end of a tenant: nothing of it is left in any stream, bucket or object, and nobody else is touched."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from mcp_agents.adapters.nats_link import NatsLink
from mcp_agents.adapters.nats_topology import existing
from mcp_agents.kernel.errors import Conflict, Denied, NotFound, Unavailable
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.security.audit import Wanted
from mcp_agents.server.compose import House
from tests.hostile.wire import Wire
from tests.support.clock import AheadClock
from tests.tenancy.world import PROVIDER, Tenant, World, fresh, world

pytestmark = pytest.mark.anyio

CONSOLE = Principal(tenant=PLATFORM, subject="console", scopes=frozenset())
MARKED = ("PURGE", "DEL")


class Kept(NamedTuple):
    """One stored message."""

    stream: str
    subject: str
    data: bytes

    def of(self, tenant: str) -> bool:
        """Whether the tenant's name is anywhere in it."""
        return tenant in self.subject or tenant.encode() in self.data


async def everything(link: NatsLink) -> list[Kept]:
    """Every stored message of every stream, but the notes that say of a removed record that it is removed: they are
    empty, and go by themselves."""
    found: list[Kept] = []
    for stream in sorted(await existing(link)):
        async for _, message in link.each(stream, ">", 0):
            headers = message.headers or {}
            if headers.get("KV-Operation") not in MARKED:
                found.append(Kept(stream, headers["Nats-Subject"], message.data))
            else:
                assert message.data == b""
                assert int(headers["Nats-TTL"].removesuffix("s")) <= 60
    return found


@pytest.fixture
async def clock() -> AheadClock:
    """Time that can be let pass."""
    return AheadClock()


@pytest.fixture
async def there(tmp_path: Path, clock: AheadClock) -> AsyncIterator[World]:
    """A served house."""
    async with world(tmp_path, clock) as opened:
        yield opened


async def furnished(me: Tenant) -> str:
    """Gives a tenant something of everything; returns a run that is inside a tool."""
    wire = me.wire
    big = "word " * 60_000
    for _ in range(3):
        await me.agent()
    await me.finished()
    await me.finished(idempotency_key=f"key-{me.name}")
    await me.finished(prompt=f"say {me.name} {big}")
    session = await me.session()
    await me.finished(session_id=session, prompt=f"say {me.name} {big}")
    await wire.call("session_pin", {"session_id": session, "text": f"Pinned by {me.name}."})
    await me.memory()
    await me.shared()
    await me.given_up()
    await me.asking()
    await me.approval()
    await me.route()
    await me.member()
    await me.invitation()
    await me.client()
    await wire.call("provider_key_set", {"provider": PROVIDER, "key": f"key-of-{me.name}"})
    await wire.call("tool_server_authorize", {"name": await me.signed_server(), "agent": await me.twin(), "token": "t"})
    await wire.call("policy_set", {"name": "rule", "actions": ["delegate"], "when": {"agents": [me.name]}})
    await wire.call("budget_set", {"scope": "tenant", "period": "day", "limit_tokens": 1_000_000})
    await wire.call("quota_set", {"scope": "tenant", "max_concurrent": 50})
    running = await me.running()
    for _ in range(3):  # some of them still wait when the erasure begins
        await wire.call("agent_submit", {"agent": await me.twin(), "prompt": f"say {me.name}"})
    return running


async def gone(house: House, tenant: str, clock: AheadClock) -> None:
    """Sweeps as the program does, with time passing."""
    for _ in range(10):
        if await house.erasure.sweep(tenant):
            return
        clock.advance(11)
    raise AssertionError("the sweep finds something again and again")


def leftovers(found: list[Kept], tenant: str) -> list[Kept]:
    """What is left of a tenant, but for the platform's own word on its end."""
    return [each for each in found if each.of(tenant) and each.subject != f"cb.agent.audit.{PLATFORM}"]


async def test_nothing_is_left_and_nothing_else_is_touched(there: World, clock: AheadClock) -> None:
    """Two tenants with the same of everything; one is erased. A run that was inside a tool comes back and leaves no
    trace either; the name can be used again and shows nothing."""
    house, link = there.served.house, there.served.house.link
    lost, kept = await there.tenant(), await there.tenant()
    running = [await furnished(lost), await furnished(kept)]
    both = await house.auth.users.create(
        f"{fresh('both')}@a.example", fresh("password"), lost.name, frozenset({"admin"})
    )
    await house.auth.users.set_roles(both.id, kept.name, frozenset({"viewer"}))
    people = [user.id for user in await house.auth.users.list(lost.name) if user.id != both.id]
    before = await everything(link)
    assert len([each for each in before if each.of(lost.name)]) >= 50
    assert {each.stream for each in before if each.of(lost.name)} >= {
        "CB_AUDIT", "CB_JOBS", "KV_cb_agents", "KV_cb_executions", "KV_cb_tool_servers", "KV_cb_models",
        "KV_cb_policies", "KV_cb_capacity", "KV_cb_ledger", "KV_cb_auth", "KV_cb_tenants", "KV_cb_vault",
        "KV_cb_memories", "OBJ_cb_objects",
    }  # fmt: skip

    await house.erasure.begin(lost.name, CONSOLE)
    with pytest.raises(Conflict):
        await house.auth.tenants.set_active(lost.name, active=True)
    with pytest.raises(Conflict):
        await house.auth.tenants.create(lost.name)
    await gone(house, lost.name, clock)
    assert leftovers(await everything(link), lost.name) == []
    assert (await lost.wire.call("agent_list", {})).status == 401

    for left in there.upstream.left.values():
        left.set()  # every run that was inside a tool goes on
    with anyio.fail_after(30):
        while any(house.crew.station.holds(run) for run in running):
            await anyio.lowlevel.checkpoint()
    after = await everything(link)
    assert leftovers(after, lost.name) == []
    for user_id in people:
        with pytest.raises(NotFound):
            await house.auth.users.get(user_id)
    assert (await house.auth.users.get(both.id)).memberships == {kept.name: ["viewer"]}

    theirs = [each for each in before if each.of(kept.name) and not each.of(lost.name)]
    changing = {"CB_JOBS", "KV_cb_executions", "KV_cb_ledger", "KV_cb_leases", "KV_cb_auth"}
    missing = [each for each in theirs if each not in set(after) and each.stream not in changing]
    assert len(theirs) >= 50
    assert missing == []
    assert (await kept.wire.call("agent_list", {})).value["agents"]
    assert (await kept.wire.call("execution_get", {"execution_id": running[1]})).value["status"] == "completed"
    assert (await kept.wire.call("audit_verify", {})).value["whole"]

    told, _ = await house.auth.audit.entries(PLATFORM, Wanted(act="tenant_"), 2)
    assert [(each.act, each.target, each.outcome) for each in told] == [
        ("tenant_erased", lost.name, "done"),
        ("tenant_delete", lost.name, "begun"),
    ]
    await house.auth.tenants.create(lost.name)
    again = Wire(there.http, there.served.url, (await house.auth.tokens.issue_direct(lost.name)).access_token)
    assert (await again.call("agent_list", {})).value["agents"] == []
    assert (await again.call("user_list", {})).value["members"] == []
    assert (await again.call("audit_query", {"act": "tenant"})).value["entries"] == []


BREAKS = ["tenancy", "invitations", "families", "clients", "users"]


@pytest.mark.parametrize("part", BREAKS)
async def test_an_erasure_that_broke_off_is_finished_by_another_process(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away in the middle of a sweep and the process with it; the next one looks for what is open."""
    clock = AheadClock()
    async with world(tmp_path, clock) as first:
        lost = await first.tenant()
        await furnished(lost)
        house = first.served.house
        await house.erasure.begin(lost.name, CONSOLE)

        async def fails(*_: Any) -> Any:
            raise Unavailable("STORE_UNAVAILABLE", "It is away.", "Try again.")

        step = "leave" if part == "users" else "erase"
        monkeypatch.setattr(getattr(house.erasure, f"_{part}"), step, fails)
        with pytest.raises(Unavailable):
            await house.erasure.sweep(lost.name)
    monkeypatch.undo()
    async with world(tmp_path, clock) as second:
        house = second.served.house
        assert (await house.auth.tenants.get(lost.name)).state == "erasing"
        clock.advance(11)
        await gone(house, lost.name, clock)
        assert leftovers(await everything(house.link), lost.name) == []


async def test_a_served_house_looks_for_what_others_left(there: World, clock: AheadClock) -> None:
    """`keep` takes up an erasure that somebody began and nobody goes on with."""
    house = there.served.house
    lost = await there.tenant()
    await lost.finished()
    await house.erasure.begin(lost.name, CONSOLE)
    await house.erasure.sweep(lost.name)
    clock.advance(11)
    async with background() as tasks:
        tasks.start_soon(house.erasure.keep)
        with anyio.fail_after(20):
            while [each for each in await house.auth.tenants.list() if each.name == lost.name]:
                await anyio.lowlevel.checkpoint()
    assert leftovers(await everything(house.link), lost.name) == []


async def test_it_does_not_end_while_somebody_may_still_take_the_tenant_for_active(there: World) -> None:
    """However empty it is: ten seconds are waited out."""
    house = there.served.house
    lost = await there.tenant()
    await house.erasure.begin(lost.name, CONSOLE)
    for _ in range(4):
        assert not await house.erasure.sweep(lost.name)
    with pytest.raises(Denied):
        await house.auth.tokens.issue_direct(lost.name)


async def test_a_tenant_that_is_not_being_erased_is_left_alone(there: World) -> None:
    """A sweep by mistake removes nothing; one of a tenant that never was has nothing to do."""
    house = there.served.house
    me = await there.tenant()
    await me.finished()
    before = [each for each in await everything(house.link) if each.of(me.name)]
    assert not await house.erasure.sweep(me.name)
    assert await house.erasure.sweep("never-was")
    assert [each for each in await everything(house.link) if each.of(me.name)] == before
    with pytest.raises(NotFound):
        await house.erasure.begin("never-was", CONSOLE)
