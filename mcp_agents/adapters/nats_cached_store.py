"""A read-through cache in front of the NATS store, for records that are read on every call and seldom change.

A record is kept until the bucket says that a write to its key was stored (`cb.changed.{bucket}.{key}`); our
own writes are noted at once, and after anything that may have been missed everything is forgotten. A write
of another process is therefore seen as soon as its message arrives. Changes stay compare-and-set: acting on
a record that just moved on is a `WrongRevision`, never a lost update.

Of a few buckets it knows instead which keys are there at all, so that asking for one that is not, which is
what nearly every call does, costs nothing.
"""

from collections.abc import AsyncIterator
from typing import Final

import anyio
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import NatsLink
from mcp_agents.kernel.store import Bucket, Record, Store

CACHED: Final[frozenset[Bucket]] = frozenset(
    {"cb_agents", "cb_tool_servers", "cb_models", "cb_capacity", "cb_tenants", "cb_policies", "cb_vault"}
)
INDEXED: Final[frozenset[Bucket]] = frozenset({"cb_joins"})
_KEPT: Final = 20_000


class NatsCachedStore:
    """Fills the `Store` port over another one. `open` begins to listen; without it nothing may be kept."""

    def __init__(self, link: NatsLink, store: Store) -> None:
        self._link, self._store = link, store
        self._records: dict[tuple[str, str], Record | None] = {}
        self._there: dict[str, set[str]] = {}
        self._one_looks = anyio.Lock()
        self._changes = 0

    async def open(self) -> None:
        """Listens to the cached buckets for as long as the link lives."""
        self._link.on_gap(self._forget_all)
        for bucket in CACHED | INDEXED:
            await self._link.client.subscribe(f"cb.changed.{bucket}.>", cb=self._heard)
        await self._link.heard()  # the server knows of us before the first record is kept

    async def get(self, bucket: Bucket, key: str) -> Record | None:
        if bucket in INDEXED:
            return await self._get_indexed(bucket, key)
        if bucket not in CACHED:
            return await self._store.get(bucket, key)
        place = (bucket, key)
        if place in self._records:
            return self._records[place]
        changes = self._changes
        record = await self._store.get(bucket, key)
        if changes == self._changes:  # nothing was written meanwhile, so this is not older than what was heard
            if len(self._records) >= _KEPT:
                self._records.clear()
            self._records[place] = record
        return record

    async def _get_indexed(self, bucket: Bucket, key: str) -> Record | None:
        there = self._there.get(bucket)
        if there is None:
            there = await self._look(bucket)
        if key not in there:
            return None
        record = await self._store.get(bucket, key)
        if record is None:
            there.discard(key)  # deleted, or its time was over
        return record

    async def _look(self, bucket: Bucket) -> set[str]:
        async with self._one_looks:
            while bucket not in self._there:
                changes = self._changes
                found = {record.key async for record in self._store.scan(bucket, ">")}
                if changes == self._changes:  # else something was written while we looked: look again
                    self._there[bucket] = found
            return self._there[bucket]

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        try:
            return await self._store.write(bucket, key, value, revision=revision, ttl=ttl)
        finally:
            self._forget(bucket, key)

    async def delete(self, bucket: Bucket, key: str, *, revision: int) -> None:
        try:
            await self._store.delete(bucket, key, revision=revision)
        finally:
            self._forget(bucket, key)

    async def any(self, bucket: Bucket, pattern: str) -> bool:
        return await self._store.any(bucket, pattern)

    def scan(self, bucket: Bucket, pattern: str) -> AsyncIterator[Record]:
        return self._store.scan(bucket, pattern)

    async def _heard(self, message: Msg) -> None:
        _, _, bucket, key = message.subject.split(".", 3)
        self._forget(bucket, key)

    def _forget(self, bucket: str, key: str) -> None:
        self._changes += 1
        self._records.pop((bucket, key), None)
        if bucket in self._there:
            self._there[bucket].add(key)

    def _forget_all(self) -> None:
        self._changes += 1
        self._records.clear()
        self._there.clear()
