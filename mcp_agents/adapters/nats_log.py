"""The `Log` port on sharded JetStream streams, fenced by the expected sequence of each subject.

Followers hear what was **stored**, not what was sent: the streams republish accepted appends, and one
shared subscription per process is split here among any number of followers. At the seam between reading
and listening, and after anything that may have been missed, a follower reads the log again.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

import anyio
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import NatsLink, Taken
from mcp_agents.adapters.nats_topology import AUDIT, SESSIONS, log_stream, subjects
from mcp_agents.kernel.errors import Fenced
from mcp_agents.kernel.log import Stored
from mcp_agents.kernel.tenancy import LOG_SHARDS

_BACKLOG: Final = 256
"""Live appends kept for one slow follower; beyond that it is told to read the log instead."""
_WINDOW: Final = 64
"""Appends of one process on their way at once. With full sync a disk takes some hundreds a second: a crowd waits
here for its turn, where it has no time limit, instead of at the server, where it would be sent again."""


class _Follower:
    """What has landed since a follower last looked, and a bell."""

    __slots__ = ("_bell", "live", "missed")

    def __init__(self) -> None:
        self.live: deque[tuple[int, Stored]] = deque()
        self.missed = False
        self._bell: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def heard(self) -> None:
        """Waits for the next ring."""
        self._bell = asyncio.get_running_loop().create_future()
        await self._bell


class NatsLog:
    """Append, read and follow over one link; its one subscription ends with the link."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._window = anyio.Semaphore(_WINDOW, fast_acquire=True)
        self._followers: defaultdict[str, set[_Follower]] = defaultdict(set)
        self._subscribing = anyio.Lock()
        self._subscribed = False
        link.on_gap(self._missed)

    async def append(self, subject: str, payload: bytes, *, expected: int) -> int:
        try:
            async with self._window:
                return await self._link.store(_stream(subject), subject, payload, expected)
        except Taken as taken:
            raise Fenced(subject) from taken

    async def read(self, subject: str, *, after: int = 0) -> list[Stored]:
        return [
            Stored(sequence, message.data)
            async for sequence, message in self._link.each(_stream(subject), subject, after)
        ]

    @asynccontextmanager
    async def follow(self, subject: str, *, empty: bool = False) -> AsyncIterator[AsyncIterator[Stored]]:
        await self._subscribe()
        follower = _Follower()
        live = _republished(subject)
        self._followers[live].add(follower)
        try:
            async with aclosing(self._following(subject, follower, stale=not empty)) as stored:
                yield stored
        finally:
            self._followers[live].discard(follower)
            if not self._followers[live]:
                del self._followers[live]

    async def _following(self, subject: str, follower: _Follower, *, stale: bool) -> AsyncGenerator[Stored, None]:
        after = 0
        while True:
            if stale or follower.missed:
                follower.missed, stale = False, False
                for stored in await self.read(subject, after=after):
                    after = stored.sequence
                    yield stored
            while follower.live:
                previous, stored = follower.live.popleft()
                if stored.sequence <= after:
                    continue
                if previous != after:
                    stale = True
                    break
                after = stored.sequence
                yield stored
            if not (stale or follower.missed or follower.live):
                await follower.heard()

    async def purge(self, subject: str) -> None:
        await self._link.api(f"STREAM.PURGE.{_stream(subject)}", {"filter": subject})

    async def subjects(self, pattern: str) -> dict[str, int]:
        if not pattern.startswith("cb.agent.events."):
            return await subjects(self._link, _stream(pattern), pattern)
        found: dict[str, int] = {}
        for shard in range(LOG_SHARDS):
            found.update(await subjects(self._link, log_stream(shard), pattern))
        return found

    async def _subscribe(self) -> None:
        if self._subscribed:
            return
        async with self._subscribing:
            if self._subscribed:
                return
            with anyio.CancelScope(shield=True):  # whoever leaves meanwhile leaves nothing half done to the others
                await self._link.client.subscribe("cb.agent.log.*.*", cb=self._landed)
                self._subscribed = True
                # A follower reads right after this: the server must know of us before it answers that read.
                await self._link.heard()

    async def _landed(self, message: Msg) -> None:
        followers = self._followers.get(message.subject)
        if not followers:
            return
        headers = message.headers or {}
        stored = Stored(int(headers["Nats-Sequence"]), message.data)
        previous = int(headers["Nats-Last-Sequence"])
        for follower in followers:
            if len(follower.live) < _BACKLOG:
                follower.live.append((previous, stored))
            else:
                follower.live.clear()
                follower.missed = True
            follower.ring()

    def _missed(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.missed = True
                follower.ring()


def _stream(subject: str) -> str:
    if subject.startswith("cb.agent.audit."):
        return AUDIT
    if subject.startswith("cb.agent.session."):
        return SESSIONS
    return log_stream(int(subject.split(".")[3]))


def _republished(subject: str) -> str:
    tenant, execution = subject.split(".")[4:]
    return f"cb.agent.log.{tenant}.{execution}"
