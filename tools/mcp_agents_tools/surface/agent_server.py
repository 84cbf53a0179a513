"""One agent as an MCP server of its own (`/mcp/agent/{agent}`): a tool named after it, its prompt, and its runs.

This is what another agent, here or in another deployment, adds as a tool server. A repeated call with
the same effect id joins the run it started. What the caller sends along of its own run is recorded with ours:
its trace goes on, its depth counts on, and an agent that is already among those who called each other to get
here is not called again.
"""

from typing import Any

from mcp_agents_discovery.card import card_of
from pydantic import Field

from mcp_agents.agents.spec import Agent
from mcp_agents.execution.dispatch import unknown_execution
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import FINAL
from mcp_agents.kernel.errors import NotFound
from mcp_agents.kernel.tenancy import Topic
from mcp_agents_tools.surface import prompts
from mcp_agents_tools.surface.catalogue import View
from mcp_agents_tools.surface.executions import ExecutionResult, plugin, reading, result_of
from mcp_agents_tools.surface.following import execute
from mcp_agents_tools.surface.plugin import (
    Arguments,
    Call,
    Hints,
    Listed,
    Long,
    PromptSpec,
    ResourceSpec,
    ToolSpec,
)


class Ask(Arguments):
    """What the agent is asked."""

    prompt: str = Field(min_length=1, description="What the agent is asked.")
    context: Any = Field(None, description="JSON data for the agent; shown to its model as data.")


async def agent_tool(call: Call, reference: str) -> ToolSpec:
    """The agent as a tool. Raises `NotFound` when the caller's tenant has no such agent."""
    agent = await _agent(call, reference)
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
            upstream=call.upstream,
            chain=call.chain,
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


async def agent_prompts(call: Call, reference: str) -> dict[str, PromptSpec]:
    """The prompt of the agent, by its name; none while the agent is switched off. Raises `NotFound`."""
    agent = await _agent(call, reference)
    prompt = prompts.of_agent(agent, alone=True)
    return {prompt.name: prompt} if agent.is_active else {}


async def agent_topic(call: Call, reference: str) -> Topic | None:
    """What changes when the agent does; None where there is none."""
    try:
        return call.services.agents.topic(call.space, (await _agent(call, reference)).id)
    except NotFound:
        return None


def agent_resources(reference: str) -> View:
    """The runs of the agent, under the addresses that they have everywhere; those of other agents are not there."""
    everywhere = plugin.resources
    chosen = {template: each for template, each in everywhere.items() if template.startswith("cb://executions/{id}")}
    return View({}, {template: _of_agent(each, reference) for template, each in chosen.items()}, {})


def _of_agent(resource: ResourceSpec, reference: str) -> ResourceSpec:
    """The resource, for the runs of one agent."""

    async def read(call: Call, id: str) -> Any:  # the template's own word
        await _own(call, reference, id)
        return await resource.read(call, id)

    async def topic(call: Call, id: str) -> Topic:
        await _own(call, reference, id)
        return call.space.log_topic(id)

    async def listing(call: Call) -> list[Listed]:
        return await reading.listed(call, (await _agent(call, reference)).id)

    async def complete(call: Call, typed: str) -> list[str]:
        return await reading.complete_execution(call, typed, (await _agent(call, reference)).id)

    return ResourceSpec(
        template=resource.template,
        name=resource.name,
        title=resource.title,
        description=resource.description,
        read=read,
        listing=listing if resource.listing else None,
        complete={"id": complete},
        topic=topic,
    )


async def _own(call: Call, reference: str, execution_id: str) -> None:
    """Raises `NotFound` unless it is a run of this agent."""
    agent = await _agent(call, reference)
    if (await call.services.dispatcher.run(call.space, execution_id)).requested.agent_id != agent.id:
        raise unknown_execution()


async def _agent(call: Call, reference: str) -> Agent:
    return (await call.services.agents.get(call.space, reference)).value


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
