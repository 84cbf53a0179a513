"""Takes jobs under a lease, and runs that this process has just accepted, and brings them as far as they go.

A worker owns a run only as long as its appends are accepted: `Fenced` means that somebody else has it, and it
stops. A job is acknowledged after the fenced final append, or when the run waits for somebody else, and never
before. When the house closes, unfinished jobs go back to the queue at once, and runs without a job are queued.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup

from mcp_agents.execution.archive import Archive
from mcp_agents.execution.loop import Loop
from mcp_agents.execution.recorder import Recorder
from mcp_agents.execution.run import GIVEN_BACK, Run
from mcp_agents.execution.signals import Cancel, Note, decode_control
from mcp_agents.execution.spending import Spending
from mcp_agents.execution.station import Station
from mcp_agents.kernel.errors import AgentsError, Exhausted, Fault, Fenced
from mcp_agents.kernel.events import AnyEvent, Entry, Failed, Posted, Problem, Retry, Started, Tip
from mcp_agents.kernel.job import Delivery, Jobs
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import ExecutionLog, Tenancy, TenantSpace
from mcp_agents.scaling.quotas import Quotas
from mcp_agents.scaling.slots import Slots

log = logging.getLogger("mcp_agents.worker")

KEEP_SECONDS: Final = 1.5
MAX_ATTEMPTS: Final = 5
_IDLE_SECONDS: Final = 5.0
_NO_SLOT_SECONDS: Final = 0.5
_GIVE_BACK_SECONDS: Final = 20
_TAKING: Final = 3
"""How often a run is looked at anew that moved on while it was taken: somebody answered or steered it, or has it."""

Fate = Literal["done", "give back", "later", "leave"]
"""What becomes of a leased job: acknowledged, returned to the queue at once or after a while, or left to its lease."""


Work = Callable[[], Awaitable[Fate]]


@dataclass(slots=True, eq=False)
class _Held:
    """A run in hand; `delivery` is None for one that this process began without a job, `recorder` until it is ours."""

    execution_id: str
    space: TenantSpace
    agent_id: str
    scope: anyio.CancelScope
    delivery: Delivery | None
    recorder: Recorder | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker works with, besides its own hands."""

    loop: Loop
    station: Station
    slots: Slots
    quotas: Quotas
    spending: Spending
    archive: Archive


class Worker:
    """One worker loop with up to `concurrency` runs at once."""

    def __init__(self, tenancy: Tenancy, tools: Tools, concurrency: int) -> None:
        self._tenancy, self._tools = tenancy, tools
        self._concurrency = concurrency
        self._ended = anyio.Event()
        self._held: set[_Held] = set()
        self._promised = 0
        self._weights: dict[tuple[str, str], int] = {}
        self._tasks: TaskGroup | None = None

    async def work(self) -> None:
        """Until cancelled."""
        async with self._tenancy.jobs(self._weight) as jobs, background() as tasks:
            self._tasks = tasks
            self._tools.station.offer(self)
            try:
                tasks.start_soon(self._keep_leases)
                tasks.start_soon(self._hear_controls, tasks)
                await self._take_jobs(jobs, tasks)
            finally:
                self._tools.station.withdraw(self)

    async def _take_jobs(self, jobs: Jobs, tasks: TaskGroup) -> None:
        while True:
            room = self._concurrency - len(self._held)
            if room <= 0:
                self._ended = anyio.Event()
                await self._ended.wait()
                continue
            for delivery in await jobs.take(room, _IDLE_SECONDS):
                job = delivery.job
                space = self._tenancy.of_job(job)
                held = _Held(job.execution_id, space, job.agent_id, anyio.CancelScope(), delivery)
                self._held.add(held)
                tasks.start_soon(self._hold_job, delivery, held)

    # ---- a hand of this process (`station.Hand`) ----

    @property
    def free(self) -> bool:
        """While less than half of its places are taken: the rest belongs to those who wait in the queue."""
        taken = len(self._held) + self._promised
        return self._tasks is not None and taken < max(1, self._concurrency // 2)

    def promise(self) -> None:
        """Keeps a place for a run that is about to be begun."""
        self._promised += 1

    def take_back(self) -> None:
        """The promised run is not begun after all."""
        self._promised -= 1

    def holds(self, execution_id: str) -> bool:
        """Whether this run is being carried out here; a job that only asks for it is not the run itself."""
        return any(held.execution_id == execution_id and held.recorder is not None for held in self._held)

    def begin(self, recorder: Recorder) -> None:
        """Carries out a run that was begun by this process; its slot is taken already."""
        if self._tasks is None:
            raise RuntimeError("a worker that does not work was given a run")
        self._promised -= 1
        run = recorder.run
        held = _Held(run.execution_id, recorder.space, run.agent.id, anyio.CancelScope(), None, recorder)
        self._held.add(held)
        self._tasks.start_soon(self._hold_begun, recorder, held)

    async def _hold_begun(self, recorder: Recorder, held: _Held) -> None:
        """A run without a job, from its start to its end; what is left undone is queued."""
        fate: Fate = "give back"
        try:
            fate = await self._guarded(held, lambda: self._advance(recorder))
        finally:
            self._let_go(held)
            with anyio.CancelScope(shield=True):
                await self._tools.slots.give_back(held.space, held.agent_id)
                if fate == "give back":
                    await self._queue(recorder)

    async def _queue(self, recorder: Recorder) -> None:
        """Gives a run without a job to the queue. While the store is away nobody else can have it either."""
        space, run = recorder.space, recorder.run
        for _ in range(_GIVE_BACK_SECONDS):
            try:
                if run.status == "running":
                    await recorder.record([Retry(what=GIVEN_BACK, reason="its process gave it back")])
                await space.enqueue(
                    run.agent.id, run.execution_id, occasion=f"left.{run.worker}", priority=run.requested.priority
                )
            except Fenced:
                return
            except AgentsError as error:
                log.warning("run %s waits to be queued: %s", run.execution_id, error)
                await anyio.sleep(1)
            else:
                return

    # ---- jobs ----

    async def _hold_job(self, delivery: Delivery, held: _Held) -> None:
        """One job from its lease to what becomes of it."""
        fate: Fate = "give back"
        try:
            fate = await self._guarded(held, lambda: self._with_slot(delivery, held))
        finally:
            self._let_go(held)
            with anyio.move_on_after(2, shield=True):
                await self._dispose(delivery, fate)

    async def _dispose(self, delivery: Delivery, fate: Fate) -> None:
        match fate:
            case "done":
                self._tenancy.faults.reach("job:done")
                await delivery.done()
            case "give back":  # at once, but one that comes back again and again must not keep everybody busy
                await delivery.release(
                    0 if delivery.attempt < 3 else min(30.0, 0.5 * 2 ** min(6, delivery.attempt - 3))
                )
            case "later":
                await delivery.release(min(5.0, _NO_SLOT_SECONDS * delivery.attempt))
            case "leave":
                delivery.leave()  # it is somebody else's by now: our word about it could only harm

    async def _guarded(self, held: _Held, work: Work) -> Fate:
        """Runs `work` until it ends, is cancelled from outside, or meets what ends no worker."""
        execution_id = held.execution_id
        try:
            with held.scope:
                return await work()
            return await self._fate_of_lost(held.space, execution_id)
        except Fenced:
            return await self._fate_of_lost(held.space, execution_id)
        except AgentsError as error:
            log.warning("run %s is given back: %s", execution_id, error)
        except Exception:  # the boundary: what one run meets must not end the worker
            log.exception("run %s is given back", execution_id)
        return "give back"

    def _weight(self, tenant: str, agent_id: str) -> int:
        """The weight of a tenant or its agent as it was when it last had a job here."""
        return self._weights.get((tenant, agent_id), 1)

    async def _with_slot(self, delivery: Delivery, held: _Held) -> Fate:
        quota = await self._tools.quotas.of(held.space, held.agent_id)
        self._weights[held.space.tenant, ""] = quota.tenant.weight
        self._weights[held.space.tenant, held.agent_id] = quota.agent.weight
        if not await self._tools.slots.take(held.space, held.agent_id):
            return "later"
        try:
            recorder = await self._begin(delivery)
            if not isinstance(recorder, Recorder):
                return recorder
            held.recorder = recorder
            return await self._advance(recorder)
        finally:
            with anyio.CancelScope(shield=True):
                await self._tools.slots.give_back(held.space, held.agent_id)

    async def _advance(self, recorder: Recorder) -> Fate:
        run = recorder.run
        try:
            await self._tools.loop.advance(recorder)
        except (AgentsError, Fenced):
            raise
        except Exception:  # the boundary: a defect ends this run, not the worker
            log.exception("run %s met a defect", run.execution_id)
            if run.finished:
                return "done"
            defect = Fault("INTERNAL", "The run met a defect of the server.", "Report it with the execution id.")
            await recorder.record([Failed(problem=Problem.of(defect))])
        if run.finished:
            await self._tools.archive.ended(recorder.space, run)
            return "done"
        return "done" if run.status == "waiting" else "give back"

    async def _begin(self, delivery: Delivery) -> Recorder | Fate:
        """Takes the run over, in its log; or says what to do with a job for which there is nothing to do."""
        space = self._tenancy.of_job(delivery.job)
        execution = space.log(delivery.job.execution_id)
        if delivery.attempt == 1 and (begun := execution.begun_here()):
            try:
                return await self._take_over(delivery, execution, *begun)
            except Fenced:
                log.debug("run %s moved on before its worker had it", delivery.job.execution_id)
        for _ in range(_TAKING):
            try:
                return await self._take_over(delivery, execution, *await execution.read())
            except Fenced:
                log.debug("something came between looking at run %s and taking it", delivery.job.execution_id)
        return await self._take_over(delivery, execution, *await execution.read())

    async def _take_over(
        self, delivery: Delivery, execution: ExecutionLog, tip: Tip, entries: list[Entry]
    ) -> Recorder | Fate:
        space, execution_id = self._tenancy.of_job(delivery.job), delivery.job.execution_id
        if not entries:
            log.error("job %s has no log and is dropped", execution_id)
            return "done"
        run = Run.folded(execution_id, entries)
        if run.finished:
            await self._tools.archive.ended(space, run)
            return "done"
        if fate := await self._owned(run, delivery):
            return fate
        recorder = Recorder(space, execution, tip, run)
        lost = run.status == "running"
        events = list[AnyEvent](await self._tools.spending.lost(space, run))
        if lost and run.attempts >= MAX_ATTEMPTS:
            await recorder.record([*events, Failed(problem=Problem.of(_too_many_attempts()))])
            await self._tools.archive.ended(space, run)
            return "done"
        await recorder.record([*self._start(run, delivery, lost=lost), *events])
        await self._tools.spending.settle_up(space, run)
        return recorder

    async def _owned(self, run: Run, delivery: Delivery) -> Fate | None:
        """What to do with the job of a run that somebody is carrying out; None when nobody is."""
        if run.status != "running":
            return None
        station = self._tools.station
        ours = run.worker == station.name
        if run.job == 0:  # begun without a job, under the lease of its process
            alive = station.holds(run.execution_id) if ours else run.worker in await station.living()
            return "done" if alive else None
        if ours and station.holds(run.execution_id):  # this process was too busy to keep the job's lease, and goes on
            return "leave" if run.job == delivery.number else "done"
        if delivery.attempt == 1:
            # A second job of a run under way can go. The same job in somebody else's hands cannot: it is
            # what brings the run back if they die, and we are the one who came late.
            return "done" if run.job != delivery.number else "leave"
        return None if run.job == delivery.number else "done"

    def _start(self, run: Run, delivery: Delivery, *, lost: bool) -> list[AnyEvent]:
        attempt = run.attempts + 1 if lost or not run.attempts else run.attempts
        events: list[AnyEvent] = [Started(worker=self._tools.station.name, attempt=attempt, job=delivery.number)]
        if lost and not run.open_calls():
            # The call may have been on its way when its worker was lost: said aloud, since it may be paid twice.
            events.append(Retry(what=f"model turn {len(run.turns) + 1}", reason="its worker was lost"))
        return events

    async def _fate_of_lost(self, space: TenantSpace, execution_id: str) -> Fate:
        """A run that is no longer ours: its job may go only if the run has ended, by whomever."""
        with anyio.move_on_after(5, shield=True), suppress(AgentsError):
            _, entries = await space.log(execution_id).read()
            run = Run.folded(execution_id, entries)
            if run.finished:
                await self._tools.archive.ended(space, run)
                return "done"
        return "leave"

    def _let_go(self, held: _Held) -> None:
        self._held.discard(held)
        self._ended.set()

    async def _keep_leases(self) -> None:
        while True:
            await anyio.sleep(KEEP_SECONDS)
            for held in list(self._held):
                if held.delivery is not None:
                    await held.delivery.keep()

    async def _hear_controls(self, tasks: TaskGroup) -> None:
        async with self._tenancy.controls() as controls:
            async for payload in controls:
                with suppress(msgspec.MsgspecError):
                    control = decode_control(payload)
                    for held in [held for held in self._held if held.execution_id == control.execution_id]:
                        match control:
                            case Cancel():
                                held.scope.cancel()
                            case Note(event=event):
                                tasks.start_soon(self._take_note, held, event)

    async def _take_note(self, held: _Held, event: Posted) -> None:
        """Appends what somebody outside has to say. It is sent again until it is seen in the log."""
        if held.recorder is not None:
            try:
                await held.recorder.post(event)
            except (AgentsError, Fenced) as error:
                log.debug("a note to %s was not taken: %s", held.execution_id, error)


def _too_many_attempts() -> Exhausted:
    return Exhausted(
        "ATTEMPTS_EXHAUSTED",
        f"The run lost its worker {MAX_ATTEMPTS} times and was given up.",
        "Look at its events, mend what kills the worker, and requeue it with dead_letter_requeue.",
    )
