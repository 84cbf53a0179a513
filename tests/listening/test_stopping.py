"""SIGTERM at a real server with a hundred open streams of every kind: each ends, the runs go on, the exit is clean."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations

from tests.listening.programs import called, client, program, token_of
from tests.support.tool_servers.served import mcp_app, served

pytestmark = pytest.mark.anyio

LISTENING, EXECUTING, WAITING, STANDING = 40, 20, 20, 20
SECONDS = 3.0


@dataclass
class Slow:
    """A tool server with one tool, which answers once it is released."""

    spec: dict[str, Any]
    released: anyio.Event


@asynccontextmanager
async def upstream() -> AsyncIterator[Slow]:
    """It outlives the servers that call it."""
    tools, released = MCPServer("slow", log_level="ERROR"), anyio.Event()

    @tools.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def stay() -> str:
        """Stays until it is released."""
        await released.wait()
        return "stayed"

    async with served(mcp_app(tools)) as port:
        url = f"http://127.0.0.1:{port}/mcp"
        yield Slow({"name": "slow", "transport": "http", "url": url, "trust_annotations": True}, released)


@asynccontextmanager
async def standing(url: str, token: str) -> AsyncIterator[httpx2.Response]:
    """The standing response of a connection of the handshake era."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        session = (await http.post(f"{url}/mcp", json=body)).headers["mcp-session-id"]
        known = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
        async with http.stream("GET", f"{url}/mcp", headers=known) as response:
            assert response.status_code == 200
            yield response


async def test_a_server_told_to_stop_ends_what_is_open_and_gives_back_its_runs(tmp_path: Path) -> None:
    """Listeners see the end of their stream, calls are told to be made again, the runs end under the next server."""
    ended: list[str] = []
    with anyio.fail_after(180):
        async with upstream() as slow:
            runs = await stopped_in_the_middle(tmp_path, slow, ended)
            counts = {what: ended.count(what) for what in set(ended)}
            assert counts == {
                "listening": LISTENING,
                "agent_execute": EXECUTING,
                "execution_wait": WAITING,
                "standing": STANDING,
            }
            slow.released.set()
            async with program(tmp_path) as (_, url), client(url, await token_of(tmp_path)) as opened:
                for execution_id in runs:
                    order = {"execution_id": execution_id, "timeout_seconds": 60}
                    run = await called(opened, "execution_wait", order)
                    assert (run["status"], run["text"]) == ("completed", "The result is: stayed")


async def stopped_in_the_middle(folder: Path, slow: Slow, ended: list[str]) -> list[str]:
    """Opens everything, stops the server, and returns the runs that were under way."""
    async with program(folder) as (process, url):
        token = await token_of(folder)
        async with client(url, token) as opened, anyio.create_task_group() as tasks:
            await called(opened, "tool_server_add", slow.spec)
            draft = {"name": "slow", "virtual_model": "rule-based", "tools": ["slow/stay"]}
            agent = (await called(opened, "agent_create", draft))["id"]
            order = {"agent": agent, "prompt": "call slow__stay with {}"}
            runs = [(await called(opened, "agent_submit", order))["execution_id"] for _ in range(2)]

            async def listen(task_status: anyio.abc.TaskStatus[None]) -> None:
                async with opened.listen(resource_subscriptions=[f"cb://executions/{runs[0]}"]) as sub:
                    task_status.started()
                    async for _ in sub:
                        pass
                ended.append("listening")  # a stream that breaks off raises instead

            async def call(tool: str, arguments: dict[str, Any], task_status: anyio.abc.TaskStatus[None]) -> None:
                begun = anyio.Event()

                async def progress(*_: Any) -> None:
                    begun.set()

                async def answered() -> None:
                    result = await opened.call_tool(tool, arguments, progress_callback=progress)
                    assert result.is_error
                    assert "SERVER_STOPPING" in result.content[0].text
                    ended.append(tool)

                async with anyio.create_task_group() as calling:
                    calling.start_soon(answered)
                    await begun.wait()
                    task_status.started()

            async def stand(task_status: anyio.abc.TaskStatus[None]) -> None:
                async with standing(url, token) as response:
                    task_status.started()
                    async for _ in response.aiter_bytes():
                        pass
                ended.append("standing")

            for _ in range(LISTENING):
                await tasks.start(listen)
            for number in range(EXECUTING):
                arguments = {**order, "context": number, "wait_seconds": 600}
                await tasks.start(call, "agent_execute", arguments)
            for number in range(WAITING):
                arguments = {"execution_id": runs[number % 2], "timeout_seconds": 600}
                await tasks.start(call, "execution_wait", arguments)
            for _ in range(STANDING):
                await tasks.start(stand)
            began = anyio.current_time()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            took = anyio.current_time() - began
    assert took < SECONDS, took
    return runs
