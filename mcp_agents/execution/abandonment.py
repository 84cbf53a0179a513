"""Ends runs that nobody waits for: their caller was lost, and has not come back.

A run that was submitted, or that another one started, goes on alone; one that waits for a person has that
person's time. Every other run is cancelled when nobody has followed or read it for a while, whichever process
its caller was lost with. Which runs are looked after is `attention`'s; what was lost with a worker `recovery`'s.
"""

import logging
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio

from mcp_agents.execution.attention import Attention
from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.tenancy import Tenancy, TenantSpace

log = logging.getLogger("mcp_agents.abandonment")

REASON: Final = "abandoned"
_BY: Final = "mcp-agents"
_REMEMBERED: Final = 100_000


class Abandonment:
    """One per process that works; several do no harm."""

    def __init__(self, tenancy: Tenancy, attention: Attention, dispatcher: Dispatcher) -> None:
        self._tenancy, self._attention, self._dispatcher = tenancy, attention, dispatcher
        self._spared: OrderedDict[str, None] = OrderedDict()

    async def work(self) -> None:
        """Looks for abandoned runs, until cancelled."""
        while self._attention.after:
            await anyio.sleep(max(1.0, self._attention.touch))
            try:
                if ended := await self.sweep():
                    log.info("%d runs were abandoned and are cancelled", ended)
            except AgentsError as error:
                log.debug("abandoned runs are looked for later: %s", error)

    async def sweep(self) -> int:
        """Cancels what has been left alone for too long; returns how many."""
        if not self._attention.after:
            return 0
        # Younger runs need no word of anybody: it is written only after a while.
        oldest = self._tenancy.clock.now() - timedelta(seconds=self._attention.after + self._attention.touch)
        due: dict[str, tuple[TenantSpace, list[str]]] = {}
        for space, execution_id in await self._tenancy.live_logs():
            if execution_id not in self._spared and _accepted(execution_id) <= oldest:
                due.setdefault(space.tenant, (space, []))[1].append(execution_id)
        ended = 0
        for space, execution_ids in due.values():
            until = await self._attention.until(space)
            for execution_id in execution_ids:
                if until.get(execution_id, oldest) <= self._tenancy.clock.now():
                    ended += await self._ended(space, execution_id)
        return ended

    async def _ended(self, space: TenantSpace, execution_id: str) -> bool:
        try:
            run = await self._dispatcher.find(space, execution_id)
            if run is None or run.finished or run.requested.submitted or run.requested.parent:
                self._spare(execution_id)
                return False
            if run.status == "waiting" and run.questions():
                return False
            await self._dispatcher.end(space, execution_id, by=_BY, reason=REASON)
        except AgentsError as error:  # one log that cannot be read keeps nobody else's run alive
            log.warning("run %s is looked at again later: %s", execution_id, error)
            return False
        return True

    def _spare(self, execution_id: str) -> None:
        self._spared[execution_id] = None
        if len(self._spared) > _REMEMBERED:
            self._spared.popitem(last=False)


def _accepted(execution_id: str) -> datetime:
    return datetime.fromtimestamp(ids.minted_at(execution_id), UTC)
