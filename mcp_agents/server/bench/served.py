"""The product in a process of its own, asked over HTTP, MCP and OAuth: rates, what is its own, what it holds.

NATS and the demo's stdio tool server are processes beside it. One run is two model turns with one call of a
tool between them: `add` on the stdio server, or `state_get` of the house where an agent's name says so.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import anyio

from mcp_agents.kernel.errors import Fault
from mcp_agents.server.bench import inside
from mcp_agents.server.bench.floors import PROMPT
from mcp_agents.server.bench.load import RawClient, Sample, Way, drive, drive_for
from mcp_agents.server.bench.machine import child, growth, resident_kb
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings

_ANNOUNCED: Final = "mcp-agents listening on "
_SLOW: Final = 'Please call count_slowly with {"to": 2}'
_AGENTS: Final = {
    "rule": ("rule-based", "demo/add"),
    "builtin": ("rule-based", "builtin/state_get"),
    "slow": ("rule-based", "demo/count_slowly"),
    "direct": ("direct", "demo/add"),
    "litellm": ("litellm", "demo/add"),
}


@dataclass(frozen=True, slots=True)
class Served:
    """A running server, and a client that is signed in."""

    house: House
    client: RawClient
    pid: int

    def way(self, name: str, agent: str) -> Way:
        """Whole runs of an agent."""

        async def call() -> None:
            await self.run(agent)

        return Way(name, call, self.pid)

    async def run(self, agent: str) -> dict[str, Any]:
        """One run's result. Raises `Fault` unless it completed."""
        prompt = inside.PROMPT if agent == "builtin" else PROMPT
        answer = await self.client.call("agent_execute", {"agent": agent, "prompt": prompt, "stream": False})
        result: dict[str, Any] = answer["structuredContent"]
        if result["status"] != "completed" or len(result["tool_calls"]) != 1:
            raise Fault("BENCH_RUN", f"A run ended {result['status']}.")
        return result

    async def own(self, agent: str, seconds: float) -> Sample:
        """The caller's time less the model's and the tool's, one run at a time."""
        own: list[float] = []

        async def alone() -> None:
            began = time.perf_counter()
            timings = (await self.run(agent))["timings"]
            own.append(time.perf_counter() - began - (timings["model_ms"] + timings["tools_ms"]) / 1000)

        return Sample((await drive_for(seconds, 1, alone)).seconds, own)

    async def writes(self, agent: str, runs: int) -> float:
        """Durable writes for one run."""
        before = await inside.written(self.house)
        await drive(runs, min(runs, 32), lambda: self.run(agent))
        return (await inside.written(self.house) - before) / runs

    async def held(self, crowd: int) -> float:
        """Kilobytes of resident memory that each of so many runs in flight adds to the server."""
        arguments = {"agent": "slow", "prompt": _SLOW, "stream": False}
        async with growth(self.pid) as grown:
            await drive(crowd, crowd, lambda: self.client.call("agent_execute", arguments))
        return grown.kb / crowd


@dataclass(frozen=True, slots=True)
class Start:
    """How long `serve` took to its first answer, and what it held then, in kilobytes."""

    seconds: float
    kb: float


@asynccontextmanager
async def served(folder: Path, provider: str, sync: inside.Sync) -> AsyncIterator[tuple[Served, Start]]:
    """The server, started for the second time on its folder, with agents to ask for."""
    await anyio.Path(folder).mkdir()
    config = folder / "mcp-agents.toml"
    lines = ["[server]", f'data_dir = "{folder / "data"}"', "port = 0", "[nats]", f'sync = "{sync}"']
    lines += ["[[models]]", 'name = "rule-based"', 'litellm_model = "rule-based"']
    for name, wire in (("direct", "openai"), ("litellm", "litellm")):
        lines += ["[[models]]", f'name = "{name}"', 'litellm_model = "openai/bench"', f'wire = "{wire}"']
        lines += [f'api_base = "{provider}"', "input_micro_usd_per_mtok = 0", "output_micro_usd_per_mtok = 0"]
    config.write_text("\n".join(lines) + "\n", "utf-8")
    settings = Settings.model_validate({"server": {"data_dir": str(folder / "data")}, "nats": {"sync": sync}})
    command = ("mcp_agents.server.cli", "serve", "--config", str(config))
    async with child(*command):
        pass
    began = time.perf_counter()
    async with child(*command) as process, pool() as http:
        url = process.line.removeprefix(_ANNOUNCED).strip()
        async with http.get(f"{url}/readyz") as answer:
            answer.raise_for_status()
        start = Start(time.perf_counter() - began, resident_kb(process.pid))
        async with open_house(settings, url) as house:
            token = (await house.auth.tokens.issue_direct("default")).access_token
            client = RawClient(http, f"{url}/mcp/all", token)
            add = {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools"}
            await client.call("tool_server_add", add)
            for name, (model, tool) in _AGENTS.items():
                await client.call("agent_create", {"name": name, "virtual_model": model, "tools": [tool]})
            yield Served(house, client, process.pid), start


def pool() -> aiohttp.ClientSession:
    """Connections without a bound."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
