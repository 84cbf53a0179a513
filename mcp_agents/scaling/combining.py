"""One record that many callers of a process change at once: those who wait go together in one compare-and-set.

Contention is then between processes and not between calls. A change is a pure function of the record; it runs
again when another process was first, so that what it answers is always true of the record that was written.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast

import anyio
from msgspec import Struct

from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import TenantSpace

S = TypeVar("S", bound=Struct)
R = TypeVar("R")

_KEPT: Final = 4096


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Callable[[Any], tuple[Any, Any]]
    done: anyio.Event = field(default_factory=anyio.Event)
    answer: Any = None
    error: BaseException | None = None


class Combined(Generic[S]):
    """One record. `changed` is set anew whenever this process has changed it."""

    def __init__(self, space: TenantSpace, key: tuple[str, ...], empty: S) -> None:
        self._records = space.records("cb_ledger", type(empty))
        self._key, self._empty = key, empty
        self._known: tuple[S, int] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._writing = False
        self.changed = anyio.Event()

    async def read(self) -> S:
        """The record as it is stored now."""
        self._known = None
        return (await self._current())[0]

    async def change(self, change: Callable[[S], tuple[S, R]]) -> R:
        """Applies a change and returns its answer once it is stored. Raises `Unavailable`."""
        mine = _Waiting(change)
        self._waiting.append(mine)
        if self._writing:
            await mine.done.wait()
        else:
            with anyio.CancelScope(shield=True):  # others wait for this write
                await self._write_all()
        if mine.error is not None:
            raise mine.error
        return cast("R", mine.answer)

    async def _write_all(self) -> None:
        self._writing = True
        try:
            while self._waiting:
                batch = list(self._waiting)
                self._waiting.clear()
                try:
                    await self._write(batch)
                except Exception as error:  # noqa: BLE001 - it is raised in everybody who waits for it
                    for each in batch:
                        each.error = error
                for each in batch:
                    each.done.set()
        finally:
            self._writing = False

    async def _write(self, batch: list[_Waiting]) -> None:
        while True:
            before, revision = await self._current()
            after = before
            for each in batch:
                after, each.answer = each.change(after)
            if after == before:
                return
            try:
                revision = await self._records.update(*self._key, value=after, revision=revision)
            except WrongRevision:
                self._known = None
                continue
            self._known = after, revision
            self.changed.set()
            self.changed = anyio.Event()
            return

    async def _current(self) -> tuple[S, int]:
        if self._known is None:
            found = await self._records.get(*self._key)
            self._known = (found.value, found.revision) if found else (self._empty, 0)
        return self._known


class CombinedRecords(Generic[S]):
    """The records of one kind in `cb_ledger` that this process changes, each combined for itself."""

    def __init__(self, empty: S) -> None:
        self._empty = empty
        self._open: OrderedDict[tuple[str, ...], Combined[S]] = OrderedDict()

    def of(self, space: TenantSpace, *key: str) -> Combined[S]:
        """The record under this key of the tenant."""
        place = (space.tenant, *key)
        found = self._open.get(place)
        if found is None:
            found = self._open[place] = Combined(space, key, self._empty)
            if len(self._open) > _KEPT:
                self._open.popitem(last=False)
        self._open.move_to_end(place)
        return found
