"""What an agent's last runs cost and how long they took, and what the next one may: `execution_estimate`.

One small record per agent, added to when a run is sealed. Percentiles are of the last completed runs, nearest
rank. Above: the archive and the surface.
"""

from math import ceil
from typing import Final

from msgspec import Struct

from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import TenantSpace

KEPT: Final = 200
_PLACE: Final = "history"


class Past(Struct, frozen=True, array_like=True):
    """One completed run: micro-USD with the runs it started, milliseconds, tokens."""

    cost_micro_usd: int
    total_ms: int
    tokens: int

    @staticmethod
    def of(run: Run) -> "Past":
        """The figures of a completed run."""
        return Past(run.spent.micro_usd, run.view().timings.total_ms, run.spent.tokens)


class History(Struct, frozen=True, kw_only=True):
    """The last completed runs of an agent, oldest first."""

    runs: tuple[Past, ...] = ()
    v: int = 1


async def of(space: TenantSpace, agent_id: str) -> History:
    """What is known of an agent's sealed runs."""
    found = await space.records("cb_agent_state", History).get(_PLACE, agent_id)
    return found.value if found else History()


async def add(space: TenantSpace, run: Run) -> None:
    """Adds a completed run; any other says nothing about what a run costs."""
    if run.status != "completed":
        return
    records = space.records("cb_agent_state", History)
    while True:
        found = await records.get(_PLACE, run.requested.agent_id)
        runs = (*(found.value.runs if found else ()), Past.of(run))[-KEPT:]
        try:
            revision = found.revision if found else 0
            await records.update(_PLACE, run.requested.agent_id, value=History(runs=runs), revision=revision)
        except WrongRevision:
            continue  # another process sealed a run of the same agent
        return


def percentile(values: list[int], percent: int) -> int:
    """The value that this share of the values does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)] if ordered else 0
