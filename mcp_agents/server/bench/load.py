"""Requests at a given width, from a client that costs little itself, so that the server is what is measured."""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import aiohttp
import msgspec

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.tasks import together
from mcp_agents.server.bench.machine import cpu_seconds

_VERSION = "2026-07-28"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured stretch: how many calls, over how many seconds, and each call's seconds."""

    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: int) -> float:
        """Milliseconds within which this share of the calls ended."""
        if len(self.latencies) < 2:
            return self.latencies[0] * 1000
        return quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1000


Call = Callable[[], Awaitable[Any]]


async def drive(calls: int, width: int, call: Call) -> Sample:
    """`calls` calls, `width` at a time."""
    return await _driven(iter(range(calls)), width, call)


async def drive_for(seconds: float, width: int, call: Call) -> Sample:
    """Calls for so long, `width` at a time; each lane makes one call at least."""
    until = time.perf_counter() + seconds
    return await _driven(iter(lambda: time.perf_counter() < until, False), width, call)


async def _driven(turns: Iterator[Any], width: int, call: Call) -> Sample:
    latencies: list[float] = []

    async def lane() -> None:
        for _ in turns:
            began = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with together() as tasks:
        for _ in range(width):
            tasks.start_soon(lane)
    return Sample(time.perf_counter() - began, latencies)


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing the work: a call, and the process whose processor time it is paid with."""

    name: str
    call: Call
    pid: int


@dataclass(frozen=True, slots=True)
class Rates:
    """What a way came to in each round: calls a second, and processor milliseconds for each call."""

    per_second: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


async def interleaved(ways: list[Way], *, rounds: int, seconds: float, width: int) -> dict[str, Rates]:
    """Each way in turn, several times over, so that a busy neighbour disturbs all of them alike."""
    found = {way.name: Rates() for way in ways}
    for way in ways:
        await drive(width, width, way.call)  # connections, caches and imports are not what is measured
    for _ in range(rounds):
        for way in ways:
            used = cpu_seconds(way.pid)
            sample = await drive_for(seconds, width, way.call)
            found[way.name].per_second.append(sample.rate)
            found[way.name].cpu_ms.append((cpu_seconds(way.pid) - used) / len(sample.latencies) * 1000)
    return found


class RawClient:
    """An MCP client of the current revision over one pool of connections, without the SDK's own cost."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str = "") -> None:
        self._http, self._url, self._number = http, url, 0
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": _VERSION,
            "Mcp-Method": "tools/call",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        }

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The result of a tool call. Raises `Fault` when it is an error of any kind."""
        self._number += 1
        body = {
            "jsonrpc": "2.0",
            "id": self._number,
            "method": "tools/call",
            "params": {
                "name": tool,
                "arguments": arguments,
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": _VERSION,
                    "io.modelcontextprotocol/clientCapabilities": {},
                    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                },
            },
        }
        headers = {**self._headers, "Mcp-Name": tool}
        async with self._http.post(self._url, data=_encode(body), headers=headers) as response:
            raw = await response.read()
        if raw.startswith((b"event:", b"data:", b":")):
            raw = next(line[5:] for line in reversed(raw.splitlines()) if line.startswith(b"data:"))
        answer: dict[str, Any] = msgspec.json.decode(raw)
        result = answer.get("result")
        if response.status != 200 or not isinstance(result, dict) or result.get("isError"):
            raise Fault("BENCH_CALL_FAILED", f"{tool} answered {response.status}: {raw[:300]!r}")
        return result
