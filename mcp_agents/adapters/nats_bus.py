"""The `Bus` port on core NATS: at most once, to whoever listens now."""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import anyio
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mcp_agents.adapters.nats_link import NatsLink, unavailable
from mcp_agents.kernel.bus import Landed

_BACKLOG: Final = 4096
Tell = Callable[[Landed | None], None]


class NatsBus:
    """Signals over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._told: defaultdict[str, list[Tell]] = defaultdict(list)
        self._heard: dict[str, Subscription] = {}
        self._changing = anyio.Lock()
        link.on_gap(self._missed)

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

    @asynccontextmanager
    async def landed(self, subjects: Collection[str], tell: Tell) -> AsyncIterator[None]:
        for subject in subjects:
            self._told[subject].append(tell)
        try:
            try:
                await self._follow_up(subjects)
            except nats.errors.Error as cause:
                raise unavailable() from cause
            yield
        finally:
            for subject in subjects:
                self._told[subject].remove(tell)
            with anyio.CancelScope(shield=True), suppress(nats.errors.Error):
                await self._follow_up(subjects)

    async def _follow_up(self, subjects: Collection[str]) -> None:
        """Makes the subscriptions to these subjects what those who want to be told of them ask for."""
        client = self._link.client
        async with self._changing:
            for subject in subjects:
                if self._told[subject] and subject not in self._heard:
                    self._heard[subject] = await client.subscribe(subject, cb=partial(self._landed, subject))
                elif not self._told[subject]:
                    del self._told[subject]
                    if subscription := self._heard.pop(subject, None):
                        await subscription.unsubscribe()
            if any(subject in self._heard for subject in subjects):
                await self._link.heard()  # whoever reads after this has not missed what it does not read

    async def _landed(self, subject: str, message: Msg) -> None:
        headers = message.headers or {}
        landed = Landed(
            asked=subject,
            first=headers.get("Nats-Last-Sequence") == "0",
            gone="KV-Operation" in headers or "Nats-Marker-Reason" in headers,
        )
        for tell in self._told.get(subject, ()):
            tell(landed)

    def _missed(self) -> None:
        for tell in {tell for everyone in self._told.values() for tell in everyone}:
            tell(None)
