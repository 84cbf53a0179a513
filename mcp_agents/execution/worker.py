"""Takes jobs under a lease and brings their runs to an end.

A worker owns a run only as long as its appends are accepted: `Fenced` means that somebody else has it,
and it stops. The job is acknowledged after the fenced final append and never before. When the house
closes, unfinished jobs go back to the queue at once.
"""

import logging
from contextlib import suppress
from typing import Final, Literal

import anyio
import msgspec

from mcp_agents.execution.loop import Loop, Recorder
from mcp_agents.execution.run import Run
from mcp_agents.execution.signals import decode_cancel
from mcp_agents.kernel.errors import AgentsError, Exhausted, Fault, Fenced
from mcp_agents.kernel.events import AnyEvent, Entry, Failed, Problem, Retry, Started, Tip
from mcp_agents.kernel.job import Delivery
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import ExecutionLog, Tenancy

log = logging.getLogger("mcp_agents.worker")

KEEP_SECONDS: Final = 1.5
MAX_ATTEMPTS: Final = 5
_IDLE_SECONDS: Final = 5.0

Fate = Literal["done", "give back", "leave"]
"""What becomes of a leased job: acknowledged, returned to the queue at once, or left to its lease."""


class Worker:
    """One worker loop with up to `concurrency` runs at once."""

    def __init__(self, tenancy: Tenancy, loop: Loop, name: str, concurrency: int) -> None:
        self._tenancy, self._loop, self._name = tenancy, loop, name
        self._concurrency = concurrency
        self._ended = anyio.Event()
        self._held: dict[str, tuple[Delivery, anyio.CancelScope]] = {}

    async def work(self) -> None:
        """Until cancelled."""
        async with self._tenancy.jobs() as jobs, background() as tasks:
            tasks.start_soon(self._keep_leases)
            tasks.start_soon(self._hear_cancels)
            while True:
                room = self._concurrency - len(self._held)
                if room <= 0:
                    self._ended = anyio.Event()
                    await self._ended.wait()
                    continue
                for delivery in await jobs.take(room, _IDLE_SECONDS):
                    scope = anyio.CancelScope()
                    self._held[delivery.job.execution_id] = (delivery, scope)
                    tasks.start_soon(self._hold, delivery, scope)

    async def _hold(self, delivery: Delivery, scope: anyio.CancelScope) -> None:
        """One job from its lease to what becomes of it."""
        fate: Fate = "give back"
        try:
            with scope:
                fate = await self._bring_to_end(delivery)
            if scope.cancelled_caught:
                fate = await self._fate_of_lost(delivery)
        except Fenced:
            fate = await self._fate_of_lost(delivery)
        except AgentsError as error:
            log.warning("run %s is given back: %s", delivery.job.execution_id, error)
        except Exception:  # the boundary: what one run meets must not end the worker
            log.exception("run %s is given back", delivery.job.execution_id)
        finally:
            self._held.pop(delivery.job.execution_id, None)
            self._ended.set()
            with anyio.move_on_after(2, shield=True):
                match fate:
                    case "done":
                        self._tenancy.faults.reach("job:done")
                        await delivery.done()
                    case "give back":
                        await delivery.release()
                    case "leave":
                        delivery.leave()  # it is somebody else's by now: our word about it could only harm

    async def _bring_to_end(self, delivery: Delivery) -> Fate:
        recorder = await self._begin(delivery)
        if not isinstance(recorder, Recorder):
            return recorder
        run = recorder.run
        try:
            await self._loop.finish(recorder)
        except (AgentsError, Fenced):
            raise
        except Exception:  # the boundary: a defect ends this run, not the worker
            log.exception("run %s met a defect", run.execution_id)
            defect = Fault("INTERNAL", "The run met a defect of the server.", "Report it with the execution id.")
            await recorder.record([Failed(problem=Problem.of(defect))])
        return "done" if run.finished else "give back"

    async def _begin(self, delivery: Delivery) -> Recorder | Fate:
        """Takes the run over, in its log; or says what to do with a job for which there is nothing to do."""
        execution = self._tenancy.of_job(delivery.job).log(delivery.job.execution_id)
        if delivery.attempt == 1 and (begun := execution.begun_here()):
            try:
                return await self._take_over(delivery, execution, *begun)
            except Fenced:
                log.debug("run %s moved on before its worker had it", delivery.job.execution_id)
        return await self._take_over(delivery, execution, *await execution.read())

    async def _take_over(
        self, delivery: Delivery, execution: ExecutionLog, tip: Tip, entries: list[Entry]
    ) -> Recorder | Fate:
        job = delivery.job
        if not entries:
            log.error("job %s has no log and is dropped", job.execution_id)
            return "done"
        run = Run.folded(job.execution_id, entries)
        if run.finished:
            return "done"
        if run.status == "running" and delivery.attempt == 1:
            # A second job of a run under way can go. The same job in somebody else's hands cannot: it is
            # what brings the run back if they die, and we are the one who came late.
            return "done" if run.job != delivery.number else "leave"
        recorder = Recorder(self._tenancy.of_job(job), execution, tip, run, anyio.Lock(fast_acquire=True))
        if run.attempts >= MAX_ATTEMPTS:  # by the log: a delivery that was given back unworked counts for nothing
            await recorder.record([Failed(problem=Problem.of(_too_many_attempts()))])
            return "done"
        await recorder.record(self._start(run, delivery))
        return recorder

    def _start(self, run: Run, delivery: Delivery) -> list[AnyEvent]:
        events: list[AnyEvent] = [Started(worker=self._name, attempt=run.attempts + 1, job=delivery.number)]
        if run.attempts and not run.owed():
            # The call may have been on its way when its worker was lost: said aloud, since it may be paid twice.
            events.append(Retry(what=f"model turn {len(run.turns) + 1}", reason="its worker was lost"))
        return events

    async def _fate_of_lost(self, delivery: Delivery) -> Fate:
        """A run that is no longer ours: its job may go only if the run has ended, by whomever."""
        with anyio.move_on_after(5, shield=True), suppress(AgentsError):
            _, entries = await self._tenancy.of_job(delivery.job).log(delivery.job.execution_id).read()
            if Run.folded(delivery.job.execution_id, entries).finished:
                return "done"
        return "leave"

    async def _keep_leases(self) -> None:
        while True:
            await anyio.sleep(KEEP_SECONDS)
            for delivery, _ in list(self._held.values()):
                await delivery.keep()

    async def _hear_cancels(self) -> None:
        async with self._tenancy.controls() as controls:
            async for payload in controls:
                with suppress(msgspec.MsgspecError):
                    execution_id = decode_cancel(payload).execution_id
                    if held := self._held.get(execution_id):
                        held[1].cancel()


def _too_many_attempts() -> Exhausted:
    return Exhausted(
        "ATTEMPTS_EXHAUSTED",
        f"The run lost its worker {MAX_ATTEMPTS} times and was given up.",
        "Look at its events, mend what kills the worker, and start it again.",
    )
