"""Finished runs: sealed, listed, read and summed up as before; given up, and requeued; shared with others."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.agents.spec import Agent
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import Run
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError, Exhausted
from mcp_agents.kernel.events import START, Failed, Problem, Started
from tests.execution.scripted import CALLER, Scripted, scripted
from tests.support.provider import Step

pytestmark = pytest.mark.anyio

USED = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


async def sealed(house: Scripted, execution_id: str) -> None:
    """Seals a run now."""
    await house.served.house.services.archive.seal(house.space, execution_id)
    assert execution_id not in await house.space.execution_ids()


async def test_a_sealed_run_reads_as_it_did_live(tmp_path: Path) -> None:
    """State, events, transcript and list are the same; its subject is empty."""
    async with scripted(tmp_path, Step(when="<q>", text="yes", usage=USED)) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        result = await house.run("worker", "<q>")
        execution_id = result["execution_id"]
        events, listed = await house.events(execution_id), await house.remote.call("execution_list", {})
        await sealed(house, execution_id)
        again = await house.remote.call("execution_get", {"execution_id": execution_id})
        assert again == result
        assert await house.events(execution_id) == events
        assert await house.remote.call("execution_list", {}) == listed
        waited = await house.remote.call("execution_wait", {"execution_id": execution_id})
        assert waited["text"] == "yes"
        cancelled = await house.remote.call("execution_cancel", {"execution_id": execution_id})
        assert cancelled["status"] == "completed"


async def test_a_call_with_the_key_of_a_sealed_run_joins_it(tmp_path: Path) -> None:
    """An emptied subject is not a run that may begin again."""
    async with scripted(tmp_path, Step(when="<q>", text="once")) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        first = await house.run("worker", "<q>", idempotency_key="k")
        await sealed(house, first["execution_id"])
        with anyio.fail_after(10):
            second = await house.run("worker", "<q>", idempotency_key="k")
    assert (second["execution_id"], second["text"]) == (first["execution_id"], "once")


async def test_lists_go_on_from_live_runs_to_sealed_ones(tmp_path: Path) -> None:
    """By page, newest first, each once."""
    async with scripted(tmp_path, Step(when="<q>", text="ok", times=7)) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        runs = [(await house.run("worker", "<q>"))["execution_id"] for _ in range(7)]
        for execution_id in (runs[0], runs[1], runs[4]):
            await sealed(house, execution_id)
        found: list[str] = []
        cursor = ""
        while True:
            page = await house.remote.call("execution_list", {"limit": 2, "cursor": cursor})
            found += [run["execution_id"] for run in page["executions"]]
            cursor = page["next_cursor"]
            if not cursor:
                break
    assert found == list(reversed(runs))


async def test_the_ledger_is_the_sum_of_the_runs(tmp_path: Path) -> None:
    """Sealed or live, each run counts once, to the micro-USD; estimates come from the same runs."""
    async with scripted(tmp_path, Step(when="<q>", text="ok", times=3, usage=USED)) as house:
        agent = await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        runs = [await house.run("worker", "<q>") for _ in range(3)]
        await sealed(house, runs[1]["execution_id"])
        report = await house.remote.call("usage_report", {"by": "agent"})
        estimate = await house.remote.call("execution_estimate", {"agent": "worker"})
        await house.remote.call("budget_set", {"scope": "tenant", "period": "day", "limit_micro_usd": 100})
        poor = await house.remote.call("execution_estimate", {"agent": "worker"})
    assert report["total"]["runs"] == 3
    assert report["total"]["cost_micro_usd"] == sum(run["cost_micro_usd"] for run in runs) == 3 * 600
    assert [line["group"] for line in report["lines"]] == [agent["id"]]
    assert (estimate["runs"], estimate["cost_micro_usd_p50"], estimate["cost_micro_usd_p90"]) == (3, 600, 600)
    assert estimate["fits"]
    assert not poor["fits"]


async def test_a_shared_result_is_context_of_another_run(tmp_path: Path) -> None:
    """The shared parts alone, as data; nothing without sharing, nothing after it was taken back."""
    steps = [Step(when="<a>", text="The answer is 42."), Step(when="<b>", text="I see.")]
    async with scripted(tmp_path, *steps) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        first = (await house.run("worker", "<a> secret", context={"own": 1}))["execution_id"]
        with pytest.raises(AgentsError, match="EXECUTION_NOT_SHARED"):
            await house.run("worker", "<b>", shared=[first])
        await house.remote.call("execution_share", {"execution_id": first, "parts": ["text"]})
        await house.run("worker", "<b>", shared=[first])
        seen = house.provider.requests[-1]["messages"][-1]["content"]
        await house.remote.call("execution_share", {"execution_id": first, "parts": []})
        with pytest.raises(AgentsError, match="EXECUTION_NOT_SHARED"):
            await house.run("worker", "<b>", shared=[first])
    assert "The answer is 42." in seen
    assert "secret" not in seen


async def given_up(house: Scripted) -> str:
    """A run that lost its worker too often, as its last worker leaves it."""
    order = Order(agent="worker", prompt="<q>", submitted=True)
    agent: Agent = (await house.served.house.services.agents.get(house.space, "worker")).value
    execution_id = ids.mint("ex", house.served.house.tenancy.clock)
    problem = Problem.of(Exhausted("ATTEMPTS_EXHAUSTED", "It lost its worker 5 times.", "Look at it."))
    log = house.space.log(execution_id)
    _, entries = await log.append(
        START, [order.requested(agent, CALLER), Started(worker="w", attempt=5), Failed(problem=problem)]
    )
    await house.served.house.services.archive.ended(house.space, Run.folded(execution_id, entries))
    return execution_id


async def test_a_dead_letter_is_listed_and_requeued_once(tmp_path: Path) -> None:
    """Requeueing twice joins the same new run; the letter says which."""
    async with scripted(tmp_path, Step(when="<q>", text="alive")) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        execution_id = await given_up(house)
        listed: dict[str, Any] = await house.remote.call("dead_letter_list", {})
        assert [letter["execution_id"] for letter in listed["dead_letters"]] == [execution_id]
        first = await house.remote.call("dead_letter_requeue", {"execution_id": execution_id})
        second = await house.remote.call("dead_letter_requeue", {"execution_id": execution_id})
        assert first["execution_id"] == second["execution_id"] != execution_id
        result = await house.remote.call("execution_wait", {"execution_id": first["execution_id"]})
        assert result["text"] == "alive"
        letters = (await house.remote.call("dead_letter_list", {}))["dead_letters"]
        assert letters[0]["requeued_as"] == first["execution_id"]
        with pytest.raises(AgentsError, match="DEAD_LETTER_UNKNOWN"):
            await house.remote.call("dead_letter_requeue", {"execution_id": first["execution_id"]})
