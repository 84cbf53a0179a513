"""The `Bus` port on core NATS: at most once, to whoever listens now."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import nats.errors
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import NatsLink

_BACKLOG: Final = 4096


class NatsBus:
    """Signals over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    async def publish(self, subject: str, payload: bytes) -> None:
        # Signals are allowed to be lost: the log is what counts.
        with suppress(nats.errors.Error):
            await self._link.client.publish(subject, payload)

    @asynccontextmanager
    async def subscribe(self, subject: str) -> AsyncIterator[AsyncIterator[bytes]]:
        waiting: deque[bytes] = deque(maxlen=_BACKLOG)
        bell = [anyio.Event()]

        async def arrived(message: Msg) -> None:
            waiting.append(message.data)
            bell[0].set()

        async def arrivals() -> AsyncIterator[bytes]:
            while True:
                while waiting:
                    yield waiting.popleft()
                bell[0] = anyio.Event()
                await bell[0].wait()

        subscription = await self._link.client.subscribe(subject, cb=arrived)
        try:
            yield arrivals()
        finally:
            with anyio.CancelScope(shield=True), suppress(nats.errors.Error):
                await subscription.unsubscribe()
