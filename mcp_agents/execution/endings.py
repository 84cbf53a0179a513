"""What else has to happen when a run has ended, once or more often with the same result.

Called by whoever finds a run ended: its worker, a second worker, the one who cancelled it, the archive. Below:
the tenant's queue and records.
"""

from datetime import datetime

from msgspec import Struct

from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import TenantSpace


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A run that was given up because its worker was lost too often, until somebody requeues it."""

    execution_id: str
    agent_id: str
    reason: str
    attempts: int
    at: datetime
    requeued_as: str = ""
    v: int = 1


async def wake_parent(space: TenantSpace, run: Run) -> None:
    """Queues the run that waits for this one, if there is one. A parent that is not waiting drops the job."""
    if parent := run.requested.parent:
        await space.enqueue(
            parent.agent_id,
            parent.execution_id,
            occasion=f"ended.{run.execution_id}",
            priority=run.requested.priority,
        )


async def keep_dead_letter(space: TenantSpace, run: Run) -> None:
    """Lists the run among the dead letters if it was given up."""
    if run.problem is None or run.problem.code != "ATTEMPTS_EXHAUSTED" or run.finished_at is None:
        return
    letter = DeadLetter(
        execution_id=run.execution_id,
        agent_id=run.requested.agent_id,
        reason=run.problem.public,
        attempts=run.attempts,
        at=run.finished_at,
    )
    try:
        await space.records("cb_executions", DeadLetter).create("dead", run.execution_id, value=letter)
    except WrongRevision:
        return  # it is listed already
