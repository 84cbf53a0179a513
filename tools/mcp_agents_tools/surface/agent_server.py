"""One agent as an MCP server of its own (`/mcp/agent/{agent}`): a single tool named after it.

This is what another agent, here or in another deployment, adds as a tool server. A repeated call with
the same effect id joins the run it started.
"""

from typing import Any

from mcp_agents_discovery.card import card_of
from pydantic import Field

from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import FINAL
from mcp_agents_tools.surface.executions import ExecutionResult, result_of
from mcp_agents_tools.surface.following import execute
from mcp_agents_tools.surface.plugin import Arguments, Call, Hints, Long, ToolSpec


class Ask(Arguments):
    """What the agent is asked."""

    prompt: str = Field(min_length=1, description="What the agent is asked.")
    context: Any = Field(None, description="JSON data for the agent; shown to its model as data.")


async def agent_tool(call: Call, reference: str) -> ToolSpec:
    """The agent as a tool. Raises `NotFound` when the caller's tenant has no such agent."""
    agent = (await call.services.agents.get(call.space, reference)).value
    card = card_of(agent)

    def order(call: Call, args: Ask) -> Order:
        return Order(
            agent=agent.id,
            prompt=args.prompt,
            context=args.context,
            idempotency_key=call.effect_id,
            task=card.name,
            traceparent=call.traceparent,
            depth=call.depth,
        )

    async def ask(call: Call, args: Ask) -> ExecutionResult:
        return result_of(await execute(call, order(call, args), None))

    async def begin(call: Call, args: Ask) -> str:
        return await call.services.dispatcher.submit(call.space, call.principal, order(call, args))

    return ToolSpec(
        name=card.name,
        title=card.title,
        description=card.description,
        arguments=Ask,
        result=ExecutionResult,
        hints=Hints(open_world=True, destructive=True),
        function=ask,
        text=_answer,
        long=Long(begin=begin, finish=result_of),
    )


def _answer(result: ExecutionResult) -> str:
    """What the asking model reads: the answer alone, or what became of it."""
    if result.status == "completed":
        return result.text
    if result.status not in FINAL:
        return (
            f"The agent's run {result.execution_id} is {result.status}. Call this tool again, with the same arguments."
        )
    reason = f" {result.error.code}: {result.error.public}" if result.error else ""
    return f"The agent's run {result.execution_id} is {result.status}.{reason}"
