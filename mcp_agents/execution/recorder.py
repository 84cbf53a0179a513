"""The writing end of one run: appends, and keeps the fold in step.

It knows nothing of models and tools. Above: the loop and the worker; below: the tenant's log.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio

from mcp_agents.execution.run import Run
from mcp_agents.kernel.events import AnyEvent, ApprovalDecided, InputReceived, Posted, Steered, Tip
from mcp_agents.kernel.tenancy import ExecutionLog, TenantSpace

STORE_AWAY: Final = "STORE_UNAVAILABLE"
"""The one error that ends no run: what cannot be recorded now will be, by whoever takes the run over."""


def _lock() -> anyio.Lock:
    return anyio.Lock(fast_acquire=True)


@dataclass(slots=True)
class Recorder:
    """One append at a time, each behind the one before."""

    space: TenantSpace
    log: ExecutionLog
    tip: Tip
    run: Run
    _one: anyio.Lock = field(default_factory=_lock)

    async def record(self, events: Iterable[AnyEvent] | Callable[[], Iterable[AnyEvent]]) -> None:
        """Appends one commit. Raises `Fenced` when somebody else owns the run now.

        `events` may be a function: it is asked when nothing can come between its answer and the append, and an
        empty answer appends nothing. Not broken off half way: an append that lands unseen would fence its own writer.
        """
        with anyio.CancelScope(shield=True):
            async with self._one:
                known = events() if callable(events) else events
                if known:
                    self.tip, entries = await self.log.append(self.tip, known)
                    self.run.apply(entries)

    async def post(self, event: Posted) -> None:
        """Appends what was sent to the holder of the run, unless it came too late or is there already."""
        await self.record(lambda: [event] if _fits(self.run, event) else [])


def _fits(run: Run, event: Posted) -> bool:
    if run.status != "running":
        return False  # who sent it sees so in the log
    match event:
        case Steered():
            return event not in run.steered
        case ApprovalDecided():
            asked = event.approval_id
        case InputReceived():
            asked = event.effect_id
    return asked in (question.id for question in run.questions())
