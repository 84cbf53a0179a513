"""The `Objects` port on a JetStream object store.

Written by the library, in the format that every NATS client reads. Read without it: the library makes a consumer
for each object, and whoever reads a few thousand objects at once runs into the stream's limit of consumers.
"""

import base64
from hashlib import sha256
from typing import Final

import anyio
import msgspec
import nats.errors
from msgspec import Struct
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from mcp_agents.adapters.nats_link import NatsLink, unavailable

_BUCKET: Final = "cb_objects"
_STREAM: Final = f"OBJ_{_BUCKET}"
_CHUNKS: Final = 8
"""Chunks (128 KiB each) that are asked for at once."""
_AT_ONCE: Final = 16
"""Objects that one process reads at once. More would not be faster, and wait past their time in a crowd."""
_LOOKS: Final = 5
"""How often an object is looked up anew because it was replaced while its chunks were read."""


class _Meta(Struct, frozen=True):
    """What is stored of an object beside its chunks."""

    nuid: str = ""
    digest: str = ""
    deleted: bool = False


class NatsObjects:
    """Blobs over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._link, self._js = link, JetStreamContext(link.client)
        self._bucket: ObjectStore | None = None
        self._reading = anyio.Semaphore(_AT_ONCE, fast_acquire=True)

    async def put(self, name: str, data: bytes) -> None:
        try:
            await (await self._store()).put(name, data)
        except (nats.errors.Error, TimeoutError) as cause:
            raise unavailable() from cause

    async def get(self, name: str) -> bytes | None:
        async with self._reading:
            return await self._read(name)

    async def delete(self, name: str) -> None:
        try:
            await (await self._store()).delete(name)
        except (ObjectNotFoundError, NotFoundError):
            return
        except (nats.errors.Error, TimeoutError) as cause:
            raise unavailable() from cause

    async def erase(self, prefix: str) -> int:
        found: list[tuple[str, str]] = []
        async for _, message in self._link.each(_STREAM, f"$O.{_BUCKET}.M.>", 0):
            label = (message.headers or {})["Nats-Subject"].rpartition(".")[2]
            if base64.urlsafe_b64decode(label).decode().startswith(prefix):
                found.append((label, msgspec.json.decode(message.data, type=_Meta).nuid))
        for label, nuid in found:
            if nuid:
                await self._link.api(f"STREAM.PURGE.{_STREAM}", {"filter": f"$O.{_BUCKET}.C.{nuid}"})
            await self._link.api(f"STREAM.PURGE.{_STREAM}", {"filter": f"$O.{_BUCKET}.M.{label}"})
        return len(found)

    async def _store(self) -> ObjectStore:
        if self._bucket is None:
            self._bucket = await self._js.object_store(_BUCKET)
        return self._bucket

    async def _read(self, name: str) -> bytes | None:
        label = base64.urlsafe_b64encode(name.encode()).decode()
        for _ in range(_LOOKS):
            found = await self._link.last(_STREAM, f"$O.{_BUCKET}.M.{label}")
            if found is None:
                return None
            meta = msgspec.json.decode(found[1].data, type=_Meta)
            if meta.deleted:
                return None
            chunks = self._link.each(_STREAM, f"$O.{_BUCKET}.C.{meta.nuid}", 0, batch=_CHUNKS)
            data = b"".join([chunk.data async for _, chunk in chunks])
            if meta.digest.partition("=")[2] == base64.urlsafe_b64encode(sha256(data).digest()).decode():
                return data
        raise unavailable()
