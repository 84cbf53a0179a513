"""The `Store` port on JetStream key-value buckets (`$KV.{bucket}.{key}`), with per-key expiry.

The layout is that of NATS KV, so that its own tools can read it. A deleted or expired key may leave a
marker behind; creating over a marker is an update at the marker's sequence.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import NatsLink, Taken
from mcp_agents.adapters.nats_topology import bucket_stream
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.store import Bucket, Record

_MARKER_SECONDS: Final = 60


class NatsStore:
    """Records of every bucket over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    async def get(self, bucket: Bucket, key: str) -> Record | None:
        found = await self._link.last(bucket_stream(bucket), _subject(bucket, key))
        if found is None or _is_marker(found[1]):
            return None
        return Record(key, found[1].data, found[0])

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        # Always said, never left out: a write without the header would make an expiring key permanent.
        headers = {"Nats-TTL": str(ttl) if ttl else "never"}
        return await self._write(bucket, key, value, revision, headers)

    async def delete(self, bucket: Bucket, key: str, *, revision: int) -> None:
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": str(_MARKER_SECONDS)}
        await self._write(bucket, key, b"", revision, headers)

    async def _write(self, bucket: Bucket, key: str, value: bytes, revision: int, headers: dict[str, str]) -> int:
        stream, subject = bucket_stream(bucket), _subject(bucket, key)
        expected = revision
        for _ in range(5):  # a marker may come or go between the look and the write
            try:
                return await self._link.store(stream, subject, value, expected, headers)
            except Taken:
                last = await self._link.last(stream, subject)
                if revision or (last is not None and not _is_marker(last[1])):
                    break
                expected = last[0] if last else 0
        raise WrongRevision(key)

    async def any(self, bucket: Bucket, pattern: str) -> bool:
        messages = self._link.each(bucket_stream(bucket), _subject(bucket, pattern), 0, batch=8)
        async with aclosing(messages):
            async for _, message in messages:
                if not _is_marker(message):
                    return True
        return False

    async def scan(self, bucket: Bucket, pattern: str) -> AsyncIterator[Record]:
        prefix = len(_subject(bucket, ""))
        records = [
            Record((message.headers or {})["Nats-Subject"][prefix:], message.data, sequence)
            async for sequence, message in self._link.each(bucket_stream(bucket), _subject(bucket, pattern), 0)
            if not _is_marker(message)
        ]
        for record in sorted(records):
            yield record


def _subject(bucket: Bucket, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def _is_marker(message: Msg) -> bool:
    headers = message.headers or {}
    return "KV-Operation" in headers or "Nats-Marker-Reason" in headers
