"""The `Objects` port on a JetStream object store."""

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from mcp_agents.adapters.nats_link import NatsLink, unavailable

_BUCKET = "cb_objects"


class NatsObjects:
    """Blobs over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._js = JetStreamContext(link.client)
        self._bucket: ObjectStore | None = None

    async def put(self, name: str, data: bytes) -> None:
        try:
            await (await self._store()).put(name, data)
        except (nats.errors.Error, TimeoutError) as cause:
            raise unavailable() from cause

    async def get(self, name: str) -> bytes | None:
        try:
            return (await (await self._store()).get(name)).data
        except (ObjectNotFoundError, NotFoundError):
            return None
        except (nats.errors.Error, TimeoutError) as cause:
            raise unavailable() from cause

    async def delete(self, name: str) -> None:
        try:
            await (await self._store()).delete(name)
        except (ObjectNotFoundError, NotFoundError):
            return
        except (nats.errors.Error, TimeoutError) as cause:
            raise unavailable() from cause

    async def _store(self) -> ObjectStore:
        if self._bucket is None:
            self._bucket = await self._js.object_store(_BUCKET)
        return self._bucket
