"""The open connections to tool servers: one per tenant, server, revision of its record, and whose sign-in it carries.

Opened at first use, closed when nobody used it for a while, when the record changed, when there are too
many, and when the hub closes. Nothing is shared between tenants, nor between people
or agents with credentials of their own. One task group owns every connection;
`upstream` is one of them, `servers` and `toolbox` stand above.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, NamedTuple, Self

import anyio
from anyio.abc import TaskGroup

from mcp_agents.kernel.clock import Clock, SystemClock
from mcp_agents.kernel.errors import Exhausted
from mcp_agents.kernel.tasks import background
from mcp_agents_tools.toolsets.transport import Addresses
from mcp_agents_tools.toolsets.upstream import CONNECT_SECONDS, Target, Upstream

IDLE_SECONDS: Final = 300.0
_SWEEP_SECONDS: Final = 30.0


class Key(NamedTuple):
    """Whose connection it is, and to which version of which record. `owner` is "" where the tenant signs in."""

    tenant: str
    name: str
    revision: int
    owner: str = ""


@dataclass(slots=True)
class _Seat:
    upstream: Upstream
    used_at: float
    users: int = 0


class UpstreamHub:
    """Connections to tool servers; a context manager that closes them all.

    Args:
        egress: asked for every URL and every outbound connection.
        limit: connections open at once, over all tenants.
        idle_seconds: how long an unused connection is kept.
        connect_seconds: how long one may take to start and agree on a protocol.
    """

    def __init__(
        self,
        egress: Addresses,
        *,
        clock: Clock | None = None,
        limit: int = 256,
        idle_seconds: float = IDLE_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self.egress = egress
        self._clock, self._limit = clock or SystemClock(), limit
        self._idle_seconds, self._connect_seconds = idle_seconds, connect_seconds
        self._seats: dict[Key, _Seat] = {}
        self._tasks: TaskGroup | None = None
        self._background = background()

    async def __aenter__(self) -> Self:
        self._tasks = await self._background.__aenter__()
        self._tasks.start_soon(self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None:
            for key in list(self._seats):
                await self._close(key)
        return await self._background.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def use(self, key: Key, target: Target) -> AsyncIterator[Upstream]:
        """The connection under this key while the block runs; it is not closed meanwhile.

        Raises `Exhausted` (`TOOL_SERVERS_BUSY`) when every connection the hub may have is in use.
        """
        await self._retire_others(key)
        seat = self._seats.get(key)
        if seat is None:
            await self._make_room()
            # Somebody may have come first while room was made.
            seat = self._seats.setdefault(key, _Seat(self._upstream(target), self._clock.monotonic()))
        seat.users += 1
        try:
            yield seat.upstream
        finally:
            seat.users -= 1
            seat.used_at = self._clock.monotonic()

    @asynccontextmanager
    async def visit(self, target: Target) -> AsyncIterator[Upstream]:
        """A connection of its own for this block, as adding and refreshing need it."""
        upstream = self._upstream(target)
        try:
            yield upstream
        finally:
            with anyio.CancelScope(shield=True):
                await upstream.close()

    async def forget(self, tenant: str, name: str) -> None:
        """Closes what is open to this server, in use or not."""
        for key in [key for key in self._seats if key[:2] == (tenant, name)]:
            await self._close(key)

    async def leave(self, key: Key) -> None:
        """Closes one connection, unless somebody uses it just now."""
        seat = self._seats.get(key)
        if seat is not None and not seat.users:
            await self._close(key)

    async def close_idle(self) -> None:
        """Closes what nobody has used for `idle_seconds`."""
        due = self._clock.monotonic() - self._idle_seconds
        for key in [key for key, seat in self._seats.items() if not seat.users and seat.used_at <= due]:
            await self._close(key)

    @property
    def open_keys(self) -> frozenset[Key]:
        """What has a place in the hub now."""
        return frozenset(self._seats)

    def _upstream(self, target: Target) -> Upstream:
        if self._tasks is None:
            raise RuntimeError("the hub is not open")
        return Upstream(target, self._tasks, self.egress, self._clock, self._connect_seconds)

    async def _retire_others(self, key: Key) -> None:
        others = [
            other
            for other, seat in self._seats.items()
            if other[:2] == key[:2] and other.revision < key.revision and not seat.users
        ]
        for other in others:
            await self._close(other)

    async def _make_room(self) -> None:
        while len(self._seats) >= self._limit:
            idle = [(seat.used_at, key) for key, seat in self._seats.items() if not seat.users]
            if not idle:
                raise Exhausted(
                    "TOOL_SERVERS_BUSY",
                    "All connections to tool servers are in use.",
                    "Try again shortly.",
                    retry_after_ms=1000,
                )
            await self._close(min(idle)[1])

    async def _close(self, key: Key) -> None:
        seat = self._seats.pop(key, None)
        if seat is not None:
            await seat.upstream.close()

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(_SWEEP_SECONDS)
            await self.close_idle()
