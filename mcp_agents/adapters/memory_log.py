"""The `Log` port in memory, for unit tests and the benchmark. Held to the NATS log by a shared behaviour suite."""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio

from mcp_agents.adapters.memory_store import matches
from mcp_agents.kernel.errors import Fenced
from mcp_agents.kernel.log import Stored


class MemoryLog:
    """Every subject's appends in one process, with one sequence over all of them, as a stream has."""

    def __init__(self) -> None:
        self._logs: defaultdict[str, list[Stored]] = defaultdict(list)
        self._sequence = 0
        self._landed: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)

    async def append(self, subject: str, payload: bytes, *, expected: int) -> int:
        log = self._logs[subject]
        if (log[-1].sequence if log else 0) != expected:
            raise Fenced(subject)
        self._sequence += 1
        log.append(Stored(self._sequence, payload))
        if subject in self._landed:  # somebody waits for it
            self._landed.pop(subject).set()
        return self._sequence

    async def read(self, subject: str, *, after: int = 0) -> list[Stored]:
        return [stored for stored in self._logs[subject] if stored.sequence > after]

    @asynccontextmanager
    async def follow(self, subject: str, *, empty: bool = False) -> AsyncIterator[AsyncIterator[Stored]]:
        async with aclosing(self._following(subject)) as stored:
            yield stored

    async def _following(self, subject: str) -> AsyncGenerator[Stored, None]:
        after = 0
        while True:
            landed = self._landed[subject]
            for stored in await self.read(subject, after=after):
                after = stored.sequence
                yield stored
            await landed.wait()

    async def purge(self, subject: str) -> None:
        self._logs.pop(subject, None)

    async def subjects(self, pattern: str) -> dict[str, int]:
        return {subject: len(log) for subject, log in self._logs.items() if log and matches(pattern, subject)}
