"""The prompts of published agents: each agent that is switched on is a prompt, named after it, that leads to its use.

They come and go with the agents, unlike what plugins declare. On an agent's own path its prompt leads to the one
tool there, elsewhere to `agent_execute`.
"""

from typing import Final

from mcp_agents_discovery.card import card_of

from mcp_agents.agents.spec import Agent
from mcp_agents.kernel.errors import NotFound
from mcp_agents_tools.surface.plugin import Call, PromptSpec

_PREFIX: Final = "ask_"
_ARGUMENTS: Final = {"request": "What you want of the agent, in plain words."}


async def of_agents(call: Call) -> dict[str, PromptSpec]:
    """The prompt of every published agent of the tenant, by name."""
    agents = [found.value for found in await call.services.agents.all(call.space)]
    prompts = [of_agent(agent) for agent in agents if agent.is_active]
    return {prompt.name: prompt for prompt in sorted(prompts, key=lambda prompt: prompt.name)}


async def named(call: Call, name: str) -> PromptSpec | None:
    """The prompt of the published agent that this name stands for."""
    if not name.startswith(_PREFIX):
        return None
    try:
        agent = (await call.services.agents.get(call.space, name.removeprefix(_PREFIX))).value
    except NotFound:
        return None
    return of_agent(agent) if agent.is_active and f"{_PREFIX}{agent.name}" == name else None


def of_agent(agent: Agent, *, alone: bool = False) -> PromptSpec:
    """The prompt of one agent; `alone`: where its own tool is what there is."""
    card = card_of(agent)
    by = f"Call the tool {agent.name}" if alone else f'Call agent_execute with agent "{agent.name}"'

    async def render(call: Call, arguments: dict[str, str]) -> str:
        """What a model is told so that it has the agent do it."""
        return (
            f"{arguments['request']}\n\n"
            f"Have this done by the agent {agent.name}: {card.description}\n{by}. Its prompt is the request above, "
            "with everything from this conversation that the agent needs to know, since it sees nothing else. "
            "Then give its answer, and say so if it could not do all of it."
        )

    return PromptSpec(
        name=f"{_PREFIX}{agent.name}",
        title=card.title,
        description=card.description,
        arguments=_ARGUMENTS,
        render=render,
    )
