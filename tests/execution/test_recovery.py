"""A run that its own living process has begun and lost hold of goes on: nobody else could take it."""

from pathlib import Path

import anyio
import pytest

from mcp_agents.execution.orders import Order
from mcp_agents.kernel import ids
from mcp_agents.kernel.events import START, Started
from tests.execution.scripted import CALLER, scripted
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
