"""Making the first part of a session a summary, at once."""

from pydantic import Field

from mcp_agents.execution.orders import Order
from mcp_agents_tools.surface.executions.shapes import ExecutionResult, links_of, result_of
from mcp_agents_tools.surface.following import execute
from mcp_agents_tools.surface.plugin import Arguments, Call, Hints, Long
from mcp_agents_tools.surface.sessions.shapes import ID, found, plugin

_PROMPT = "Summarize this conversation."


class Compaction(Arguments):
    """What to summarize, and how long to wait for it."""

    session_id: str = ID
    wait_seconds: float | None = Field(
        None, ge=0, le=3600, description="After this many seconds the running state is returned; see agent_execute."
    )


async def _order(call: Call, args: Compaction, *, task: str = "") -> Order:
    session = (await found(call, args.session_id)).value
    return Order(
        agent=session.agent_id,
        prompt=_PROMPT,
        session_id=session.id,
        compacts=True,
        stream=False,
        task=task,
        traceparent=call.traceparent,
        depth=call.depth,
    )


async def _begun(call: Call, args: Compaction) -> str:
    order = await _order(call, args, task="session_compact")
    return await call.services.dispatcher.submit(call.space, call.principal, order)


@plugin.tool(
    "session_compact",
    title="Compact a session",
    arguments=Compaction,
    result=ExecutionResult,
    hints=Hints(open_world=True),
    links=links_of,
    long=Long(begin=_begun, finish=result_of),
)
async def session_compact(call: Call, args: Compaction) -> ExecutionResult:
    """Lets a model summarize all turns but the last; later prompts go with the summary instead of them. A summary that
    loses what it must hold is not taken (SUMMARY_NOT_TAKEN). The turns stay readable with session_messages."""
    return result_of(await execute(call, await _order(call, args), args.wait_seconds))
