"""Puts an event from outside into the log of a run that may be in somebody's hands.

The log of a run is fenced: whoever appends beside the worker that holds it takes the run from it. So the event is
sent to the holder, which appends it behind its own last commit, and is taken for posted when it is seen in the
log. Where nobody holds the run it is appended here. Nothing counts before it is stored: an event that a lost
worker has heard is sent again. Above: `answering` and `steering`. Below: the dispatcher and the tenant's log.
"""

from collections.abc import Callable
from typing import Final

import anyio

from mcp_agents.execution.dispatch import Dispatcher, unknown_execution
from mcp_agents.execution.run import Run
from mcp_agents.execution.signals import CONTROL, Note, encode
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Fenced, Unavailable
from mcp_agents.kernel.events import Posted
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace

PATIENCE_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 0.5


class Post:
    """Posts events. Holds no state of any run."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._dispatcher, self._clock = dispatcher, clock

    async def run(self, space: TenantSpace, execution_id: str) -> Run:
        """The run as it stands. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        return await self._dispatcher.run(space, execution_id)

    async def may_join(self, space: TenantSpace, principal: Principal, execution_id: str) -> None:
        """Raises `NotFound` or `Denied` where the run is somebody else's, of a session that this caller may not write:
        what a run is told is said in its session."""
        run = await self.run(space, execution_id)
        if run.within and principal.subject != run.requested.caller.subject:
            await self._dispatcher.conversations.still_allowed(space, principal, run.within)

    async def put(self, space: TenantSpace, execution_id: str, event: Posted, fits: Callable[[Run], object]) -> Run:
        """Returns the run with the event in it. `fits` is asked before each attempt and raises where it does not.

        Raises `NotFound` (`EXECUTION_UNKNOWN`), `Unavailable` (`EXECUTION_BUSY`).
        """
        if not ids.is_id(execution_id, "ex"):
            raise unknown_execution()
        until = self._clock.monotonic() + PATIENCE_SECONDS
        while self._clock.monotonic() < until:
            tip, entries = await space.log(execution_id).read()
            if not entries:
                raise unknown_execution()
            run = Run.folded(execution_id, entries)
            if any(entry.event == event for entry in entries):
                return run
            fits(run)
            if run.status == "running":
                await self._send(space, run, event)
                continue
            try:
                _, more = await space.log(execution_id).append(tip, [event])
            except Fenced:
                continue  # somebody took it, or was faster
            run.apply(more)
            return run
        raise Unavailable(
            "EXECUTION_BUSY",
            "Whoever has the run does not answer.",
            "Look at its events, and try again if what you said is not among them.",
        )

    async def _send(self, space: TenantSpace, run: Run, event: Posted) -> None:
        """Tells the holder; returns when the run took a step, or after a while."""
        async with space.log(run.execution_id).follow() as batches:
            await space.signal(CONTROL, run.execution_id, encode(Note(run.execution_id, event)))
            with anyio.move_on_after(_AGAIN_SECONDS):
                async for batch in batches:
                    if batch[-1].seq > run.cursor:
                        return

    async def wake(self, space: TenantSpace, run: Run, occasion: str) -> None:
        """Queues a waiting run for which something has changed; once per occasion."""
        if run.status == "waiting":
            await space.enqueue(
                run.requested.agent_id, run.execution_id, occasion=occasion, priority=run.requested.priority
            )
