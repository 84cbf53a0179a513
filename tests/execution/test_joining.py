"""A call that is sent again because its answer was lost joins the run it started; any other is a run of its own."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.execution.orders import Order
from tests.execution.scripted import CALLER, Scripted, scripted
from tests.support.provider import Step

pytestmark = pytest.mark.anyio


async def abandoned(house: Scripted, order: Order) -> str:
    """A call whose caller is lost while the model is still answering: the run's id."""
    dispatcher = house.served.house.services.dispatcher
    async with dispatcher.execute(house.space, CALLER, order, deltas=False) as (execution_id, _):
        await house.provider.until(lambda counts: counts.holding == 1)
    return execution_id


async def answered(house: Scripted, order: Order) -> str:
    """A call that is waited for to its end: the run's id."""
    dispatcher = house.served.house.services.dispatcher
    with anyio.fail_after(20):
        async with dispatcher.execute(house.space, CALLER, order, deltas=False) as (execution_id, updates):
            async for _ in updates:
                pass
    return execution_id


async def agent(house: Scripted) -> None:
    await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})


async def test_a_call_whose_caller_was_lost_is_joined_while_it_runs_and_once(tmp_path: Path) -> None:
    """The second call follows the first one's run from its start; the third, after the answer, is a new run."""
    steps = [Step(when="<q>", text="first", hold="q"), Step(when="<q>", text="second")]
    async with scripted(tmp_path, *steps) as house:
        await agent(house)
        order = Order(agent="worker", prompt="<q>")
        first = await abandoned(house, order)
        async with anyio.create_task_group() as tasks:
            joined: list[str] = []

            async def again() -> None:
                joined.append(await answered(house, order))

            tasks.start_soon(again)
            house.provider.release("q")
        assert joined == [first]
        assert await answered(house, order) != first


async def test_a_call_whose_caller_was_lost_is_joined_after_its_end(tmp_path: Path) -> None:
    """The answer waits for five minutes; it is bought once."""
    async with scripted(tmp_path, Step(when="<q>", text="once", hold="q")) as house:
        await agent(house)
        order = Order(agent="worker", prompt="<q>")
        first = await abandoned(house, order)
        house.provider.release("q")
        await house.remote.call("execution_wait", {"execution_id": first})
        assert await answered(house, order) == first


@pytest.mark.parametrize("other", [{"prompt": "<q> "}, {"context": 1}, {"overrides": {"temperature": 0.5}}])
async def test_another_request_is_another_run(tmp_path: Path, other: dict[str, Any]) -> None:
    """Only the same arguments are the same call."""
    steps = [Step(when="<q>", text="first", hold="q"), Step(when="<q>", text="second")]
    async with scripted(tmp_path, *steps) as house:
        await agent(house)
        first = await abandoned(house, Order(agent="worker", prompt="<q>"))
        changed = Order(**{"agent": "worker", "prompt": "<q>", **other})
        assert await answered(house, changed) != first
        house.provider.release("q")
        await house.remote.call("execution_wait", {"execution_id": first})


async def test_another_version_of_the_agent_is_another_run(tmp_path: Path) -> None:
    """What was asked of an agent that has changed since is not what is asked now."""
    steps = [Step(when="<q>", text="first", hold="q"), Step(when="<q>", text="second")]
    async with scripted(tmp_path, *steps) as house:
        await agent(house)
        order = Order(agent="worker", prompt="<q>")
        first = await abandoned(house, order)
        await house.remote.call("agent_update", {"agent": "worker", "system_prompt": "Be brief."})
        assert await answered(house, order) != first
        house.provider.release("q")
        await house.remote.call("execution_wait", {"execution_id": first})


async def test_two_calls_that_are_both_waited_for_are_two_runs(tmp_path: Path) -> None:
    """Asking the same thing twice at once is meant."""
    steps = [Step(when="<q>", text="one", hold="q"), Step(when="<q>", text="two", hold="q")]
    async with scripted(tmp_path, *steps) as house:
        await agent(house)
        found: list[str] = []

        async def one() -> None:
            found.append(await answered(house, Order(agent="worker", prompt="<q>")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            tasks.start_soon(one)
            await house.provider.until(lambda counts: counts.holding == 2)
            house.provider.release("q")
    assert len(set(found)) == 2
