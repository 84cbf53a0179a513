"""Whether somebody cares for a run: who follows it or reads it, in any process.

A short record per run says until when it counts as looked after. It is written for a run that is followed for
longer than a while, that loses its follower before its end, or that is read, and at most once in `touch`
seconds each time: a run that ends quickly costs nothing. `abandonment` reads what is written here.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import anyio
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, WrongRevision
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Records, TenantSpace

log = logging.getLogger("mcp_agents.attention")

_PLACE: Final = "attended"
_TOUCH_SECONDS: Final = 30.0
_REMEMBERED: Final = 10_000
_GRACE_SECONDS: Final = 60


class _Attended(Struct, frozen=True, kw_only=True):
    """Somebody cared for a run; it counts as looked after `until` then."""

    execution_id: str
    until: datetime
    v: int = 1


@dataclass(slots=True)
class _Followed:
    space: TenantSpace
    noted_at: float
    followers: int = 1


class Attention:
    """One per process. Nothing is written where runs are never abandoned (`after` is 0)."""

    def __init__(self, clock: Clock, after: float) -> None:
        """`after`: seconds that a run may be left alone."""
        self.after, self.touch = after, min(_TOUCH_SECONDS, after / 4)
        self._clock = clock
        self._followed: dict[tuple[str, str], _Followed] = {}
        self._noted: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[None]:
        """Keeps up the word of what this process follows while the block runs."""
        async with background() as tasks:
            if self.after:
                tasks.start_soon(self._keep)
            yield

    async def _keep(self) -> None:
        while True:
            await anyio.sleep(self.touch)
            await self.keep()

    @contextmanager
    def following(self, space: TenantSpace, execution_id: str) -> Iterator[None]:
        """Somebody follows the run while the block runs."""
        key = space.tenant, execution_id
        if key in self._followed:
            self._followed[key].followers += 1
        else:
            self._followed[key] = _Followed(space, self._clock.monotonic())
        try:
            yield
        finally:
            self._followed[key].followers -= 1
            if not self._followed[key].followers:
                del self._followed[key]

    async def left(self, space: TenantSpace, execution_id: str) -> None:
        """A follower went before the run's end: from now on it may be left alone for a while."""
        if self.after and (space.tenant, execution_id) not in self._followed:
            await self._note(space, execution_id, self.after)

    async def read(self, space: TenantSpace, execution_id: str) -> None:
        """Somebody looked at a run that has not ended."""
        noted_at, _ = self._noted.get((space.tenant, execution_id), (float("-inf"), 0))
        if self.after and self._clock.monotonic() - noted_at >= self.touch:
            await self._note(space, execution_id, self.after + self.touch)

    async def keep(self) -> None:
        """Says again which runs are followed here, where it was not said lately."""
        due = self._clock.monotonic() - self.touch / 2
        for (_, execution_id), followed in list(self._followed.items()):
            if followed.noted_at <= due:
                followed.noted_at = self._clock.monotonic()
                await self._note(followed.space, execution_id, self.after + self.touch)

    async def until(self, space: TenantSpace) -> dict[str, datetime]:
        """The tenant's runs that somebody cared for lately, and until when that counts."""
        return {found.value.execution_id: found.value.until for found in await self._records(space).all(_PLACE)}

    async def _note(self, space: TenantSpace, execution_id: str, seconds: float) -> None:
        """Never fails: a read is not refused because the word of it cannot be kept."""
        key = space.tenant, execution_id
        value = _Attended(execution_id=execution_id, until=self._clock.now() + timedelta(seconds=seconds))
        _, revision = self._noted.get(key, (0.0, 0))
        try:
            revision = await self._write(space, value, revision)
        except WrongRevision:
            return  # another process says the same at this moment
        except AgentsError as error:
            log.warning("that somebody cares for run %s is said later: %s", execution_id, error)
            return
        self._noted[key] = self._clock.monotonic(), revision
        self._noted.move_to_end(key)
        if len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)

    async def _write(self, space: TenantSpace, value: _Attended, revision: int) -> int:
        records, ttl = self._records(space), round(self.after + self.touch) + _GRACE_SECONDS
        try:
            return await records.update(_PLACE, value.execution_id, value=value, revision=revision, ttl=ttl)
        except WrongRevision:
            found = await records.get(_PLACE, value.execution_id)
            revision = found.revision if found else 0
            return await records.update(_PLACE, value.execution_id, value=value, revision=revision, ttl=ttl)

    def _records(self, space: TenantSpace) -> Records[_Attended]:
        return space.records("cb_leases", _Attended)
