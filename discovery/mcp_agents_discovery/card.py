"""How an agent presents itself to whoever might call it. Pure: a card is made from the record alone."""

from dataclasses import dataclass

from mcp_agents.agents.spec import Agent


@dataclass(frozen=True, slots=True)
class AgentCard:
    """`name` is a valid MCP tool name; `description` is what a model chooses by."""

    name: str
    title: str
    description: str


def card_of(agent: Agent) -> AgentCard:
    """The card of an agent."""
    can = f" It can: {', '.join(agent.capabilities)}." if agent.capabilities else ""
    what = agent.description or f"The agent {agent.name}."
    return AgentCard(agent.name, f"Ask {agent.name}", f"{what}{can} Ask it in plain words; it returns its answer.")
