"""Finds what a lost process left behind, and sets it going again.

Four things can be left: a run that was accepted and never queued; a run that a process had begun without a
job and whose lease has ended; a run that waits for another one whose end could not be told, or for a person who
has answered, or whose time to answer is over; a question that is not listed. JetStream brings back what had a
job. All of it is found in the live logs, which are read only when a lease was seen to end, at the start, and now
and then. What is queued twice is dropped by its worker.

Most live logs are of runs that have just ended. A lost run must not wait behind them: the youngest are read first,
several at once; one that has its end is not looked at again, and what its end may still have to set off comes a
few at a time, between two looks for lost processes.
"""

import logging
from collections import deque
from datetime import timedelta
from typing import Final

import anyio

from mcp_agents.execution.archive import Archive
from mcp_agents.execution.register import Register
from mcp_agents.execution.run import GIVEN_BACK, Run
from mcp_agents.execution.station import Station
from mcp_agents.kernel.errors import AgentsError, Fenced
from mcp_agents.kernel.events import Retry
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Tenancy, TenantSpace

log = logging.getLogger("mcp_agents.recovery")

LOOK_SECONDS: Final = 0.5
_UNTOUCHED_SECONDS: Final = 10.0
_EVERYTHING_SECONDS: Final = 60.0
_ORPHAN_AGE: Final = timedelta(seconds=10)
_FORGOTTEN_AGE: Final = timedelta(seconds=300)
_ERASE_SECONDS: Final = 3600.0
_AT_ONCE: Final = 16
_ENDS_A_LOOK: Final = 50


class Recovery:
    """One per process; several do no harm."""

    def __init__(self, tenancy: Tenancy, station: Station, archive: Archive, register: Register) -> None:
        self._tenancy, self._station, self._archive, self._register = tenancy, station, archive, register
        self._living: frozenset[str] = frozenset()
        self._missing: frozenset[str] = frozenset()
        self._ended: set[str] = set()
        """Live logs that were seen to have their end: nothing is looked for there any more."""
        self._ends: deque[tuple[TenantSpace, str]] = deque()

    async def work(self) -> None:
        """Looks for what was left behind, until cancelled."""
        clock = self._tenancy.clock
        untouched_at = everything_at = erased_at = float("-inf")
        while True:
            try:
                if await self.somebody_was_lost() or clock.monotonic() - everything_at > _EVERYTHING_SECONDS:
                    everything_at = float("-inf")  # due until it is done: the store may go away in the middle
                    _told(await self.recover())
                    everything_at = clock.monotonic()
                if clock.monotonic() - untouched_at > _UNTOUCHED_SECONDS:
                    untouched_at = clock.monotonic()
                    _told(await self.sweep())
                await self._take_in_ends()
                if clock.monotonic() - erased_at > _ERASE_SECONDS:
                    erased_at = clock.monotonic()
                    for space in await self._tenancy.tenants():
                        await self._archive.erase_old(space)
            except AgentsError as error:
                log.debug("recovery goes on later: %s", error)
            await anyio.sleep(LOOK_SECONDS)

    async def somebody_was_lost(self) -> bool:
        """Whether a station that was there has been missing in two looks: one look may be a restart of the store."""
        living = await self._station.living()
        gone = self._living - living
        confirmed = bool(gone & self._missing)
        self._missing = gone
        self._living = living if confirmed else self._living | living
        return confirmed

    async def sweep(self) -> int:
        """Queues accepted runs whose job was lost because their front end died before publishing it."""
        queued = 0
        for space, execution_id in await self._tenancy.untouched():
            queued += await self._looked_at(space, execution_id, frozenset(), only_pending=True)
        return queued

    async def recover(self) -> int:
        """Looks at every live log that is not known to have its end; returns how many runs were set going again."""
        living = await self._station.living()
        logs = {execution_id: space for space, execution_id in await self._tenancy.live_logs()}
        self._ended &= logs.keys()
        few = anyio.Semaphore(_AT_ONCE)
        queued = 0

        async def look(execution_id: str) -> None:
            nonlocal queued
            async with few:
                queued += await self._looked_at(logs[execution_id], execution_id, living)

        async with together() as tasks:
            for execution_id in sorted(logs.keys() - self._ended, reverse=True):
                tasks.start_soon(look, execution_id)
        return queued

    async def _take_in_ends(self) -> None:
        """What ends that were found may still have to set off, of some of them: whoever ended the run may be lost."""
        for _ in range(min(_ENDS_A_LOOK, len(self._ends))):
            try:
                await self._archive.ended_elsewhere(*self._ends[0])
            except AgentsError:
                raise
            except Exception:  # the boundary: what one run meets must not end recovery, or be met again at once
                log.exception("what run %s sets off at its end is left out", self._ends[0][1])
            self._ends.popleft()

    async def _looked_at(
        self, space: TenantSpace, execution_id: str, living: frozenset[str], *, only_pending: bool = False
    ) -> bool:
        """As `_set_going`; one log that cannot be read, or a queue that is full, stops nobody else's recovery."""
        try:
            return await self._set_going(space, execution_id, living, only_pending=only_pending)
        except Fenced:
            return False  # it moved on meanwhile
        except AgentsError as error:
            log.warning("run %s is looked at again later: %s", execution_id, error)
            return False

    async def _set_going(
        self, space: TenantSpace, execution_id: str, living: frozenset[str], *, only_pending: bool = False
    ) -> bool:
        tip, entries = await space.log(execution_id).read()
        if not entries:
            return False
        run = Run.folded(execution_id, entries)
        match run.status:
            case "pending":
                age = self._tenancy.clock.now() - entries[-1].at
                # One that waits in a queue is no orphan; with nothing queued it would have been taken by now.
                due = age > _ORPHAN_AGE and (age > _FORGOTTEN_AGE or not await space.queued())
            case "running" if not only_pending and run.job == 0 and run.worker == self._station.name:
                due = not self._station.holds(execution_id)
                if due:  # ours, and not in our hands: an answer of the store was lost when it began
                    await space.log(execution_id).append(tip, [Retry(what=GIVEN_BACK, reason="nobody had it")])
            case "running":
                due = not only_pending and run.job == 0 and run.worker not in living
            case "waiting":
                await self._register.sync(space, run)
                due = not only_pending and await self._can_go_on(space, run)
            case _:
                due = False
                if not only_pending:
                    self._ended.add(execution_id)
                    self._ends.append((space, execution_id))
        if due:
            await space.enqueue(
                run.requested.agent_id,
                execution_id,
                occasion=f"recovered.{run.cursor}",
                priority=run.requested.priority,
            )
        return due

    async def _can_go_on(self, space: TenantSpace, run: Run) -> bool:
        """Whether something that a waiting run waits for has happened."""
        now = self._tenancy.clock.now()
        if any(question.over(now) for question in run.questions()) or any(call.due for call in run.open_calls()):
            return True
        for call in run.open_calls():
            if not call.child:
                continue
            _, entries = await space.log(call.child).read()
            if not entries or Run.folded(call.child, entries).finished:
                return True
        return bool(run.turns) and not run.waiting_for


def _told(queued: int) -> None:
    if queued:
        log.warning("%d runs were left behind and are queued again", queued)
