"""`mcp-agents serve` as a process of its own, as an administrator and a client see it."""

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
import httpx2
from anyio.abc import Process
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from mcp_agents.kernel.tasks import background


@asynccontextmanager
async def program(
    folder: Path, *, port: int = 0, public_url: str = "", settings: str = "", path: Path | None = None
) -> AsyncIterator[tuple[Process, str]]:
    """`mcp-agents serve` as its own process, and its URL.

    `settings` is what its settings file holds; `path` is where it finds more packages.
    """
    environment = environment_of(folder)
    if path:
        environment["PYTHONPATH"] = str(path)
    file = anyio.Path(folder / "mcp-agents.toml")
    await file.parent.mkdir(parents=True, exist_ok=True)
    await file.write_text(f'[server]\nport = {port}\npublic_url = "{public_url}"\n{settings}', "utf-8")
    command = [sys.executable, "-m", "mcp_agents.server.cli", "serve", "--config", str(file)]
    async with await anyio.open_process(command, env=environment, stderr=None) as process:
        try:
            said = ""
            with anyio.fail_after(60):
                while not (found := re.search(r"listening on (\S+)", said)):
                    assert process.stdout is not None
                    said += (await process.stdout.receive()).decode()
            yield process, found[1]
        finally:
            if process.returncode is None:
                process.kill()


async def token_of(folder: Path) -> str:
    """A token, as the command line makes it beside the running server."""
    made = await administered(folder, "token", "--tenant", "default")
    return str(made["access_token"])


async def administered(folder: Path, *arguments: str) -> dict[str, Any]:
    """What an administrator's command says."""
    command = [sys.executable, "-m", "mcp_agents.server.cli", *arguments, "--json"]
    command += ["--config", str(folder / "mcp-agents.toml")]
    done = await anyio.run_process(command, env=environment_of(folder), stdout=PIPE)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def environment_of(folder: Path) -> dict[str, str]:
    """Where a process finds its data."""
    return {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(folder)}


@asynccontextmanager
async def client(url: str, token: str, path: str = "/mcp/all") -> AsyncIterator[Client]:
    """The official client."""
    async with (
        background(),
        httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(60, read=120),
            limits=httpx2.Limits(max_connections=200),
            trust_env=False,
        ) as http,
        Client(streamable_http_client(url + path, http_client=http), mode="2026-07-28") as opened,
    ):
        yield opened


async def called(opened: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The structured result of a tool that must succeed."""
    result = await opened.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content
