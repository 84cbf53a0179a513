"""The gates of real runs: what policies forbid is not done, what they ask for is asked, and revoked callers stop."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp_agents_auth.clients import USER_GRANTS
from mcp_agents_auth.families import Family
from mcp_agents_auth.users import User

from mcp_agents.execution.orders import Order
from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import ROLES, TENANT_SCOPES
from mcp_agents.security.policy.rules import Match, PathRule, Rule
from tests.execution.persons import ALWAYS, ANN, BOB, TENANT, YES, Desk, Jumping, desk, recording
from tests.support.provider import Call, Step

pytestmark = pytest.mark.anyio


async def forbid(at: Desk, rule: Rule, name: str = "rule") -> None:
    """Puts a rule in force."""
    await at.services.policies.set(at.space, name, rule, by="admin")


TOOL_RULES: dict[str, tuple[Rule, bool]] = {
    "the tool": (Rule(actions=("call_tool",), when=Match(resources=("counted/*",)), reason="no recording"), True),
    "another tool": (Rule(actions=("call_tool",), when=Match(resources=("other/*",))), False),
    "the agent": (Rule(actions=("call_tool",), when=Match(agents=("worker",))), True),
    "another agent": (Rule(actions=("call_tool",), when=Match(agents=("boss",))), False),
    "its label": (Rule(actions=("call_tool",), when=Match(labels=("secret",))), True),
    "another label": (Rule(actions=("call_tool",), when=Match(labels=("public",))), False),
    "its host": (Rule(actions=("reach_network",), when=Match(resources=("127.*",))), True),
    "another host": (Rule(actions=("reach_network",), when=Match(resources=("10.*",))), False),
    "the caller": (Rule(actions=("call_tool",), when=Match(users=("ann",))), True),
    "another caller": (Rule(actions=("call_tool",), when=Match(users=("bob",))), False),
    "outside a path": (
        Rule(
            actions=("call_tool",),
            when=Match(resources=("counted/record",)),
            unless=Match(paths=(PathRule(argument="place", under=("/srv/data",)),)),
        ),
        True,
    ),
    "inside a path": (
        Rule(actions=("call_tool",), unless=Match(paths=(PathRule(argument="place", under=("/srv",)),))),
        False,
    ),
}


@pytest.mark.parametrize("which", TOOL_RULES)
async def test_a_forbidden_call_is_told_to_the_model_and_not_sent(tmp_path: Path, which: str) -> None:
    """In each dimension one rule that fits and one that does not; the run itself goes on."""
    rule, denies = TOOL_RULES[which]
    place = "/srv/x" if "path" in which else "q"
    async with desk(tmp_path, *recording(place)) as at:
        await at.agent(tags=["secret"])
        await forbid(at, rule)
        execution_id = await at.submit()
        view = await at.ended(execution_id)
        _, entries = await at.space.log(execution_id).read()
    assert view.status == "completed"
    assert len(at.tools.effects(place)) == (0 if denies else 1)
    failed = [entry.event for entry in entries if type(entry.event).__name__ == "ToolFailed"]
    assert [event.code for event in failed] == (["POLICY_DENIED"] if denies else [])  # type: ignore[attr-defined]


async def test_a_forbidden_model_ends_the_run_before_it_is_asked(tmp_path: Path) -> None:
    """With the policy's own words."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent()
        await forbid(at, Rule(actions=("use_model",), when=Match(resources=("scripted",)), reason="too chatty"))
        view = await at.ended(await at.submit())
        asked = at.provider.counts().requests
    assert view.status == "failed"
    assert view.error is not None
    assert (view.error.code, "too chatty" in view.error.public) == ("POLICY_DENIED", True)
    assert asked == 0


async def test_a_forbidden_agent_is_not_run(tmp_path: Path) -> None:
    """Nothing is accepted."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent()
        await forbid(at, Rule(actions=("run_agent",), when=Match(resources=("worker",))))
        with pytest.raises(Denied) as refused:
            await at.submit()
        assert refused.value.code == "POLICY_DENIED"
        assert await at.space.execution_ids() == []


@pytest.mark.parametrize("denies", [True, False])
async def test_an_agent_is_delegated_to_unless_a_rule_forbids_it(tmp_path: Path, denies: bool) -> None:
    """Who may call whom: the boss may not call the worker, though its caller may run both."""
    steps = [
        Step(when="<boss>", turn=0, calls=[Call(name="agent__worker", arguments='{"prompt": "<sub>"}')]),
        Step(when="<sub>", turn=0, times=0, text="Worked."),
        Step(when="<boss>", turn=1, text="Done."),
    ]
    async with desk(tmp_path, *steps) as at:
        await at.agent(tools=[])
        await at.agent("boss", tools=["agent:worker"])
        match = Match(resources=("worker",), agents=("boss" if denies else "worker",))
        await forbid(at, Rule(actions=("delegate",), when=match))
        view = await at.ended(await at.submit("<boss>", "boss"))
        runs = len(await at.space.execution_ids())
    assert view.status == "completed"
    assert [call.state for call in view.tool_calls] == ["failed" if denies else "done"]
    assert runs == (1 if denies else 2)


@pytest.mark.parametrize("by", ["any", "other"])
async def test_a_rule_asks_a_person(tmp_path: Path, by: Any) -> None:
    """The agent itself asks for nothing; with `other` whoever asked for the run may not approve it."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent()
        await forbid(at, Rule(effect="ask", actions=("call_tool",), by=by, reason="it costs"))
        execution_id = await at.submit()
        asked = await at.asked(execution_id)
        assert "it costs" in asked.message
        assert at.tools.effects("q") == []
        if by == "other":
            with pytest.raises(Denied):
                await at.answer(ANN, execution_id, YES, asked.id)
        await at.answer(BOB if by == "other" else ANN, execution_id, YES, asked.id)
        view = await at.ended(execution_id)
    assert view.status == "completed"
    assert len(at.tools.effects("q")) == 1


async def test_an_approval_is_void_when_a_rule_forbids_the_call_meanwhile(tmp_path: Path) -> None:
    """What a person allowed yesterday, the policy forbids today."""
    async with desk(tmp_path, *recording(), workers=1) as at:
        await at.agent(policy=ALWAYS)
        execution_id = await at.submit()
        asked = await at.asked(execution_id)
        await forbid(at, Rule(actions=("call_tool",)))
        await at.answer(BOB, execution_id, YES, asked.id)
        view = await at.ended(execution_id)
    assert [call.state for call in view.tool_calls] == ["failed"]
    assert at.tools.effects("q") == []


async def signed_in(at: Desk, role: str = "operator") -> tuple[User, Principal, str]:
    """A person of the tenant with a grant: who it is, as a caller, and the grant's name."""
    auth = at.house.auth
    await auth.tenants.create(TENANT)
    user = await auth.users.create("cleo@acme.example", None, TENANT, frozenset({role}))
    client, _ = await auth.clients.register(
        TENANT, "App", redirect_uris=("https://app.example/cb",), grant_types=USER_GRANTS, roles=frozenset({"admin"})
    )
    now = datetime.now(UTC)
    family = Family(
        sid=auth.families.new_sid(), kind="user", tenant=TENANT, subject=user.id, client_id=client.id,
        scopes=sorted(TENANT_SCOPES), resource=auth.resource, created_at=now, expires_at=now + timedelta(hours=1),
    )  # fmt: skip
    await auth.families.open(family)
    caller = Principal(
        tenant=TENANT, subject=user.id, client=client.id, scopes=ROLES[role], roles=frozenset({role}), grant=family.sid
    )
    return user, caller, family.sid


class Leaping(Jumping):
    """Jumps by every measure."""

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead.total_seconds()


TAKEN = ("grant revoked", "person suspended", "person removed", "client revoked", "tenant suspended", "role lost")


@pytest.mark.parametrize("taken", TAKEN)
async def test_a_run_whose_caller_was_revoked_does_nothing_more(tmp_path: Path, taken: str) -> None:
    """Approved after its caller's rights were taken away, the call is not sent, no model is asked, and the run ends."""
    clock = Leaping()
    async with desk(tmp_path, *recording(), clock=clock) as at:
        await at.agent(policy=ALWAYS)
        user, caller, sid = await signed_in(at)
        order = Order(agent="worker", prompt="<q>", submitted=True)
        execution_id = await at.services.dispatcher.submit(at.space, caller, order)
        asked = await at.asked(execution_id)
        auth, before = at.house.auth, at.provider.counts().requests
        match taken:
            case "grant revoked":
                await auth.service.end(sid)
            case "person suspended":
                await auth.users.set_active(user.id, active=False)
            case "person removed":
                await auth.users.set_roles(user.id, TENANT, frozenset())
            case "client revoked":
                await auth.clients.revoke(TENANT, caller.client)
            case "tenant suspended":
                await auth.tenants.set_active(TENANT, active=False)
            case _:
                await auth.users.set_roles(user.id, TENANT, frozenset({"viewer"}))
        clock.jump(6)  # what was known of the caller is five seconds old at most
        await at.answer(BOB, execution_id, YES, asked.id)
        view = await at.ended(execution_id)
        asked_after = at.provider.counts().requests
    assert view.status == "failed"
    assert view.error is not None
    codes = {"tenant suspended": "TENANT_SUSPENDED", "role lost": "INSUFFICIENT_SCOPE"}
    assert view.error.code == codes.get(taken, "CALLER_REVOKED")
    assert at.tools.effects("q") == []
    assert asked_after == before


async def test_an_expired_grant_takes_nothing_from_a_run_that_was_accepted(tmp_path: Path) -> None:
    """Two hours later, with the token, the grant and their records long gone, the run goes on."""
    clock = Jumping()
    async with desk(tmp_path, *recording(), clock=clock) as at:
        await at.agent(policy=ALWAYS)
        _, caller, sid = await signed_in(at)
        order = Order(agent="worker", prompt="<q>", submitted=True)
        execution_id = await at.services.dispatcher.submit(at.space, caller, order)
        asked = await at.asked(execution_id)
        clock.jump(2 * 3600)
        assert await at.house.auth.families.get(sid) is None
        await at.answer(BOB, execution_id, YES, asked.id)
        view = await at.ended(execution_id)
    assert view.status == "completed"
    assert len(at.tools.effects("q")) == 1
