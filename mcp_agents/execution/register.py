"""Which questions are open, and how the last ones ended, for whoever looks for something to decide.

A record per question, under `open` until it is answered and under `done` for a week. The logs of the runs are what
counts: the records follow from them, are brought in line whenever a run asks, is told or ends, and are checked
against them when they are shown. What a crash leaves out of line `recovery` mends. Above: the loop, `answering`,
`endings`, the surface. Below: the tenant's records and logs.
"""

import logging
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.execution.questions import Kind
from mcp_agents.execution.run import Posed, Run
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace

log = logging.getLogger("mcp_agents.register")

Status = Literal["open", "expired", "approved", "refused", "answered", "declined", "void", "ended"]
DONE_SECONDS: Final = 7 * 86_400
_LATE: Final = timedelta(days=1)
_ARGUMENTS: Final = 16 * 1024
_PLACE: Final = "question"
_OPEN: Final = "open"
_DONE: Final = "done"


class Asked(Struct, frozen=True, kw_only=True):
    """A question, the run that asks it, and how it ended.

    `asked_for` is the subject for whom the run runs. `arguments` is null where they have more than 16 KiB; the run
    shows them. `by` is `other` where that subject may not decide. `expired`: its time is over and the run was not
    told yet, or went on without; `void`: what was to be approved had changed; `ended`: the run ended before.
    """

    id: str
    kind: Kind
    status: Status
    message: str
    tool: str
    arguments: Any
    schema: dict[str, Any]
    execution_id: str
    agent_id: str
    agent_name: str
    agent_version: int
    asked_for: str
    by: Literal["any", "other"]
    expires_at: datetime | None
    url: str = ""
    decided_by: str = ""
    reason: str = ""
    decided_at: datetime | None = None
    v: int = 1


class Register:
    """Questions of any tenant's runs, always through a `TenantSpace`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def sync(self, space: TenantSpace, run: Run) -> None:
        """Brings the records of a run's questions in line with its log. Fails silently: it is done again."""
        if not run.posed:
            return
        still = () if run.finished else tuple(question.id for question in run.questions())
        try:
            for question_id, posed in run.posed.items():
                if question_id in still:
                    await self._open(space, _record(run, posed, "open"))
                else:
                    await self._close(space, _record(run, posed, _end(posed)))
        except AgentsError as error:
            log.warning("the questions of run %s are listed later: %s", run.execution_id, error)

    async def find(self, space: TenantSpace, question_id: str) -> Asked | None:
        """The record of a question, open or done, as the run's log has it now."""
        for place in (_OPEN, _DONE):
            if found := await self._records(space).get(_PLACE, place, question_id):
                return await self.checked(space, found.value)
        return None

    async def newest(self, space: TenantSpace, *, done: bool, before: str = "") -> list[Asked]:
        """The open ones, or those that have ended, behind the id `before`, newest first; as they were written."""
        found = [each.value for each in await self._records(space).all(_PLACE, _DONE if done else _OPEN)]
        kept = [asked for asked in found if not before or _age(asked.id) < _age(before)]
        return sorted(kept, key=lambda asked: _age(asked.id), reverse=True)

    async def checked(self, space: TenantSpace, asked: Asked) -> Asked:
        """The record as the run's log has it now; one that was out of line is mended."""
        if asked.status != "open":
            return asked
        _, entries = await space.log(asked.execution_id).read()
        run = Run.folded(asked.execution_id, entries) if entries else None
        if run is None or asked.id not in run.posed:
            return msgspec.structs.replace(asked, status="ended")
        if run.finished or asked.id not in (question.id for question in run.questions()):
            await self.sync(space, run)
            return _record(run, run.posed[asked.id], _end(run.posed[asked.id]))
        over = asked.expires_at is not None and asked.expires_at <= self._clock.now()
        return msgspec.structs.replace(asked, status="expired") if over else asked

    async def _open(self, space: TenantSpace, asked: Asked) -> None:
        ttl = 0
        if asked.expires_at is not None:
            ttl = max(1, ceil((asked.expires_at + _LATE - self._clock.now()).total_seconds()))
        try:
            await self._records(space).create(_PLACE, _OPEN, asked.id, value=asked, ttl=ttl)
        except WrongRevision:
            return  # it is listed

    async def _close(self, space: TenantSpace, asked: Asked) -> None:
        records = self._records(space)
        found = await records.get(_PLACE, _OPEN, asked.id)
        if found is None:
            return
        try:
            await records.create(_PLACE, _DONE, asked.id, value=asked, ttl=DONE_SECONDS)
        except WrongRevision:
            log.debug("the end of %s is listed", asked.id)
        try:
            await records.delete(_PLACE, _OPEN, asked.id, revision=found.revision)
        except WrongRevision:
            return  # somebody else took it off the list

    def _records(self, space: TenantSpace) -> Records[Asked]:
        return space.records("cb_executions", Asked)


def _end(posed: Posed) -> Status:
    """How a question that is not open any more ended."""
    if posed.told:
        return posed.told.outcome
    match posed.call.result.partition(":")[0]:
        case "APPROVAL_EXPIRED" | "QUESTION_EXPIRED":
            return "expired"
        case "APPROVAL_VOID":
            return "void"
        case _:
            return "ended"


def _age(question_id: str) -> str:
    """What ids of any kind sort by: the time they were minted."""
    return question_id.partition("_")[2]


def _record(run: Run, posed: Posed, status: Status) -> Asked:
    question, told = posed.question, posed.told
    fits = len(msgspec.json.encode(question.arguments)) <= _ARGUMENTS
    return Asked(
        id=question.id,
        kind=question.kind,
        status=status,
        message=question.message,
        tool=question.tool,
        arguments=question.arguments if fits else None,
        schema=question.schema,
        execution_id=run.execution_id,
        agent_id=run.agent.id,
        agent_name=run.agent.name,
        agent_version=run.agent.version,
        asked_for=run.requested.caller.subject,
        by=question.by,
        expires_at=question.expires_at,
        url=question.url,
        decided_by=told.by if told else "",
        reason=told.reason if told else "",
        decided_at=told.at if told else None,
    )
