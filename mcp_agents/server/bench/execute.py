"""`bench execute`: whole runs over HTTP, MCP and OAuth with full sync, beside a bare echo and a bare model loop.

One run is two model turns with one call of a real stdio MCP tool between them. All figures of one report are
measured in one go on one machine; only their ratios say something elsewhere.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import psutil
from msgspec import Struct

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.messages import Message, ToolCall
from mcp_agents.kernel.model import ModelAnswer, ToolSchema
from mcp_agents.kernel.tasks import background
from mcp_agents.server.bench.load import RawClient, Sample, drive
from mcp_agents.server.compose import House, bare_models, open_house
from mcp_agents.server.config import Settings

PROMPT = 'Please call add with {"a": 2, "b": 40}'
_ADD = ToolSchema(
    name="demo__add",
    description="Adds.",
    parameters={"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
)


class Figures(Struct, frozen=True, kw_only=True):
    """What was measured for one way of running. Milliseconds, runs a second, kilobytes."""

    name: str
    runs_per_second: float
    against_echo: float
    own_ms_p50: float | None = None
    own_ms_p99: float | None = None
    durable_writes_per_run: float | None = None
    kb_per_run_in_flight: float | None = None


class Report(Struct, frozen=True, kw_only=True):
    """One report. `sync` is what NATS was told; `width` how many calls were under way at once."""

    sync: str
    width: int
    runs: int
    figures: tuple[Figures, ...]


async def measure(*, runs: int, width: int, sync: str, through_litellm: bool) -> Report:
    """Measures everything once. Raises `Fault` when a call fails: a figure with errors in it is none."""
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="mcp-agents-bench-") as scratch:
        folder = Path(scratch)
        async with _process("mcp_agents.adapters.rule_model_http", "--port", "0") as (_, line):
            twin = line.rsplit(" ", 1)[-1]
            async with _process("mcp_agents.server.bench.echo") as (_, echo_url), _pool() as http:
                echo = RawClient(http, echo_url)
                sample = await _warm(runs, width, lambda: echo.call("echo", {"text": "hello"}))
                floor = sample.rate
                figures.append(Figures(name="echo on the bare SDK", runs_per_second=floor, against_echo=1.0))
            figures += await _bare(runs, width, floor, twin, through_litellm=through_litellm)
            figures += await _served(folder, runs, width, floor, sync=sync, twin=twin, through_litellm=through_litellm)
    return Report(sync=sync, width=width, runs=runs, figures=tuple(figures))


async def _bare(runs: int, width: int, floor: float, twin: str, *, through_litellm: bool) -> list[Figures]:
    """The model loop alone, in this process: two turns, one addition, no record of anything."""
    found: list[Figures] = []
    async with bare_models(twin) as models:
        for name, model in models.items():
            if name.endswith("litellm") and not through_litellm:
                continue

            async def loop(model: Callable[..., Awaitable[ModelAnswer]] = model) -> None:
                messages = [Message(role="user", text=PROMPT)]
                answer = await model(tuple(messages), (_ADD,))
                call: ToolCall = answer.tool_calls[0]
                total = call.arguments["a"] + call.arguments["b"]
                messages += [
                    Message(role="assistant", tool_calls=(call,)),
                    Message(role="tool", text=str(total), call_id=call.call_id, tool=call.tool),
                ]
                if "42" not in (await model(tuple(messages), (_ADD,))).text:
                    raise Fault("BENCH_ANSWER", "The bare loop did not get its sum.")

            count = runs if not name.endswith("litellm") else max(width, runs // 4)
            sample = await _warm(count, width, loop)
            found.append(Figures(name=name, runs_per_second=sample.rate, against_echo=sample.rate / floor))
    return found


async def _served(
    folder: Path, runs: int, width: int, floor: float, *, sync: str, twin: str, through_litellm: bool
) -> list[Figures]:
    """The product: `serve` in its own process, NATS in another, the demo's tool server in a third."""
    config = folder / "mcp-agents.toml"
    lines = ["[server]", f'data_dir = "{folder / "data"}"', "port = 0", "[nats]", f'sync = "{sync}"']
    lines += ["[[models]]", 'name = "rule-based"', 'litellm_model = "rule-based"']
    lines += ["[[models]]", 'name = "twin"', 'litellm_model = "openai/rule-based"', f'api_base = "{twin}"']
    lines += ['wire = "litellm"', "input_micro_usd_per_mtok = 0", "output_micro_usd_per_mtok = 0"]
    config.write_text("\n".join(lines) + "\n", "utf-8")
    settings = Settings.model_validate({"server": {"data_dir": str(folder / "data")}, "nats": {"sync": sync}})
    found: list[Figures] = []
    async with _process("mcp_agents.server.cli", "serve", "--config", str(config)) as (process, line):
        url = line.removeprefix("mcp-agents listening on ").strip()
        async with open_house(settings, url) as house, _pool() as http:
            token = (await house.auth.tokens.issue_direct("default")).access_token
            client = RawClient(http, f"{url}/mcp/all", token)
            await _prepared(client)
            for agent, name in (("rule", "served, rule-based model"), ("twin", "served, HTTP twin through litellm")):
                if agent == "twin" and not through_litellm:
                    continue
                count = runs if agent == "rule" else max(width, runs // 4)
                found.append(await _one_way(house, process, client, agent, name, count, width, floor))
    return found


async def _one_way(  # one measurement has this many facts
    house: House,
    process: "subprocess.Popen[str]",
    client: RawClient,
    agent: str,
    name: str,
    runs: int,
    width: int,
    floor: float,
) -> Figures:
    async def run() -> dict[str, Any]:
        result = await client.call("agent_execute", {"agent": agent, "prompt": PROMPT, "stream": False})
        structured: dict[str, Any] = result["structuredContent"]
        if structured["status"] != "completed" or "42" not in structured["text"]:
            raise Fault("BENCH_RUN", f"A run ended {structured['status']}.")
        return structured

    own: list[float] = []

    async def alone() -> None:
        began = time.perf_counter()
        timings = (await run())["timings"]
        own.append(time.perf_counter() - began - (timings["model_ms"] + timings["tools_ms"]) / 1000)

    await drive(width, width, run)
    lonely = await drive(max(50, runs // 10), 1, alone)
    before = await _written(house)
    wide = await drive(runs, width, run)
    writes = (await _written(house) - before) / runs
    own_sample = Sample(lonely.seconds, own)
    return Figures(
        name=name,
        runs_per_second=wide.rate,
        against_echo=wide.rate / floor,
        own_ms_p50=own_sample.percentile(50),
        own_ms_p99=own_sample.percentile(99),
        durable_writes_per_run=writes,
        kb_per_run_in_flight=await _memory(client, process, agent),
    )


async def _memory(client: RawClient, process: "subprocess.Popen[str]", agent: str) -> float:
    """Resident memory that 200 runs in flight add to the server, each."""
    server = psutil.Process(process.pid)
    crowd = 200
    arguments = {"agent": agent, "prompt": 'Please call count_slowly with {"to": 2}', "stream": False}
    before: int = server.memory_info().rss
    peak = before
    async with background() as tasks:

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, server.memory_info().rss)
                await anyio.sleep(0.05)

        tasks.start_soon(watch)
        await drive(crowd, crowd, lambda: client.call("agent_execute", arguments))
    return (peak - before) / crowd / 1024


async def _prepared(client: RawClient) -> None:
    await client.call("tool_server_add", {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools"})
    for name, model in (("rule", "rule-based"), ("twin", "twin")):
        await client.call("agent_create", {"name": name, "virtual_model": model, "tools": ["demo/*"]})


async def _written(house: House) -> int:
    """Messages that all streams together have stored so far."""
    answer = await house.link.api("STREAM.LIST")
    return sum(
        int(stream["state"]["last_seq"]) for stream in answer["streams"] if stream["config"]["name"] != "CB_CANARY"
    )


async def _warm(calls: int, width: int, call: Callable[[], Awaitable[Any]]) -> Sample:
    await drive(width * 2, width, call)
    return await drive(calls, width, call)


def _pool() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


@asynccontextmanager
async def _process(module: str, *arguments: str) -> "AsyncIterator[tuple[subprocess.Popen[str], str]]":
    """One of our programs in its own process, with the first line it printed."""
    process = subprocess.Popen(  # noqa: ASYNC220, S603  # our own program, started before anything is measured
        [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        line = await anyio.to_thread.run_sync(process.stdout.readline) if process.stdout else ""
        if not line:
            raise Fault("BENCH_START_FAILED", f"{module} did not start.")
        yield process, line.strip()
    finally:
        process.terminate()
        process.wait(15)
        if process.stdout:
            process.stdout.close()
