"""A third party's plugin with one of each: a tool, a resource that can be listened to, and a prompt."""

from typing import Any

from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Listed, Plugin
from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel.tenancy import Topic

plugin = Plugin(
    "roster",
    title="Roster",
    scopes={
        "roster_count": "directory:read",
        "roster://agents/{name}": "directory:read",
        "introduce_agent": "directory:read",
    },
)


class Counting(Arguments):
    """Whom to count."""

    tag: str = Field("", max_length=64, description="Only agents with this tag.")


class Count(Struct, frozen=True, kw_only=True):
    """How many there are."""

    agents: int


@plugin.tool("roster_count", title="Count the roster", arguments=Counting, result=Count, hints=READS)
async def roster_count(call: Call, args: Counting) -> Count:
    """Counts the tenant's agents."""
    every = await call.services.agents.all(call.space)
    return Count(agents=sum(not args.tag or args.tag in found.value.tags for found in every))


async def listed(call: Call) -> list[Listed]:
    """Every agent has an entry."""
    every = await call.services.agents.all(call.space)
    return [Listed(uri=f"roster://agents/{found.value.name}", name=found.value.name) for found in every]


async def complete(call: Call, typed: str) -> list[str]:
    """Names of agents."""
    every = await call.services.agents.all(call.space)
    return [found.value.name for found in every if found.value.name.startswith(typed)]


async def topic(call: Call, name: str) -> Topic:
    """An entry changes with its agent."""
    return call.services.agents.topic(call.space, (await call.services.agents.get(call.space, name)).value.id)


@plugin.resource(
    "roster://agents/{name}",
    name="roster_entry",
    title="An entry",
    listing=listed,
    complete={"name": complete},
    topic=topic,
)
async def entry(call: Call, name: str) -> Any:
    """What the roster says of an agent."""
    agent = (await call.services.agents.get(call.space, name)).value
    return {"name": agent.name, "about": agent.description}


@plugin.prompt(
    "introduce_agent", title="Introduce an agent", arguments={"name": "Its name."}, complete={"name": complete}
)
async def introduce_agent(call: Call, arguments: dict[str, str]) -> str:
    """Introduces an agent to a newcomer."""
    agent = (await call.services.agents.get(call.space, arguments["name"])).value
    return f"Introduce {agent.name} in one sentence. It is said to be: {agent.description}"
