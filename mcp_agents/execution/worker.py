"""Takes jobs under a lease and brings their runs to an end.

A worker owns a run only as long as its appends are accepted: `Fenced` means that somebody else has it,
and it stops. The job is acknowledged after the fenced final append and never before. When the house
closes, unfinished jobs go back to the queue at once.
"""

import logging
from contextlib import suppress
from typing import Final

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


class Worker:
    """One worker loop with up to `concurrency` runs at once."""

    def __init__(self, tenancy: Tenancy, loop: Loop, name: str, concurrency: int) -> None:
        self._tenancy, self._loop, self._name = tenancy, loop, name
        self._concurrency = concurrency
        self._ended = anyio.Event()
        self._held: dict[str, tuple[Delivery, anyio.CancelScope]] = {}

    async def work(self) -> None:
        """Until cancelled."""
        async with background() as tasks:
            tasks.start_soon(self._keep_leases)
            tasks.start_soon(self._hear_cancels)
            jobs = self._tenancy.jobs()
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
        """One job from lease to acknowledgement."""
        finished = False
        try:
            with scope:
                finished = await self._bring_to_end(delivery)
            if scope.cancel_called and not finished:
                finished = await self._is_final(delivery)
        except Fenced:
            finished = await self._is_final(delivery)
        except AgentsError as error:
            log.warning("run %s is given back: %s", delivery.job.execution_id, error)
        except Exception:  # the boundary: what one run meets must not end the worker
            log.exception("run %s is given back", delivery.job.execution_id)
        finally:
            self._held.pop(delivery.job.execution_id, None)
            self._ended.set()
            with anyio.move_on_after(2, shield=True):
                if finished:
                    self._tenancy.faults.reach("job:done")
                    await delivery.done()
                else:
                    await delivery.release()

    async def _bring_to_end(self, delivery: Delivery) -> bool:
        job = delivery.job
        execution = self._tenancy.of_job(job).log(job.execution_id)
        if delivery.attempt == 1 and (begun := execution.begun_here()):
            try:
                return await self._work_on(delivery, execution, *begun)
            except Fenced:
                log.debug("run %s moved on before its worker had it", job.execution_id)
        return await self._work_on(delivery, execution, *await execution.read())

    async def _work_on(self, delivery: Delivery, execution: ExecutionLog, tip: Tip, entries: list[Entry]) -> bool:
        job = delivery.job
        if not entries:
            log.error("job %s has no log and is dropped", job.execution_id)
            return True
        run = Run.folded(job.execution_id, entries)
        if run.finished or (run.status == "running" and delivery.attempt == 1):
            return True  # over, or a second job of a run that another delivery holds
        recorder = Recorder(self._tenancy.of_job(job), execution, tip, run, anyio.Lock(fast_acquire=True))
        if delivery.attempt > MAX_ATTEMPTS:
            await recorder.record([Failed(problem=Problem.of(_too_many_attempts()))])
            return True
        await recorder.record(self._start(run, delivery.attempt))
        try:
            await self._loop.finish(recorder)
        except (AgentsError, Fenced):
            raise
        except Exception:  # the boundary: a defect ends this run, not the worker
            log.exception("run %s met a defect", job.execution_id)
            defect = Fault("INTERNAL", "The run met a defect of the server.", "Report it with the execution id.")
            await recorder.record([Failed(problem=Problem.of(defect))])
        return run.finished

    def _start(self, run: Run, attempt: int) -> list[AnyEvent]:
        attempt = max(attempt, run.attempts + 1)
        events: list[AnyEvent] = [Started(worker=self._name, attempt=attempt)]
        if run.attempts and not run.owed():
            # The call may have been on its way when its worker was lost: said aloud, since it may be paid twice.
            events.append(Retry(what=f"model turn {len(run.turns) + 1}", reason="its worker was lost"))
        return events

    async def _is_final(self, delivery: Delivery) -> bool:
        """Whether the run has ended, by whomever; only then may our acknowledgement remove the job."""
        with anyio.move_on_after(5, shield=True), suppress(AgentsError):
            _, entries = await self._tenancy.of_job(delivery.job).log(delivery.job.execution_id).read()
            return Run.folded(delivery.job.execution_id, entries).finished
        return False

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
