"""Many changes of one hot record as few compare-and-sets: whoever comes while a write is under way goes along
with the next one.

A change is a pure function from the record to the record and an answer; it may be called again when another
process was faster, so contention is between processes and not between calls. It knows nothing of budgets or
slots. Below it stands `Records`; lost acknowledgements are settled there.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Final, Generic, TypeVar, cast

import anyio
from msgspec import Struct

from mcp_agents.kernel.errors import Unavailable, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned

T = TypeVar("T", bound=Struct)
R = TypeVar("R")

_PATIENCE: Final = 15.0
_PAUSE: Final = 0.002
"""Seconds after a lost race, times the attempt, at most; drawn evenly below it."""
_LONGEST_PAUSE: Final = 0.05
_KEPT: Final = 2000


@dataclass(slots=True, eq=False)
class _Asked:
    step: Callable[[Any], tuple[Any, Any]]
    answered: bool = False
    answer: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Line(Generic[T]):
    """Who waits for one record, and the record as this process last wrote it."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: list[_Asked] = field(default_factory=list)
    known: Versioned[T] | None = None


class Combiner(Generic[T]):
    """Changes records of one kind, one write at a time for each record of this process."""

    def __init__(self, records: Callable[[TenantSpace], Records[T]], lifetime: Callable[[T], int]) -> None:
        """`lifetime`: for how many whole seconds a record is kept when nothing is written; 0 is for ever."""
        self._records, self._lifetime = records, lifetime
        self._lines: OrderedDict[tuple[str, ...], _Line[T]] = OrderedDict()

    async def change(
        self, space: TenantSpace, key: tuple[str, ...], step: Callable[[T | None], tuple[T | None, R]]
    ) -> R:
        """Applies `step` to the record under `key` and returns its answer. None stands for no record, both ways.

        A step that returns the very record it was given writes nothing; its answer then rests on a fresh reading.
        What was asked is carried out even when the caller is cancelled meanwhile. Raises `Unavailable`, after
        which the change may or may not have happened.
        """
        line = self._line((space.tenant, *key))
        asked = _Asked(step)
        line.waiting.append(asked)
        with anyio.CancelScope(shield=True):
            async with line.lock:
                if not asked.answered:
                    batch, line.waiting = line.waiting, []
                    await self._carry_out(line, batch, self._records(space), key)
        if asked.error is not None:
            raise asked.error
        return cast("R", asked.answer)

    def _line(self, place: tuple[str, ...]) -> _Line[T]:
        line = self._lines.setdefault(place, _Line())
        self._lines.move_to_end(place)
        if len(self._lines) > _KEPT:
            oldest, idle = next(iter(self._lines.items()))
            if not idle.waiting and not idle.lock.statistics().locked:
                del self._lines[oldest]
        return line

    async def _carry_out(self, line: _Line[T], batch: list[_Asked], records: Records[T], key: tuple[str, ...]) -> None:
        """Answers everyone of the batch, with an answer or with the error that met them all."""
        try:
            answers = await self._written(line, batch, records, key)
        except BaseException as error:
            line.known = None
            for asked in batch:
                asked.answered, asked.error = True, error
            raise
        for asked, answer in zip(batch, answers, strict=True):
            asked.answered, asked.answer = True, answer

    async def _written(
        self, line: _Line[T], batch: list[_Asked], records: Records[T], key: tuple[str, ...]
    ) -> list[Any]:
        patient_until, attempt = anyio.current_time() + _PATIENCE, 0
        while True:
            known, line.known = line.known, None
            found = known or await records.get(*key)
            before = found.value if found else None
            after, answers = _applied(batch, before)
            if after is before:
                if known is None:
                    line.known = found
                    return answers
                continue  # a refusal must not rest on what another process may have changed
            try:
                line.known = await self._write(records, key, after, found.revision if found else 0)
                return answers
            except WrongRevision:
                attempt += 1
            if anyio.current_time() > patient_until:
                raise Unavailable("BUSY", "Too many changes of one record at once.", "Try again.", retry_after_ms=1000)
            await anyio.sleep(uniform(0, min(_PAUSE * attempt, _LONGEST_PAUSE)))  # noqa: S311  # only spreads retries

    async def _write(
        self, records: Records[T], key: tuple[str, ...], value: T | None, revision: int
    ) -> Versioned[T] | None:
        if value is None:
            await records.delete(*key, revision=revision)
            return None
        written = await records.update(*key, value=value, revision=revision, ttl=self._lifetime(value))
        return Versioned(value, written)


def _applied(batch: list[_Asked], value: Any) -> tuple[Any, list[Any]]:
    answers = []
    for asked in batch:
        value, answer = asked.step(value)
        answers.append(answer)
    return value, answers
