"""Clients that know the tasks extension: the same one execution, one end and one effect; asking for it keeps it."""

from pathlib import Path

import anyio
import pytest

from mcp_agents.execution.abandonment import Abandonment
from mcp_agents.execution.attention import Attention
from mcp_agents.kernel.tasks import together
from tests.clients.house import workshop
from tests.server.test_tasks import Claiming
from tests.support.clock import AheadClock

pytestmark = pytest.mark.anyio

AFTER = 120


@pytest.mark.parametrize("kind", ["quick", "long"])
async def test_a_task_is_one_run(tmp_path: Path, kind: str) -> None:
    """The client sees only the result, whatever lies between."""
    async with workshop(tmp_path) as house:
        run = await house.run(kind)
        house.tools.open_turn(run.place, 1)
        async with house.client("modern", extensions=[Claiming()]) as client:
            with anyio.fail_after(30):
                result = await client.call_tool("agent_execute", run.arguments)
        assert (result.structured_content or {})["status"] == "completed"
        await house.whole(run)


async def test_a_task_that_is_asked_for_is_kept_and_another_is_abandoned(tmp_path: Path) -> None:
    """Polling is reading; a client that stops polling is one that was lost."""
    clock = AheadClock()
    async with workshop(tmp_path, clock=clock) as house:
        run = await house.run("long")
        opened = house.served.house

        async def sweep() -> int:
            return await Abandonment(opened.tenancy, Attention(clock, AFTER), opened.services.dispatcher).sweep()

        polling = Claiming()
        async with house.client("modern", extensions=[polling]) as client, together() as tasks:
            tasks.start_soon(client.call_tool, "agent_execute", run.arguments)
            execution_id = await house.until_called(run)
            for _ in range(3):
                clock.advance(AFTER - 10)
                seen = polling.polls
                with anyio.fail_after(20):
                    while polling.polls < seen + 2:
                        await anyio.sleep(0.02)
                assert await sweep() == 0
            tasks.cancel_scope.cancel()
        clock.advance(2 * AFTER)
        assert await sweep() == 1
        assert await house.until_ended(execution_id) == "cancelled"
        house.tools.open_turn(run.place, 1)
