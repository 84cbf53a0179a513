"""One run's result as context of another: what is shared is said at the source, and shown as data at the target.

A run is immutable once it has ended, so a share is a choice of parts, not a copy. Sharing stays within the
tenant. Above: the surface. Below: the tenant's records.
"""

from typing import Any, Final, Literal

from msgspec import Struct

from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import Conflict, NotFound, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace

Part = Literal["prompt", "context", "text", "structured", "tool_results"]
_PLACE: Final = "share"


class Share(Struct, frozen=True, kw_only=True):
    """Which parts of a run others may be shown."""

    execution_id: str
    parts: tuple[Part, ...]
    by: str
    v: int = 1


async def share(space: TenantSpace, principal: Principal, run: Run, parts: tuple[Part, ...]) -> Share:
    """Shares these parts of a finished run, in place of what was shared before; none ends the sharing.

    Raises `Conflict` (`EXECUTION_NOT_FINISHED`).
    """
    if not run.finished:
        raise Conflict("EXECUTION_NOT_FINISHED", "Only a finished run can be shared.", "Call execution_wait first.")
    shares = space.records("cb_executions", Share)
    fresh = Share(execution_id=run.execution_id, parts=tuple(dict.fromkeys(parts)), by=principal.subject)
    while True:
        found = await shares.get(_PLACE, run.execution_id)
        try:
            if parts:
                revision = found.revision if found else 0
                await shares.update(_PLACE, run.execution_id, value=fresh, revision=revision)
            elif found:
                await shares.delete(_PLACE, run.execution_id, revision=found.revision)
        except WrongRevision:
            continue  # shared by somebody else in the same moment
        return fresh


async def joined(space: TenantSpace, context: Any, runs: list[Run]) -> Any:
    """The context of a new run together with what these runs share.

    Raises `NotFound` (`EXECUTION_NOT_SHARED`) for a run that shares nothing.
    """
    if not runs:
        return context
    shared: dict[str, Any] = {}
    for run in runs:
        found = await space.records("cb_executions", Share).get(_PLACE, run.execution_id)
        if found is None:
            raise NotFound(
                "EXECUTION_NOT_SHARED",
                f"The execution {run.execution_id} shares nothing.",
                "Share it with execution_share first.",
            )
        shared[run.execution_id] = {part: _part(run, part) for part in found.value.parts}
    return {"shared": shared} if context is None else {"context": context, "shared": shared}


def _part(run: Run, part: Part) -> Any:
    match part:
        case "prompt":
            return run.requested.prompt
        case "context":
            return run.requested.context
        case "text":
            return run.text
        case "structured":
            return run.structured
        case "tool_results":
            return [{"tool": call.tool, "result": call.result} for call in run.view().tool_calls]
