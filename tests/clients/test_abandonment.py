"""A run that nobody follows or reads is cancelled after a while, whichever process its caller was lost with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.execution.abandonment import Abandonment
from mcp_agents.execution.attention import Attention
from mcp_agents.kernel.events import Cancelled
from mcp_agents.kernel.tasks import together
from tests.clients.house import Run, Workshop, workshop
from tests.support.clock import AheadClock

pytestmark = pytest.mark.anyio

AFTER = 120
TOUCH = 30


@dataclass(frozen=True)
class Left:
    """A house whose time the test owns, and somebody who looks for abandoned runs."""

    house: Workshop
    clock: AheadClock
    client: Any

    async def sweep(self) -> int:
        """As another process does it, which follows nothing and remembers nothing."""
        opened = self.house.served.house
        attention = Attention(self.clock, AFTER)
        return await Abandonment(opened.tenancy, attention, opened.services.dispatcher).sweep()

    async def called(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The structured result of a tool that must succeed."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        structured: dict[str, Any] = result.structured_content
        return structured

    async def handed_over(self, run: Run, **more: Any) -> str:
        """Starts the run and leaves it on its way; its execution."""
        asked = {**run.arguments, "wait_seconds": 0.05, **more}
        await self.called("agent_execute", asked)
        return await self.house.until_called(run)


@asynccontextmanager
async def left(folder: Path, **executions: Any) -> AsyncIterator[Left]:
    """A house with a clock that can be advanced."""
    clock = AheadClock()
    async with (
        workshop(folder, clock=clock, executions=executions) as house,
        house.client("modern") as client,
    ):
        yield Left(house, clock, client)


async def test_a_run_that_is_left_alone_is_cancelled(tmp_path: Path) -> None:
    """Not before its time is over, and with a reason that says why."""
    async with left(tmp_path) as at:
        execution_id = await at.handed_over(await at.house.run("long"))
        at.clock.advance(AFTER - 10)
        assert await at.sweep() == 0
        at.clock.advance(TOUCH + 20)
        assert await at.sweep() == 1
        *_, final = await at.house.entries(execution_id)
        assert isinstance(final.event, Cancelled)
        assert (final.event.by, final.event.reason) == ("mcp-agents", "abandoned")
        assert await at.sweep() == 0


async def test_a_read_and_a_follower_keep_it(tmp_path: Path) -> None:
    """Each counts from its own moment, in every process; who still follows is asked again and again."""
    async with left(tmp_path) as at:
        run = await at.house.run("long")
        execution_id = await at.handed_over(run)
        for tool in ("execution_get", "execution_events"):
            at.clock.advance(AFTER - 10)
            await at.called(tool, {"execution_id": execution_id})
        at.clock.advance(AFTER - 10)
        assert await at.sweep() == 0
        attention = at.house.served.house.services.dispatcher._attention
        async with together() as tasks:
            tasks.start_soon(at.called, "execution_wait", {"execution_id": execution_id})
            with anyio.fail_after(10):
                while not attention._followed:
                    await anyio.sleep(0.01)
            for _ in range(5):
                at.clock.advance(TOUCH)
                await attention.keep()
                assert await at.sweep() == 0
            at.house.tools.open_turn(run.place, 1)
        await at.house.whole(run)


async def test_a_call_that_is_made_again_keeps_it(tmp_path: Path) -> None:
    """Within five minutes the same call joins the run that lost its caller."""
    async with left(tmp_path) as at:
        run = await at.house.run("long")
        first = await at.handed_over(run)
        at.clock.advance(AFTER - 10)
        assert await at.handed_over(run) == first
        at.clock.advance(AFTER - 10)
        assert await at.sweep() == 0
        at.house.tools.open_turn(run.place, 1)
        await at.house.whole(run)


async def test_a_run_whose_front_end_died_is_abandoned_too(tmp_path: Path) -> None:
    """Nothing was written about its caller: the moment in which it was accepted counts."""
    async with left(tmp_path) as at:
        run = await at.house.run("long")
        attention = at.house.served.house.services.dispatcher._attention
        attention.after = 0  # as of a process that had no time to say anything
        execution_id = await at.handed_over(run)
        attention.after = AFTER
        at.clock.advance(AFTER + TOUCH + 1)
        assert await at.sweep() == 1
        assert await at.house.until_ended(execution_id) == "cancelled"


async def test_the_same_call_after_that_is_a_new_run(tmp_path: Path) -> None:
    """Nobody asks again for a run that was called off."""
    async with left(tmp_path) as at:
        run = await at.house.run("long")
        first = await at.handed_over(run)
        at.clock.advance(AFTER + TOUCH + 1)
        assert await at.sweep() == 1
        at.house.tools.open_turn(run.place, 1)
        again = await at.called("agent_execute", run.arguments)
        assert again["execution_id"] != first
        assert again["status"] == "completed"


async def test_what_was_submitted_or_waits_for_a_person_goes_on(tmp_path: Path) -> None:
    """The one was meant to run alone, the other has the time of whoever is asked."""
    async with left(tmp_path) as at:
        run, asking = await at.house.run("long"), await at.house.run("asking")
        await at.called("agent_submit", run.arguments)
        await at.house.until_called(run)
        waiting = await at.called("agent_execute", asking.arguments)
        assert waiting["status"] == "waiting"
        at.clock.advance(10 * AFTER)
        assert await at.sweep() == 0
        answer = {"content": {"happened": True, "result": "Order 17."}}
        await at.called("execution_resume", {"execution_id": waiting["execution_id"], **answer})
        at.house.tools.open_turn(run.place, 1)
        await at.house.whole(run)
        await at.house.whole(asking)


async def test_zero_means_never(tmp_path: Path) -> None:
    """Neither looked for nor written about."""
    async with left(tmp_path, abandon_after_seconds=0) as at:
        run = await at.house.run("long")
        await at.handed_over(run)
        at.clock.advance(100 * AFTER)
        assert await at.house.served.house.crew.abandonment.sweep() == 0
        assert not await at.house.served.house.services.dispatcher._attention.until(at.house.space)
        at.house.tools.open_turn(run.place, 1)
        await at.house.whole(run)


async def test_a_quick_run_writes_nothing_about_its_caller(tmp_path: Path) -> None:
    """What everybody pays for would be too dear."""
    async with left(tmp_path) as at:
        run = await at.house.run("quick")
        assert (await at.called("agent_execute", run.arguments))["status"] == "completed"
        assert not await at.house.served.house.services.dispatcher._attention.until(at.house.space)
