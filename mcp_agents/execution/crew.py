"""What carries runs out in one process, put together: the station with its lease, workers, recovery, archive.

A pure front end has a crew that does not work. Above: whoever serves or works; below: the rest of this room.
"""

import logging
from dataclasses import dataclass

import anyio

from mcp_agents.execution.abandonment import Abandonment
from mcp_agents.execution.archive import Archive
from mcp_agents.execution.recovery import Recovery
from mcp_agents.execution.station import Station
from mcp_agents.execution.worker import Tools, Worker
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Tenancy
from mcp_agents.scaling.slots import KEEP_EVERY

log = logging.getLogger("mcp_agents.crew")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The parts, and their work together."""

    tenancy: Tenancy
    station: Station
    archive: Archive
    recovery: Recovery
    abandonment: Abandonment
    tools: Tools
    concurrency: int

    def worker(self) -> Worker:
        """One worker loop of this process."""
        return Worker(self.tenancy, self.tools, self.concurrency)

    async def work(self, workers: int) -> None:
        """Carries out runs with so many worker loops, looks for what others left behind, and seals what has ended;
        until cancelled."""
        async with self.station.open(), together() as tasks:
            for _ in range(workers):
                tasks.start_soon(self.worker().work)
            tasks.start_soon(self.recovery.work)
            tasks.start_soon(self.abandonment.work)
            tasks.start_soon(self.archive.work)
            tasks.start_soon(self._keep_slots)

    async def _keep_slots(self) -> None:
        while True:
            await anyio.sleep(KEEP_EVERY)
            try:
                await self.tools.slots.keep()
            except AgentsError as error:
                log.debug("the slots are kept later: %s", error)
