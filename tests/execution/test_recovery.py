"""What a lost process left behind is found behind any number of ended runs, once, and although the store goes away."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.execution.orders import Order
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Exhausted, Unavailable
from mcp_agents.kernel.events import START, AnyEvent, Completed, Entry, Failed, Problem, Started, Tip
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import ExecutionLog, Tenancy, TenantSpace
from tests.execution.scripted import CALLER, Scripted, scripted
from tests.support.provider import Step

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("by", ["recovery", "a job"])
async def test_a_run_that_nobody_has_in_hand_goes_on(tmp_path: Path, by: str) -> None:
    """As it is left where the store's answer to its beginning never came: begun in the log, and in no hand."""
    async with scripted(tmp_path, Step(when="<q>", text="found")) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        opened = house.served.house
        agent = (await opened.services.agents.get(house.space, "worker")).value
        execution_id = ids.mint("ex", opened.tenancy.clock)
        requested = Order(agent=agent.id, prompt="<q>").requested(agent, CALLER)
        begun = Started(worker=opened.crew.station.name, attempt=1)
        await house.space.log(execution_id).append(START, [requested, begun])
        if by == "recovery":
            assert await opened.crew.recovery.recover() == 1
        else:
            await house.space.enqueue(agent.id, execution_id, occasion="asked")
        with anyio.fail_after(20):
            result = await house.remote.call("execution_wait", {"execution_id": execution_id})
        assert (result["status"], result["text"]) == ("completed", "found")


async def left(house: Scripted, *events: AnyEvent) -> str:
    """A run of the agent `worker` as a lost process left it: its request, and these events."""
    opened = house.served.house
    agent = (await opened.services.agents.get(house.space, "worker")).value
    execution_id = ids.mint("ex", opened.tenancy.clock)
    requested = Order(agent=agent.id, prompt="<q>").requested(agent, CALLER)
    await house.space.log(execution_id).append(START, [requested, *events])
    return execution_id


async def test_a_run_that_has_its_end_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often recovery looks: a lost run does not wait behind those that ended."""
    read: list[str] = []
    reading = ExecutionLog.read

    async def noted(log: ExecutionLog) -> tuple[Tip, list[Entry]]:
        tip, entries = await reading(log)
        read.extend(type(entries[-1].event).__name__ for _ in entries[:1])
        return tip, entries

    async with scripted(tmp_path, workers=0) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        began = Started(worker="lost-1-a", attempt=1)
        for _ in range(3):
            await left(house, began, Completed(text="done"))
        lost = await left(house, began)
        monkeypatch.setattr(ExecutionLog, "read", noted)
        recovery = house.served.house.crew.recovery
        assert await recovery.recover() == 1
        assert await recovery.recover() == 1
        assert sorted(read) == ["Completed"] * 3 + ["Started"] * 2
        queued = await house.space.queued()
    assert queued == 1, f"{lost} is queued once however often it is found"


async def test_what_an_end_sets_off_is_made_up_for(tmp_path: Path) -> None:
    """A process that was lost between the end of a run and the list of dead letters."""
    async with scripted(tmp_path) as house:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        problem = Problem.of(Exhausted("ATTEMPTS_EXHAUSTED", "It lost its worker 5 times.", "Look at it."))
        execution_id = await left(house, Started(worker="lost-1-a", attempt=5), Failed(problem=problem))
        listed: list[dict[str, Any]] = []
        await house.served.house.crew.recovery.recover()
        with anyio.fail_after(20):
            while not listed:
                listed = (await house.remote.call("dead_letter_list", {}))["dead_letters"]
        assert [letter["execution_id"] for letter in listed] == [execution_id]


async def test_a_recovery_that_the_store_broke_off_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the next look, and not with the next loss."""
    looking = Tenancy.live_logs
    broken: list[Tenancy] = []

    async def away_once(tenancy: Tenancy) -> list[tuple[TenantSpace, str]]:
        if not broken:
            broken.append(tenancy)
            raise Unavailable("STORE_UNAVAILABLE", "The store does not answer.")
        return await looking(tenancy)

    async with scripted(tmp_path, workers=0) as house, background() as tasks:
        await house.remote.call("agent_create", {"name": "worker", "virtual_model": "scripted"})
        await left(house, Started(worker="lost-1-a", attempt=1))
        monkeypatch.setattr(Tenancy, "live_logs", away_once)
        tasks.start_soon(house.served.house.crew.recovery.work)
        with anyio.fail_after(20):
            while not await house.space.queued():
                await anyio.sleep(0.05)
    assert broken
