"""Requests at a given width, from a client that costs little itself, so that the server is what is measured."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import aiohttp
import msgspec

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.tasks import together

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


async def drive(calls: int, width: int, call: Callable[[], Awaitable[Any]]) -> Sample:
    """`calls` calls, `width` at a time."""
    latencies: list[float] = []
    left = iter(range(calls))

    async def lane() -> None:
        for _ in left:
            began = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with together() as tasks:
        for _ in range(width):
            tasks.start_soon(lane)
    return Sample(time.perf_counter() - began, latencies)


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
