"""The writing end of one run: appends, and keeps the fold in step.

It knows nothing of models and tools. Above: the loop and the worker; below: the tenant's log.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import anyio

from mcp_agents.execution.run import Run
from mcp_agents.kernel.events import AnyEvent, Tip
from mcp_agents.kernel.tenancy import ExecutionLog, TenantSpace


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

    async def record(self, events: Iterable[AnyEvent]) -> None:
        """Appends one commit. Raises `Fenced` when somebody else owns the run now.

        Not broken off half way: an append that lands unseen would fence its own writer.
        """
        with anyio.CancelScope(shield=True):
            async with self._one:
                self.tip, entries = await self.log.append(self.tip, events)
                self.run.apply(entries)
