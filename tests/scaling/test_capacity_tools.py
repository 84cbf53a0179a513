"""The tools of the plugin `capacity`, over the wire."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.scaling.budgets import Payers
from mcp_agents.scaling.slots import Slots
from mcp_agents.scaling.window import Spend
from mcp_agents.server.cli.remote import Remote
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio

TENANT = "acme"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A house."""
    async with served(tmp_path_factory.mktemp("capacity")) as running:
        yield running


@pytest.fixture
async def remote(server: Served) -> AsyncIterator[Remote]:
    """A client with every right of the tenant."""
    async with server.remote(TENANT) as opened:
        yield opened


async def refused(remote: Remote, tool: str, arguments: dict[str, Any]) -> str:
    """The code a call is refused with."""
    with pytest.raises(AgentsError) as refusal:
        await remote.call(tool, arguments)
    return refusal.value.code


async def test_a_budget_by_its_agents_name(server: Served, remote: Remote) -> None:
    """Set by name, shown by id, with what its window holds; removed without limits, even when the agent is gone."""
    agent = await remote.call("agent_create", {"name": "spender"})
    place = {"scope": "agent", "subject": "spender", "period": "month"}
    made = await remote.call("budget_set", {**place, "limit_micro_usd": 100, "warn_at": [0.9, 0.5]})
    assert (made["budget"]["subject"], made["budget"]["warn_at"]) == (agent["id"], [0.5, 0.9])
    house = server.house
    space = house.tenancy.of(Principal(tenant=TENANT, subject="s", scopes=TENANT_SCOPES))
    payers, budgets = Payers(user="s", agent=agent["id"]), house.services.budgets
    for turn in (1, 2):
        await budgets.reserve(space, payers, "ex_1", turn, Spend(40, 7), priced=True, patience=0)
    await budgets.settle(space, payers, "ex_1", 1, Spend(55, 5))
    page = await remote.call("budget_get", {"scope": "agent", "subject": "spender"})
    (shown,) = page["budgets"]
    assert shown["limit"] == {"micro_usd": 100, "tokens": None}
    assert shown["settled"] == {"micro_usd": 55, "tokens": 5}
    assert shown["reserved"] == {"micro_usd": 40, "tokens": 7}
    assert shown["left"] == {"micro_usd": 5, "tokens": None}
    assert shown["warnings"] == [0.5]
    assert shown["window_start"] < shown["window_end"]
    assert page["revision"] == made["revision"]
    await remote.call("agent_delete", {"agent": agent["id"]})
    gone = await remote.call("budget_set", {**place, "subject": agent["id"], "expected_revision": made["revision"]})
    assert gone["budget"] is None
    assert (await remote.call("budget_get", {"scope": "agent"}))["budgets"] == []


async def test_budgets_come_by_page(remote: Remote) -> None:
    """In one order, each once."""
    for number in range(5):
        await remote.call(
            "budget_set", {"scope": "user", "subject": f"u{number}", "period": "total", "limit_tokens": 1}
        )
    seen, cursor = [], 0
    while True:
        page = await remote.call("budget_get", {"scope": "user", "cursor": cursor, "limit": 2})
        seen += [budget["subject"] for budget in page["budgets"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert seen == [f"u{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("budget_set", {"scope": "tenant", "subject": "ann", "period": "day", "limit_tokens": 1}, "SUBJECT_INVALID"),
        ("budget_set", {"scope": "agent", "period": "day", "limit_tokens": 1}, "SUBJECT_INVALID"),
        ("budget_set", {"scope": "agent", "subject": "nobody", "period": "day", "limit_tokens": 1}, "AGENT_UNKNOWN"),
        ("budget_set", {"scope": "tenant", "period": "day", "limit_micro_usd": -1}, "ARGUMENTS_INVALID"),
        ("budget_set", {"scope": "tenant", "period": "day", "warn_at": [1.1]}, "ARGUMENTS_INVALID"),
        ("budget_set", {"scope": "tenant", "period": "day", "expected_revision": 10**9}, "REVISION_CONFLICT"),
        ("quota_set", {"scope": "tenant", "subject": "ann"}, "SUBJECT_INVALID"),
        ("quota_set", {"scope": "agent"}, "SUBJECT_INVALID"),
        ("quota_set", {"scope": "agent", "subject": "nobody"}, "AGENT_UNKNOWN"),
        ("quota_set", {"scope": "tenant", "weight": 0}, "ARGUMENTS_INVALID"),
        ("quota_set", {"scope": "tenant", "weight": 2}, "INSUFFICIENT_SCOPE"),
    ],
)
async def test_what_makes_no_sense_is_refused(remote: Remote, tool: str, arguments: dict[str, Any], code: str) -> None:
    """With the code that the page of errors has for it."""
    assert await refused(remote, tool, arguments) == code


async def test_quotas_are_shown_with_the_runs_that_go(server: Served, remote: Remote) -> None:
    """Of the tenant and of an agent; what has no limit is not counted."""
    agent = await remote.call("agent_create", {"name": "runner"})
    await remote.call("quota_set", {"scope": "tenant", "max_concurrent": 10})
    made = await remote.call("quota_set", {"scope": "agent", "subject": "runner", "max_queued": 5, "weight": 4})
    assert made["quota"]["subject"] == agent["id"]
    house = server.house
    slots = Slots(house.tenancy.clock, house.services.quotas)
    space = house.tenancy.of(Principal(tenant=TENANT, subject="s", scopes=TENANT_SCOPES))
    assert await slots.take(space, agent["id"])
    await slots.keep()
    page = await remote.call("quota_get", {})
    shown = {quota["scope"]: quota for quota in page["quotas"]}
    assert (shown["tenant"]["max_concurrent"], shown["tenant"]["running"]) == (10, 1)
    assert (shown["agent"]["max_queued"], shown["agent"]["weight"], shown["agent"]["running"]) == (5, 4, None)
    (only,) = (await remote.call("quota_get", {"subject": "runner"}))["quotas"]
    assert only == shown["agent"]
    await remote.call("quota_set", {"scope": "agent", "subject": "runner", "expected_revision": page["revision"]})
    assert (await remote.call("quota_get", {"scope": "agent"}))["quotas"] == []


async def test_an_agents_limits_on_cost_tokens_depth_and_children_are_kept(remote: Remote) -> None:
    """What was written is read back; left out, nothing is limited."""
    given = {"max_cost_micro_usd": 5, "max_total_tokens": 7, "max_depth": 2, "max_children": 3}
    bounded = await remote.call("agent_create", {"name": "bounded", "limits": given})
    assert {name: bounded["limits"][name] for name in given} == given
    free = (await remote.call("agent_create", {"name": "free"}))["limits"]
    assert (free["max_cost_micro_usd"], free["max_total_tokens"]) == (None, None)


@pytest.mark.parametrize("scope", ["tenant", "agent"])
async def test_a_quota_bounds_what_waits(scope: str, tmp_path: Path) -> None:
    """Of the tenant, or of one agent among others, whatever the priorities; what runs or waits elsewhere is let be."""
    async with served(tmp_path, workers=0) as idle, idle.remote(TENANT) as remote:
        for agent in ("one", "other"):
            await remote.call("agent_create", {"name": agent})
        await remote.call("agent_submit", {"agent": "other", "prompt": "Wait."})
        bound = {"tenant": {}, "agent": {"subject": "one"}}[scope]
        await remote.call("quota_set", {"scope": scope, "max_queued": 3, **bound})
        for priority in ("normal", "high", "low")[: 2 if scope == "tenant" else 3]:
            await remote.call("agent_submit", {"agent": "one", "prompt": "Wait.", "priority": priority})
        full = {"agent": "one", "prompt": "Wait."}
        assert await refused(remote, "agent_submit", full) == "QUEUE_FULL"
        if scope == "agent":
            await remote.call("agent_submit", {"agent": "other", "prompt": "Wait."})
