"""The trail of a served house: what administrators do is in it first, secrets never are, and tampering shows."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.security.audit import Wanted
from tests.support.tool_servers import good
from tests.support.tool_servers.served import mcp_app, served
from tests.tenancy.world import PROVIDER, Tenant, World, fresh, world

pytestmark = pytest.mark.anyio

SECRET = "canary-" + "5ecret" * 4


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A served house."""
    async with world(tmp_path_factory.mktemp("trail")) as opened:
        yield opened


async def trail(me: Tenant, **filters: Any) -> list[dict[str, Any]]:
    """The newest entries of a tenant, as its auditor reads them."""
    entries: list[dict[str, Any]] = (await me.wire.call("audit_query", filters)).value["entries"]
    return entries


async def raw(there: World) -> bytes:
    """Every byte of the stream that the chains are in."""
    link = there.served.house.link
    return b"\n".join([message.data async for _, message in link.each("CB_AUDIT", "cb.agent.audit.*", 0)])


async def everything_administered(me: Tenant, url: str) -> dict[str, dict[str, Any]]:
    """A good call of every tool that is written down, by the tool's name."""
    member, _ = await me.member()
    client, session, memory = await me.client(), await me.session(), await me.memory()
    export = (await me.wire.call("session_export", {"session_id": session})).value["export"]
    return {
        "tenant_update": {"title": "Another"},
        "user_invite": {"email": f"{SECRET}@a.example", "roles": ["viewer"]},
        "user_suspend": {"user_id": member},
        "role_assign": {"user_id": member, "roles": ["developer"]},
        "role_revoke": {"user_id": member, "roles": ["developer"]},
        "user_remove": {"user_id": member},
        "client_register": {"name": "Program", "roles": ["viewer"], "credentials": True},
        "client_revoke": {"client_id": client},
        "policy_set": {"name": "rule", "actions": ["delegate"], "when": {"agents": ["nobody"]}, "reason": SECRET},
        "policy_delete": {"name": "rule"},
        "provider_key_set": {"provider": PROVIDER, "key": SECRET},
        "provider_key_delete": {"provider": PROVIDER},
        "budget_set": {"scope": "tenant", "period": "day", "limit_tokens": 1000},
        "quota_set": {"scope": "tenant", "max_concurrent": 5},
        "tool_server_add": {
            "name": "peer",
            "transport": "http",
            "url": url,
            "auth": {"type": "bearer", "token": SECRET, "credentials": "user"},
        },
        "tool_server_authorize": {"name": "peer", "token": f"{SECRET}-2"},
        "tool_server_remove": {"name": "peer"},
        "memory_edit": {"memory_id": memory, "text": SECRET},
        "memory_erase": {"memory_id": memory},
        "session_create": {"agent": await me.twin(), "metadata": {"secret": SECRET}},
        "session_pin": {"session_id": session, "text": SECRET},
        "session_share": {"session_id": session, "who": "role:viewer"},
        "session_unshare": {"session_id": session, "who": "role:viewer"},
        "session_fork": {"session_id": session},
        "session_export": {"session_id": session},
        "session_import": {"agent": await me.twin(), "export": export},
        "session_suspend": {"session_id": session},
        "session_activate": {"session_id": session},
        "session_close": {"session_id": session},
        "session_delete": {"session_id": session},
    }


async def test_every_act_of_an_administrator_is_in_the_trail_and_no_secret_is(there: World) -> None:
    """One entry each, in order, with who and on what; not the keys, addresses, links and tokens that went past."""
    me, house = await there.tenant(), there.served.house
    async with served(mcp_app(good.server(), token=SECRET)) as port:
        calls = await everything_administered(me, f"http://127.0.0.1:{port}/mcp")
        everything = house.catalogue.view("all")
        assert everything is not None
        assert calls.keys() == {name for name, tool in everything.tools.items() if house.catalogue.written_down(tool)}
        before = (await trail(me))[0]["number"]
        given: list[str] = [me.wire.token, SECRET]
        for name, arguments in calls.items():
            value = (await me.wire.call(name, arguments)).value
            given += [value[part].rpartition(".")[2] for part in ("link", "client_secret") if part in value]
    assert len(given) == 4
    found = [each for each in await trail(me, limit=200) if each["number"] > before]
    assert [(each["act"], each["outcome"]) for each in reversed(found)] == [(name, "begun") for name in calls]
    assert {(each["subject"], each["client"]) for each in found} == {("operator", "mcp-agents-cli")}
    targets = {each["act"]: each["target"] for each in found}
    assert calls["user_remove"]["user_id"] in targets["user_remove"]
    assert "developer" in targets["role_assign"]
    stored = await raw(there)
    assert calls["user_remove"]["user_id"].encode() in stored
    assert not [secret for secret in given if secret.encode() in stored]
    assert (await me.wire.call("audit_verify", {})).value["whole"]


async def test_what_was_refused_is_there_with_the_reason(there: World) -> None:
    """And what was never allowed to begin is not: the door refused it before."""
    me = await there.tenant()
    await me.member()
    (admin,) = [each for each in (await me.wire.call("user_list", {})).value["members"] if "admin" in each["roles"]]
    refused = await me.wire.call("user_remove", {"user_id": admin["id"]})
    assert refused.error["code"] == "LAST_ADMIN"
    told = [(each["act"], each["outcome"], each["reason"]) for each in await trail(me, act="user_remove")]
    assert told == [("user_remove", "failed", "LAST_ADMIN"), ("user_remove", "begun", "")]
    assert (await me.wire.call("user_remove", {})).error["code"] == "ARGUMENTS_INVALID"
    assert len(await trail(me, act="user_remove")) == 2


async def test_what_cannot_be_written_down_is_not_done(there: World) -> None:
    """Behind a damaged trail nothing is administered; reading goes on, and says what is wrong."""
    me, house = await there.tenant(), there.served.house
    for number in range(3):
        await me.wire.call("tenant_update", {"title": f"Title {number}"})
    await house.link.api("STREAM.PURGE.CB_AUDIT", {"filter": f"cb.agent.audit.{me.name}"})
    house.services.audit._tips.clear()  # as after a restart
    refused = await me.wire.call("policy_set", {"name": "rule", "actions": ["delegate"], "when": {"agents": ["x"]}})
    assert refused.error["code"] == "AUDIT_DAMAGED"
    assert (await me.wire.call("policy_list", {})).value["policies"] == []
    verdict = (await me.wire.call("audit_verify", {})).value
    assert not verdict["whole"]
    assert verdict["problems"]
    other = await there.tenant()
    assert (await other.wire.call("tenant_update", {"title": "Fine"})).good


async def test_a_beginning_that_was_cut_away_shows(there: World) -> None:
    """The store itself refuses to remove single entries; what it lets go of from the front is missed."""
    me, house = await there.tenant(), there.served.house
    for number in range(4):
        await me.wire.call("tenant_update", {"title": f"Title {number}"})
    sequence = min([at async for at, _ in house.link.each("CB_AUDIT", f"cb.agent.audit.{me.name}", 0)])
    denied = await house.link.request("$JS.API.STREAM.MSG.DELETE.CB_AUDIT", json.dumps({"seq": sequence}).encode())
    assert b"error" in denied.data
    assert (await me.wire.call("audit_verify", {})).value["whole"]
    await house.link.api("STREAM.PURGE.CB_AUDIT", {"filter": f"cb.agent.audit.{me.name}", "keep": 2})
    assert not (await me.wire.call("audit_verify", {})).value["whole"]


async def test_filters_and_pages_of_the_trail(there: World) -> None:
    """By act, by person, page by page; another tenant's people find nothing."""
    me, other = await there.tenant(), await there.tenant()
    for number in range(5):
        await me.wire.call("tenant_update", {"title": f"Title {number}"})
    first = (await me.wire.call("audit_query", {"act": "tenant_", "limit": 2})).value
    second = (await me.wire.call("audit_query", {"act": "tenant_", "limit": 9, "cursor": first["next_cursor"]})).value
    assert [len(first["entries"]), len(second["entries"]), second["next_cursor"]] == [2, 3, 0]
    assert await trail(me, subject=fresh("nobody")) == []
    assert await trail(other, act="tenant_") == []
    assert len(await trail(me, subject="operator", limit=200)) == 6


async def test_the_platforms_trail_has_the_sign_ins(there: World) -> None:
    """Known and unknown people alike; the address that was tried is not in it."""
    users, audit = there.served.house.auth.users, there.served.house.auth.audit
    me = await there.tenant()
    member, address = await me.member()
    for tried in (address, f"{SECRET}@b.example"):
        with pytest.raises(Denied):
            await users.verify(tried, "not the password")
    newest, _ = await audit.entries(PLATFORM, Wanted(act="sign_in"), 2)
    assert [(each.subject, each.outcome, each.reason) for each in newest] == [
        ("unknown", "failed", "SIGN_IN_FAILED"),
        (member, "failed", "SIGN_IN_FAILED"),
    ]
    assert SECRET.encode() not in await raw(there)
    assert (await audit.verify(PLATFORM)).problems == ()
