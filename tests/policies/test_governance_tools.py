"""The policy tools over the wire: setting, trying, explaining, versions; what the lists of a caller show."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_agents.kernel.errors import AgentsError
from mcp_agents.server.cli.remote import Remote
from tests.hostile.wire import ERAS, Era, Wire, browserless
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A house."""
    async with served(tmp_path) as running:
        yield running


@pytest.fixture
async def remote(server: Served) -> AsyncIterator[Remote]:
    """A client with every right of the tenant."""
    async with server.remote("acme") as opened:
        yield opened


NO_FETCH: dict[str, Any] = {"name": "no-fetch", "actions": ["call_tool"], "when": {"resources": ["web/*"]}}
FETCH = {"action": "call_tool", "resource": "web/fetch"}


async def refused(remote: Remote, tool: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """The code and the sentence a call is refused with."""
    with pytest.raises(AgentsError) as refusal:
        await remote.call(tool, arguments)
    return refusal.value.code, refusal.value.public


async def test_a_policy_is_set_read_listed_and_deleted(remote: Remote) -> None:
    """Versions count, an old revision is refused, and a deleted policy can be restored."""
    made = await remote.call("policy_set", {**NO_FETCH, "reason": "offline", "expected_version": 0})
    assert (made["stored"], made["policy"]["version"]) == (True, 1)
    code, _ = await refused(remote, "policy_set", {**NO_FETCH, "effect": "close", "expected_version": 0})
    assert code == "REVISION_CONFLICT"
    await remote.call("policy_set", {**NO_FETCH, "when": {"resources": ["web/get"]}, "expected_version": 1})
    now = await remote.call("policy_get", {"name": "no-fetch"})
    assert now["rule"]["when"] == {"resources": ["web/get"]}
    first = await remote.call("policy_get", {"name": "no-fetch", "version": 1})
    assert first["rule"]["reason"] == "offline"
    page = await remote.call("policy_list", {})
    assert ([each["name"] for each in page["policies"]], page["next_cursor"]) == (["no-fetch"], 0)
    await remote.call("policy_delete", {"name": "no-fetch", "expected_version": 2})
    assert (await refused(remote, "policy_get", {"name": "no-fetch"}))[0] == "POLICY_UNKNOWN"
    back = await remote.call("policy_set", {"name": "no-fetch", "restore_version": 1})
    assert (back["policy"]["version"], back["policy"]["rule"]) == (4, first["rule"])


async def test_a_dry_run_changes_nothing_and_shows_what_would(remote: Remote) -> None:
    """Each example before and after, with the rule that decides."""
    other = {"action": "call_tool", "resource": "mail/send"}
    tried = await remote.call("policy_set", {**NO_FETCH, "dry_run": True, "examples": [FETCH, other]})
    assert not tried["stored"]
    assert [(each["before"]["effect"], each["after"]["effect"]) for each in tried["examples"]] == [
        ("allow", "deny"),
        ("allow", "allow"),
    ]
    assert tried["examples"][0]["after"]["policies"] == ["no-fetch"]
    assert (await remote.call("policy_list", {}))["policies"] == []
    assert (await remote.call("policy_explain", FETCH))["effect"] == "allow"


async def test_a_decision_is_explained(remote: Remote) -> None:
    """For the caller, and for whom the caller asks about."""
    await remote.call("policy_set", {**NO_FETCH, "when": {"roles": ["viewer"]}, "reason": "viewers only look"})
    assert (await remote.call("policy_explain", {**FETCH, "roles": ["operator"]}))["effect"] == "allow"
    found = await remote.call("policy_explain", {**FETCH, "roles": ["viewer"], "user": "us_x"})
    assert (found["effect"], found["policies"]) == ("deny", ["no-fetch"])
    assert "viewers only look" in found["why"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "No Good", "actions": ["call_tool"]}, "name"),
        ({"name": "p"}, "forbids everything"),
        ({"name": "p", "effect": "ask", "actions": ["use_model"]}, "tools"),
        ({"name": "p", "cedar": "permit(principal"}, "Cedar"),
        ({"name": "p", "actions": ["call_tool"], "when": {"tools": ["x"]}}, "tools"),
        ({"name": "p", "actions": ["fly"]}, "actions"),
        ({"name": "p", "restore_version": 3}, "no such policy"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_with_what_is_wrong(
    remote: Remote, arguments: dict[str, Any], says: str
) -> None:
    """Nothing is stored."""
    _, sentence = await refused(remote, "policy_set", arguments)
    assert says in sentence
    assert (await remote.call("policy_list", {}))["policies"] == []


async def test_what_policies_take_away_is_neither_listed_nor_called(server: Served, remote: Remote) -> None:
    """Tools, resources and prompts, in both eras; the list and the call ask the same."""
    made = await remote.call("agent_create", {"name": "worker"})
    await remote.call(
        "policy_set",
        {
            "name": "hands-off",
            "actions": ["use_tool"],
            "when": {"resources": ["agent_d*", "cb://agents/*", "design_*"]},
        },
    )
    async with browserless() as http:
        token = (await server.house.auth.tokens.issue_direct("acme")).access_token
        wire = Wire(http, server.url, token)
        for era in ERAS:
            shown = await all_names(wire, era)
            assert "agent_get" in shown
            assert "agent_delete" not in shown
            assert "cb://agents/{id}" not in shown
            assert "design_agent" not in shown
            called = await wire.call("agent_delete", {"agent": "worker"}, era=era)
            assert called.error["code"] == "POLICY_DENIED"
            assert not (await wire.read(f"cb://agents/{made['id']}", era)).good
            prompt = await wire.ask("prompts/get", {"name": "design_agent", "arguments": {"goal": "x"}}, era=era)
            assert not prompt.good
    assert (await remote.call("agent_get", {"agent": "worker"}))["id"] == made["id"]


async def all_names(wire: Wire, era: Era) -> set[str]:
    """Everything that is listed."""
    tools = await wire.listed("tools/list", "tools", era=era)
    templates = await wire.listed("resources/templates/list", "resourceTemplates", era=era)
    prompts = await wire.listed("prompts/list", "prompts", era=era)
    return {each.get("name", "") for each in (*tools, *prompts)} | {each["uriTemplate"] for each in templates}


async def test_no_rule_locks_out_whoever_may_change_rules(remote: Remote) -> None:
    """A rule against everything can be taken back."""
    await remote.call("policy_set", {"name": "all", "cedar": "forbid(principal, action, resource);"})
    assert (await refused(remote, "agent_list", {}))[0] == "POLICY_DENIED"
    assert [each["name"] for each in (await remote.call("policy_list", {}))["policies"]] == ["all"]
    await remote.call("policy_delete", {"name": "all"})
    assert (await remote.call("agent_list", {}))["agents"] == []


async def test_a_host_that_is_off_limits_gets_no_tool_server(remote: Remote) -> None:
    """It is not even connected to."""
    await remote.call("policy_set", {"name": "net", "actions": ["reach_network"], "when": {"resources": ["127.*"]}})
    spec = {"name": "far", "transport": "http", "url": "http://127.0.0.1:9/mcp"}
    assert (await refused(remote, "tool_server_add", spec))[0] == "POLICY_DENIED"


async def test_policies_need_their_own_scopes(server: Served, remote: Remote) -> None:
    """Reading and changing are two rights; a refusal says what to step up to."""
    await remote.call("policy_set", NO_FETCH)
    async with browserless() as http:
        wire = Wire(http, server.url, await server.token("acme", "governance:read"))
        assert (await wire.call("policy_get", {"name": "no-fetch"})).value["version"] == 1
        refusal = await wire.call("policy_delete", {"name": "no-fetch"})
        assert refusal.status == 403
        assert "governance:admin" in refusal.challenge
    assert (await remote.call("policy_get", {"name": "no-fetch"}))["version"] == 1
