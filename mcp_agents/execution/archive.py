"""Finished runs: what their end sets off, their sealing, their summaries, and the list of all runs.

A finished run is kept live for a while, then becomes one object (its commits) and one summary record; its
subject is emptied, so that the streams hold what is running and recently read. The summaries are the ledger:
one line per run, whatever its end. They lie under the minute in which the run was accepted, so that the newest
are found without looking at the rest.

Above: worker, recovery, surface. Below: the tenant's logs and records.
"""

import logging
from collections import deque
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import anyio
from msgspec import Struct

from mcp_agents.execution import endings, history
from mcp_agents.execution.conversing import Conversations
from mcp_agents.execution.register import Register
from mcp_agents.execution.run import Run, Status
from mcp_agents.execution.spending import Spending
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError, Fault, WrongRevision
from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.tenancy import Records, Tenancy, TenantSpace

log = logging.getLogger("mcp_agents.archive")

SEAL_AFTER_SECONDS: Final = 60.0
_PACE_SECONDS: Final = 0.02
_BUCKET: Final = "cb_executions"
_RUNS: Final = "run"
_DAYS: Final = "day"


class Summary(Struct, frozen=True, kw_only=True):
    """One run in the ledger. Money in micro-USD, times in milliseconds.

    `cost_micro_usd` and `usage` are the run's own: runs it started as tools have lines of their own.
    """

    execution_id: str
    agent_id: str
    agent_version: int
    status: Status
    subject: str
    model: str
    usage: Usage
    cost_micro_usd: int
    turns: int
    tool_calls: int
    queue_ms: int
    total_ms: int
    attempts: int
    created_at: datetime
    finished_at: datetime | None
    error: str = ""
    parent: str = ""
    v: int = 1

    @staticmethod
    def of(run: Run) -> "Summary":
        """The line of a run as it stands."""
        view = run.view()
        return Summary(
            execution_id=run.execution_id,
            agent_id=run.requested.agent_id,
            agent_version=run.agent.version,
            status=run.status,
            subject=run.requested.caller.subject,
            model=run.model,
            usage=run.usage,
            cost_micro_usd=run.cost_micro_usd,
            turns=len(run.turns),
            tool_calls=run.tool_call_count(),
            queue_ms=view.timings.queue_ms,
            total_ms=view.timings.total_ms,
            attempts=run.attempts,
            created_at=run.created_at,
            finished_at=run.finished_at,
            error=run.problem.code if run.problem else "",
            parent=run.requested.parent.execution_id if run.requested.parent else "",
        )


class _Day(Struct, frozen=True, kw_only=True):
    """That a tenant accepted a run on this day."""

    v: int = 1


class _Due(NamedTuple):
    at: float
    space: TenantSpace
    execution_id: str


class Archive:
    """Runs that have ended, of any tenant, always through their `TenantSpace`."""

    def __init__(
        self,
        tenancy: Tenancy,
        spending: Spending,
        register: Register,
        conversations: Conversations,
        *,
        keep_days: int = 0,
    ) -> None:
        """`keep_days`: sealed runs older than this are erased by `work`; 0 keeps them."""
        self._tenancy, self._spending, self._register, self._keep_days = tenancy, spending, register, keep_days
        self._conversations = conversations
        self._due: deque[_Due] = deque()

    async def ended(self, space: TenantSpace, run: Run) -> None:
        """What a run's end sets off: its parent, budgets, questions, session, the dead letters. May be repeated."""
        await endings.wake_parent(space, run)
        await self._settled(space, run)

    async def ended_elsewhere(self, space: TenantSpace, execution_id: str) -> None:
        """As `ended`, but for the parent, for a run that another process has ended and perhaps got no further."""
        try:
            _, entries = await space.log(execution_id).read()
            run = Run.folded(execution_id, entries) if entries else None
        except Fault as error:
            log.warning("the end of run %s is left alone: %s", execution_id, error)
            return
        if run is not None:
            await self._settled(space, run)

    async def _settled(self, space: TenantSpace, run: Run) -> None:
        await self._spending.settle_up(space, run)
        await self._register.sync(space, run)
        await self._conversations.ended(space, run)
        await endings.keep_dead_letter(space, run)
        self._due.append(_Due(self._tenancy.clock.monotonic() + SEAL_AFTER_SECONDS, space, run.execution_id))

    async def work(self) -> None:
        """Seals what is due, at a pace that leaves the disk to the runs, until cancelled."""
        while True:
            try:
                while self._due and self._due[0].at <= self._tenancy.clock.monotonic():
                    due = self._due.popleft()
                    await self.seal(due.space, due.execution_id)
                    await anyio.sleep(_PACE_SECONDS)
            except AgentsError as error:
                log.debug("sealing goes on later: %s", error)
            await anyio.sleep(1)

    async def seal(self, space: TenantSpace, execution_id: str) -> None:
        """Writes the summary of a finished run and seals its log. Leaves one alone that has not ended."""
        _, entries = await space.log(execution_id).read()
        if not entries:
            return
        run = Run.folded(execution_id, entries)
        if not run.finished:
            return
        day, *rest = _place(execution_id)
        try:
            await space.records(_BUCKET, Summary).create(_RUNS, day, *rest, execution_id, value=Summary.of(run))
            await history.add(space, run)
        except WrongRevision:
            log.debug("the summary of %s was there", execution_id)
        try:
            await space.records(_BUCKET, _Day).create(_DAYS, day, value=_Day())
        except WrongRevision:
            log.debug("the day %s is known", day)
        await space.log(execution_id).seal()

    async def summary(self, space: TenantSpace, execution_id: str) -> Summary | None:
        """The line of a run in the ledger: of a sealed one as written, of a live one as it stands."""
        found = await space.records(_BUCKET, Summary).get(_RUNS, *_place(execution_id), execution_id)
        if found is not None:
            return found.value
        _, entries = await space.log(execution_id).read()
        return Summary.of(Run.folded(execution_id, entries)) if entries else None

    async def history(self, space: TenantSpace, agent_id: str) -> tuple[history.Past, ...]:
        """The agent's last completed runs, sealed ones and those that are still live, oldest first."""
        past = (await history.of(space, agent_id)).runs
        live: list[history.Past] = []
        for execution_id in sorted(await space.execution_ids())[-history.KEPT :]:
            _, entries = await space.log(execution_id).read()
            run = Run.folded(execution_id, entries) if entries else None
            if run and run.requested.agent_id == agent_id and run.status == "completed":
                live.append(history.Past.of(run))
        return (*past, *live)[-history.KEPT :]

    async def newest(self, space: TenantSpace, *, before: str = "") -> AsyncGenerator[Summary, None]:
        """Every run of the tenant behind the id `before`, newest first."""
        live = sorted((each for each in await space.execution_ids() if not before or each < before), reverse=True)
        sealed = self._sealed(space, before)
        shown = ""
        ahead = await anext(sealed, None)
        for execution_id in [*live, ""]:
            while ahead is not None and ahead.execution_id > execution_id:
                if ahead.execution_id != shown:
                    yield ahead
                ahead = await anext(sealed, None)
            if execution_id and (line := await self.summary(space, execution_id)):
                shown = execution_id
                yield line

    async def _sealed(self, space: TenantSpace, before: str) -> AsyncGenerator[Summary, None]:
        records = space.records(_BUCKET, Summary)
        limit = _place(before) if before else ("99999999", "23", "59")
        for day in sorted(await space.records(_BUCKET, _Day).names(_DAYS), reverse=True):
            if day > limit[0]:
                continue
            for hour in _downwards(24):
                if (day, hour) > limit[:2] or not await records.any(_RUNS, day, hour):
                    continue
                for minute in _downwards(60):
                    if (day, hour, minute) > limit:
                        continue
                    for line in await self._minute(records, before, day, hour, minute):
                        yield line

    async def _minute(self, records: Records[Summary], before: str, day: str, hour: str, minute: str) -> list[Summary]:
        lines = [found.value for found in await records.all(_RUNS, day, hour, minute)]
        return sorted(
            (line for line in lines if not before or line.execution_id < before),
            key=lambda line: line.execution_id,
            reverse=True,
        )

    async def erase_old(self, space: TenantSpace) -> int:
        """Erases the sealed runs of days that are older than `keep_days`; returns how many."""
        if not self._keep_days:
            return 0
        oldest = (self._tenancy.clock.now() - timedelta(days=self._keep_days)).strftime("%Y%m%d")
        days, runs = space.records(_BUCKET, _Day), space.records(_BUCKET, Summary)
        erased = 0
        for day in [day for day in await days.names(_DAYS) if day < oldest]:
            for hour in _downwards(24):
                for minute in _downwards(60) if await runs.any(_RUNS, day, hour) else ():
                    for found in await runs.all(_RUNS, day, hour, minute):
                        execution_id = found.value.execution_id
                        await space.log(execution_id).erase()
                        await runs.delete(_RUNS, day, hour, minute, execution_id, revision=found.revision)
                        erased += 1
            if known := await days.get(_DAYS, day):
                await days.delete(_DAYS, day, revision=known.revision)
        return erased


def _place(execution_id: str) -> tuple[str, str, str]:
    """Day, hour and minute in which an execution was accepted."""
    at = datetime.fromtimestamp(ids.minted_at(execution_id), UTC)
    return at.strftime("%Y%m%d"), at.strftime("%H"), at.strftime("%M")


def _downwards(count: int) -> list[str]:
    return [f"{number:02}" for number in range(count - 1, -1, -1)]
