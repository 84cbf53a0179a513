"""Who takes a call back in so many words ends its run; who only goes away does not. On every wire there is."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from mcp_agents.kernel.tasks import together
from tests.clients.house import workshop
from tests.support.counted_tools import CountedTools

pytestmark = pytest.mark.anyio

PROMPT = "call counted__record_in_turn with " + json.dumps({"place": "here", "turn": 1})


class Heard:
    """Says when a call was heard of for the first time."""

    def __init__(self) -> None:
        self.first = anyio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.first.set()


async def called(client: Client, tool: str, arguments: dict[str, Any], heard: Heard | None = None) -> dict[str, Any]:
    """The structured result of a tool that must succeed."""
    with anyio.fail_after(30):
        result = await client.call_tool(tool, arguments, progress_callback=heard)
    assert not result.is_error, result.content
    structured: dict[str, Any] = result.structured_content
    return structured


@asynccontextmanager
async def at_stdio(folder: Path, mode: str) -> AsyncIterator[tuple[Client, CountedTools]]:
    """A server as the child of its client, with a tool that waits for its turn."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_agents.server.cli", "stdio"],
        env={"MCP_AGENTS_SERVER__DATA_DIR": str(folder)},
    )
    async with CountedTools() as tools, Client(parameters, mode=mode) as client:
        await called(client, "tool_server_add", {"name": "counted", "transport": "http", "url": tools.url})
        await called(client, "agent_create", {"name": "worker", "virtual_model": "rule-based", "tools": ["counted/*"]})
        yield client, tools


async def until(client: Client, status: str) -> str:
    """Waits until the one run has this status and, when it is running, its call is on its way; its execution."""
    with anyio.fail_after(20):
        while True:
            page = await called(client, "execution_list", {})
            for each in page["executions"]:
                if each["status"] == status and (status != "running" or each["tool_calls"]):
                    return str(each["execution_id"])
            await anyio.sleep(0.02)


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_a_notification_over_stdio_cancels_the_run_and_none_of_its_readers(tmp_path: Path, mode: str) -> None:
    """In both eras: agent_execute is taken back with its run, execution_wait without."""
    async with at_stdio(tmp_path, mode) as (client, tools):
        asked = {"agent": "worker", "prompt": PROMPT}
        handed = await called(client, "agent_execute", {**asked, "wait_seconds": 0.1})
        async with together() as tasks:
            heard = Heard()
            tasks.start_soon(called, client, "execution_wait", {"execution_id": handed["execution_id"]}, heard)
            await heard.first.wait()
            tasks.cancel_scope.cancel()
        assert (await called(client, "execution_get", {"execution_id": handed["execution_id"]}))["status"] == "running"
        async with together() as tasks:
            heard = Heard()
            tasks.start_soon(called, client, "agent_execute", asked, heard)  # joins it
            await heard.first.wait()
            tasks.cancel_scope.cancel()
        assert await until(client, "cancelled") == handed["execution_id"]
        events = await called(client, "execution_events", {"execution_id": handed["execution_id"]})
        assert events["events"][-1]["body"]["reason"] == "its call was cancelled"
        tools.open_turn("here", 1)


async def test_an_agents_own_tool_is_taken_back_with_its_run(tmp_path: Path) -> None:
    """As agent_execute, on the path of one agent."""
    async with workshop(tmp_path) as house:
        run = await house.run("long")
        async with house.client("legacy", path=f"/mcp/agent/{run.agent}") as client, together() as tasks:
            tasks.start_soon(called, client, run.agent, {"prompt": run.prompt})
            execution_id = await house.until_called(run)
            tasks.cancel_scope.cancel()
        assert await house.until_ended(execution_id) == "cancelled"
        house.tools.open_turn(run.place, 1)


async def test_what_was_called_off_is_not_joined(tmp_path: Path) -> None:
    """Whoever asks again wants an answer, and not to be told that it was called off."""
    async with workshop(tmp_path) as house:
        run = await house.run("long")
        async with house.client("legacy") as client:
            async with together() as tasks:
                tasks.start_soon(called, client, "agent_execute", run.arguments)
                first = await house.until_called(run)
                tasks.cancel_scope.cancel()
            assert await house.until_ended(first) == "cancelled"
            house.tools.open_turn(run.place, 1)
            again = await called(client, "agent_execute", run.arguments)
        assert (again["status"], again["execution_id"] == first) == ("completed", False)
