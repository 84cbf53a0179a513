"""The `Store` port in memory, for unit tests. Held to the NATS store by a shared behaviour suite."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import NamedTuple

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.store import Bucket, Record


class _Cell(NamedTuple):
    record: Record
    expires: datetime | None


class MemoryStore:
    """Records of every bucket in one dict; expiry follows the injected clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cells: dict[tuple[Bucket, str], _Cell] = {}
        self._revision = 0

    async def get(self, bucket: Bucket, key: str) -> Record | None:
        return self._live(bucket, key)

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        self._expect(bucket, key, revision)
        self._revision += 1
        expires = self._clock.now() + timedelta(seconds=ttl) if ttl else None
        self._cells[bucket, key] = _Cell(Record(key, value, self._revision), expires)
        return self._revision

    async def delete(self, bucket: Bucket, key: str, *, revision: int) -> None:
        self._expect(bucket, key, revision)
        self._revision += 1
        self._cells.pop((bucket, key), None)

    async def any(self, bucket: Bucket, pattern: str) -> bool:
        return any(own == bucket and matches(pattern, key) and self._live(bucket, key) for own, key in self._cells)

    async def scan(self, bucket: Bucket, pattern: str) -> AsyncIterator[Record]:
        for own, key in sorted(self._cells):
            record = self._live(bucket, key) if own == bucket and matches(pattern, key) else None
            if record:
                yield record

    def _live(self, bucket: Bucket, key: str) -> Record | None:
        cell = self._cells.get((bucket, key))
        if cell is None or (cell.expires is not None and cell.expires <= self._clock.now()):
            return None
        return cell.record

    def _expect(self, bucket: Bucket, key: str, revision: int) -> None:
        live = self._live(bucket, key)
        if (live.revision if live else 0) != revision:
            raise WrongRevision(key)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject or key matches: `*` is exactly one token, a final `>` one or more."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and all(w in ("*", g) for w, g in zip(wanted[:-1], given, strict=False))
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
