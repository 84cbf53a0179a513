"""Runs that were given up because their worker was lost too often."""

from msgspec import Struct
from pydantic import Field

from mcp_agents.execution.endings import DeadLetter
from mcp_agents_tools.surface.executions.shapes import ID, ExecutionResult, plugin, result_of
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints


class DeadLetterPage(Struct, frozen=True, kw_only=True):
    """Dead letters, newest first; `next_cursor` is empty on the last page."""

    dead_letters: tuple[DeadLetter, ...]
    next_cursor: str


class DeadLetterListing(Arguments):
    """Which dead letters to list."""

    cursor: str = Field("", max_length=64, description="The `next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="Dead letters on a page.")


class Requeueing(Arguments):
    """Which dead letter to run again."""

    execution_id: str = ID


@plugin.tool(
    "dead_letter_list", title="List dead letters", arguments=DeadLetterListing, result=DeadLetterPage, hints=READS
)
async def dead_letter_list(call: Call, args: DeadLetterListing) -> DeadLetterPage:
    """Lists runs that were given up because their worker was lost too often, newest first."""
    letters = await call.services.dead_letters.newest(call.space, before=args.cursor)
    page = letters[: args.limit]
    more = len(letters) > args.limit
    return DeadLetterPage(dead_letters=tuple(page), next_cursor=page[-1].execution_id if more else "")


@plugin.tool(
    "dead_letter_requeue",
    title="Requeue a dead letter",
    arguments=Requeueing,
    result=ExecutionResult,
    hints=Hints(open_world=True, destructive=True, idempotent=True),
)
async def dead_letter_requeue(call: Call, args: Requeueing) -> ExecutionResult:
    """Runs a dead letter again as a new execution of the agent as it is now, for whoever calls this. Repeating the
    call joins that execution."""
    return result_of(await call.services.dead_letters.requeue(call.space, call.principal, args.execution_id))
