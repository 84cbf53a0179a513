"""Every kind of client against everything that can happen to its call: nothing is lost in any cell.

One execution, one end, and the effects counted where they happen. The official client on a real server.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from mcp_agents.kernel.tasks import together
from tests.clients.cord import cord
from tests.clients.house import Asked, Workshop, workshop

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("era", ["modern", "legacy"]),
    pytest.mark.parametrize("progress", [True, False], ids=["progress", "silent"]),
    pytest.mark.parametrize("asks", [True, False], ids=["asks", "asks_nobody"]),
]


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Workshop]:
    """One house for all cells; each has an agent of its own."""
    async with workshop(tmp_path_factory.mktemp("matrix")) as opened:
        yield opened


class Heard(list[tuple[float, str]]):
    """The progress that a client was told of."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.append((progress, message or ""))


async def called(client: Client, tool: str, arguments: dict[str, Any], heard: Heard | None) -> dict[str, Any]:
    """The structured result of a tool that must succeed."""
    with anyio.fail_after(30):
        result = await client.call_tool(tool, arguments, progress_callback=heard)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def told(heard: Heard | None) -> None:
    """Progress grows within each request, and there was some where it was asked for."""
    if heard is not None:
        assert heard
        assert all(later > earlier or later == 1 for (earlier, _), (later, _) in pairwise(heard))


async def test_a_quick_run(house: Workshop, era: str, progress: bool, asks: bool) -> None:
    """It is answered in its own call."""
    run, heard = await house.run("quick"), Heard() if progress else None
    async with house.client(era, asked=Asked() if asks else None) as client:
        result = await called(client, "agent_execute", run.arguments, heard)
    assert result["status"] == "completed"
    told(heard)
    await house.whole(run)


async def test_a_long_run_is_handed_over_and_followed(house: Workshop, era: str, progress: bool, asks: bool) -> None:
    """The call is answered with the handle, a link and a sentence; execution_wait has the end."""
    run, heard = await house.run("long"), Heard() if progress else None
    async with house.client(era, asked=Asked() if asks else None) as client:
        with anyio.fail_after(30):
            first = await client.call_tool(
                "agent_execute", {**run.arguments, "wait_seconds": 0.3}, progress_callback=heard
            )
        handed = first.structured_content
        assert isinstance(handed, dict)
        assert (handed["status"], handed["next_step"]) == ("running", "Call execution_wait with this execution_id.")
        links = [part.uri for part in first.content if part.type == "resource_link"]
        assert links == [f"cb://executions/{handed['execution_id']}"]
        house.tools.open_turn(run.place, 1)
        last = await called(client, "execution_wait", {"execution_id": handed["execution_id"]}, heard)
    assert (last["status"], last["execution_id"]) == ("completed", handed["execution_id"])
    told(heard)
    await house.whole(run)


async def test_a_stream_is_cut_and_the_call_is_made_again(
    house: Workshop, era: str, progress: bool, asks: bool
) -> None:
    """Nobody cancelled anything: the run goes on, and the same call joins it."""
    run, heard = await house.run("long"), Heard() if progress else None
    asked = Asked() if asks else None
    async with cord(house.served.url) as line, together() as tasks:

        async def call() -> None:
            with suppress(MCPError, OSError, ExceptionGroup):
                async with house.client(era, asked=asked, url=line.url) as client:
                    await called(client, "agent_execute", run.arguments, heard)

        tasks.start_soon(call)
        execution_id = await house.until_called(run)
        line.cut()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(10):
        while execution_id not in await house.undelivered():
            await anyio.sleep(0.02)
    async with house.client(era, asked=asked) as client, together() as tasks:
        joined: list[dict[str, Any]] = []

        async def again() -> None:
            joined.append(await called(client, "agent_execute", run.arguments, heard))

        tasks.start_soon(again)
        house.tools.open_turn(run.place, 1)
    assert (joined[0]["status"], joined[0]["execution_id"]) == ("completed", execution_id)
    await house.whole(run)


async def test_a_call_is_cancelled(house: Workshop, era: str, progress: bool, asks: bool) -> None:
    """A notification ends the run at once. In the current era there is none: a closed stream detaches, and
    execution_cancel ends the run."""
    run, heard = await house.run("long"), Heard() if progress else None
    async with house.client(era, asked=Asked() if asks else None) as client:
        async with together() as tasks:
            tasks.start_soon(called, client, "agent_execute", run.arguments, heard)
            execution_id = await house.until_called(run)
            tasks.cancel_scope.cancel()
        if era == "modern":
            view = await called(client, "execution_get", {"execution_id": execution_id}, None)
            assert view["status"] == "running"
            await called(client, "execution_cancel", {"execution_id": execution_id}, None)
    assert await house.until_ended(execution_id) == "cancelled"
    house.tools.open_turn(run.place, 1)
    assert len(await house.executions(run)) == 1


async def test_a_question_is_asked(house: Workshop, era: str, progress: bool, asks: bool) -> None:
    """A client that shows questions has it answered within the call; another is told what it is and how to answer."""
    run, heard = await house.run("asking"), Heard() if progress else None
    asked = Asked() if asks else None
    async with house.client(era, asked=asked) as client:
        result = await called(client, "agent_execute", run.arguments, heard)
        if asked is None:
            assert result["status"] == "waiting"
            (question,) = result["questions"]
            assert "execution_resume" in result["next_step"]
            answer = {"question_id": question["id"], "content": {"happened": True, "result": "Order 17."}}
            await called(client, "execution_resume", {"execution_id": result["execution_id"], **answer}, None)
            result = await called(client, "execution_wait", {"execution_id": result["execution_id"]}, heard)
        else:
            assert len(asked.messages) == 1
    assert result["status"] == "completed"
    assert [(each["state"], each["result"]) for each in result["tool_calls"]] == [("done", "Order 17.")]
    told(heard)
    await house.whole(run)
