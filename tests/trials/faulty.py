"""A provider on OpenAI's wire that goes wrong now and then: it refuses, resets, breaks off, or talks nonsense.

An exact part of the requests meets a fault, of every kind alike, at places that follow from the seed.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Final

from mcp_agents.server.bench.provider import Provider

_REFUSALS: Final = {
    "500": b"HTTP/1.1 500 Internal Server Error\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\n",
}
_EMPTY: Final = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
KINDS: Final = (*_REFUSALS, "reset", "cut", "nonsense")


class Weather:
    """Which requests go wrong, and how many did."""

    def __init__(self, part: float, seed: int) -> None:
        self._part, self._random = part, Random(seed)
        self._kinds: Iterator[str] = cycle(KINDS)
        self.requests = 0
        self.met = Counter[str]()

    def next(self) -> str:
        """The fault of the next request, or ""."""
        self.requests += 1
        if self._random.random() >= self._part:
            return ""
        kind = next(self._kinds)
        self.met[kind] += 1
        return kind


class Faulty(Provider):
    """One connection to it."""

    def __init__(self, weather: Weather) -> None:
        super().__init__(0.0, 8, apart=False)
        self._weather = weather

    def _answer(self, pieces: list[bytes]) -> None:
        transport = self._transport
        if transport is None:
            return
        match self._weather.next():
            case "":
                super()._answer(pieces)
            case "reset":
                transport.abort()
            case "cut":
                super()._answer(pieces[: len(pieces) // 2])
                transport.close()
            case "nonsense":
                nonsense = b"data: {this is not JSON\n\n"
                super()._answer([b"%x\r\n%s\r\n" % (len(nonsense), nonsense), b"0\r\n\r\n"])
            case kind:
                transport.write(_REFUSALS[kind] + _EMPTY)


async def serving(weather: Weather) -> tuple[asyncio.Server, str]:
    """The provider on a free port of this machine: its server, and the base of its address."""
    server = await asyncio.get_running_loop().create_server(lambda: Faulty(weather), "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
