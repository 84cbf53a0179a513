"""The plugin `agents`: create, look at, change, roll back, switch off and delete agents."""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import Field

from mcp_agents.agents.catalog import VERSIONS_KEPT
from mcp_agents.agents.spec import Agent, AgentDraft, AgentLimits, AgentPolicy, Label, Limits, Policy
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import NotFound
from mcp_agents.kernel.tenancy import Topic, Versioned
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Listed, Plugin

plugin = Plugin("agents", title="Agents", scopes=scopes.AGENTS)

_REFERENCE = Field(min_length=1, max_length=64, description="The agent's id or name.")
_REVISION = Field(None, ge=1, description="The revision you read; the change is refused if the agent moved on since.")


class AgentView(Struct, frozen=True, kw_only=True):
    """An agent as its tenant sees it. `missing_tools` are bindings to what has been removed since."""

    id: str
    tenant_id: str
    name: str
    description: str
    system_prompt: str
    virtual_model: str
    temperature: float | None
    max_tokens: int | None
    tools: tuple[str, ...]
    missing_tools: tuple[str, ...]
    capabilities: tuple[str, ...]
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    limits: Limits
    policy: Policy
    output_schema: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    updated_by: str
    is_active: bool
    version: int
    revision: int


class AgentSummary(Struct, frozen=True, kw_only=True):
    """One line of a list of agents."""

    id: str
    name: str
    description: str
    virtual_model: str
    capabilities: tuple[str, ...]
    tags: tuple[str, ...]
    is_active: bool
    version: int
    revision: int


class AgentPage(Struct, frozen=True, kw_only=True):
    """A page of agents; `next_cursor` is empty on the last one."""

    agents: tuple[AgentSummary, ...]
    next_cursor: str


class VersionView(Struct, frozen=True, kw_only=True):
    """One version of an agent: when and by whom it was made, and what it changed of the one before."""

    version: int
    updated_at: datetime
    updated_by: str
    changed: tuple[str, ...]
    summary: str


class VersionPage(Struct, frozen=True, kw_only=True):
    """A page of versions, newest first; `next_cursor` is 0 on the last one."""

    agent_id: str
    versions: tuple[VersionView, ...]
    next_cursor: int


class Deleted(Struct, frozen=True, kw_only=True):
    """What was deleted."""

    id: str
    name: str
    deleted: bool = True


class AgentRef(Arguments):
    """One agent."""

    agent: str = _REFERENCE


class AgentListing(Arguments):
    """Which agents to list."""

    capability: str | None = Field(None, max_length=64, description="Only agents with this capability.")
    tag: str | None = Field(None, max_length=64, description="Only agents with this tag.")
    q: str | None = Field(None, max_length=200, description="Only agents whose name or description holds this text.")
    active: bool | None = Field(None, description="Only agents that are switched on, or off.")
    cursor: str = Field("", max_length=64, description="The `next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200, description="Agents on a page.")


class AgentChange(Arguments):
    """Changes to an agent; fields that are absent stay as they are."""

    agent: str = _REFERENCE
    expected_revision: int | None = _REVISION
    name: str | None = Field(None, description="A new name.")
    description: str | None = Field(None, max_length=2000, description="A new description.")
    system_prompt: str | None = Field(None, max_length=100_000, description="New instructions.")
    virtual_model: str | None = Field(None, max_length=200, description="Another model.")
    temperature: float | None = Field(None, ge=0, le=2, description="A new temperature.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="A new output limit.")
    tools: tuple[str, ...] | None = Field(None, description="New tool bindings, replacing the old.")
    capabilities: tuple[Label, ...] | None = Field(None, description="New capabilities, replacing the old.")
    tags: tuple[Label, ...] | None = Field(None, description="New tags, replacing the old.")
    metadata: dict[str, Any] | None = Field(None, description="New metadata, replacing the old.")
    limits: AgentLimits | None = Field(None, description="New limits, replacing the old.")
    policy: AgentPolicy | None = Field(None, description="A new policy, replacing the old.")
    output_schema: dict[str, Any] | None = Field(
        None, description="A new JSON Schema of every answer; null: answers are text."
    )


class AgentVersions(Arguments):
    """Which versions to list."""

    agent: str = _REFERENCE
    cursor: int = Field(0, ge=0, description="The `next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=VERSIONS_KEPT, description="Versions on a page.")


class AgentRollback(Arguments):
    """Which agent to roll back, and to which version."""

    agent: str = _REFERENCE
    version: int = Field(ge=1, description="The version to go back to.")
    expected_revision: int | None = _REVISION


class AgentDeletion(Arguments):
    """Which agent to delete."""

    agent: str = _REFERENCE
    expected_revision: int | None = _REVISION


class AgentActivation(Arguments):
    """Which agent to switch, and where to."""

    agent: str = _REFERENCE
    active: bool = Field(description="True switches the agent on, false off.")
    expected_revision: int | None = _REVISION


_MADE = frozenset({"missing_tools", "revision"})
"""What the view holds besides the record."""


async def _view(call: Call, found: Versioned[Agent]) -> AgentView:
    fields = {name: getattr(found.value, name) for name in AgentView.__struct_fields__ if name not in _MADE}
    missing = await call.services.agents.missing_tools(call.space, found.value)
    return AgentView(**fields, missing_tools=missing, revision=found.revision)


@plugin.tool("agent_create", title="Create an agent", arguments=AgentDraft, result=AgentView, hints=Hints())
async def agent_create(call: Call, draft: AgentDraft) -> AgentView:
    """Creates an agent: instructions, a model and tools under a name. Returns it with its id and revision;
    run it with agent_execute."""
    return await _view(call, await call.services.agents.create(call.space, draft, by=call.principal.subject))


@plugin.tool("agent_get", title="Get an agent", arguments=AgentRef, result=AgentView, hints=READS)
async def agent_get(call: Call, args: AgentRef) -> AgentView:
    """Returns one agent with all its fields and its revision."""
    return await _view(call, await call.services.agents.get(call.space, args.agent))


@plugin.tool("agent_list", title="List agents", arguments=AgentListing, result=AgentPage, hints=READS)
async def agent_list(call: Call, args: AgentListing) -> AgentPage:
    """Lists the tenant's agents, oldest first, by page and filter."""
    needle = (args.q or "").casefold()
    matching = [
        found
        for found in await call.services.agents.all(call.space)
        if found.value.id > args.cursor
        and (args.capability is None or args.capability in found.value.capabilities)
        and (args.tag is None or args.tag in found.value.tags)
        and (args.active is None or args.active == found.value.is_active)
        and needle in f"{found.value.name}\n{found.value.description}".casefold()
    ]
    page = matching[: args.limit]
    fields = [name for name in AgentSummary.__struct_fields__ if name != "revision"]
    return AgentPage(
        agents=tuple(
            AgentSummary(**{name: getattr(found.value, name) for name in fields}, revision=found.revision)
            for found in page
        ),
        next_cursor=page[-1].value.id if len(matching) > len(page) else "",
    )


@plugin.tool(
    "agent_update",
    title="Update an agent",
    arguments=AgentChange,
    result=AgentView,
    hints=Hints(destructive=True, idempotent=True),
)
async def agent_update(call: Call, args: AgentChange) -> AgentView:
    """Changes the given fields of an agent and returns it with its new revision. Runs under way keep the
    version they started with."""
    given = args.model_fields_set - {"agent", "expected_revision"}
    changes = args.model_dump(include=set(given))
    return await _view(
        call,
        await call.services.agents.update(
            call.space, args.agent, changes, args.expected_revision, by=call.principal.subject
        ),
    )


@plugin.tool(
    "agent_versions", title="List the versions of an agent", arguments=AgentVersions, result=VersionPage, hints=READS
)
async def agent_versions(call: Call, args: AgentVersions) -> VersionPage:
    """Lists the versions of an agent, newest first: when, by whom, which fields changed. The last 100 are kept;
    read one in full at cb://agents/{id}/versions/{n}."""
    agent_id = (await call.services.agents.get(call.space, args.agent)).value.id
    found = await call.services.agents.versions(call.space, agent_id, args.cursor, args.limit + 1)
    page = found[: args.limit]
    fields = VersionView.__struct_fields__
    return VersionPage(
        agent_id=agent_id,
        versions=tuple(VersionView(**{name: getattr(version, name) for name in fields}) for version in page),
        next_cursor=page[-1].version if len(found) > len(page) else 0,
    )


@plugin.tool(
    "agent_rollback",
    title="Roll an agent back",
    arguments=AgentRollback,
    result=AgentView,
    hints=Hints(destructive=True),
)
async def agent_rollback(call: Call, args: AgentRollback) -> AgentView:
    """Makes a new version of an agent with the content of an old one, and returns it with its new revision. The
    name goes back too, if it is free; whether the agent is switched on does not."""
    return await _view(
        call,
        await call.services.agents.rollback(
            call.space, args.agent, args.version, args.expected_revision, by=call.principal.subject
        ),
    )


@plugin.tool(
    "agent_set_active",
    title="Switch an agent on or off",
    arguments=AgentActivation,
    result=AgentView,
    hints=Hints(destructive=True, idempotent=True),
)
async def agent_set_active(call: Call, args: AgentActivation) -> AgentView:
    """Switches an agent on or off. Switched off, it takes no new runs (AGENT_INACTIVE); runs under way end."""
    return await _view(
        call,
        await call.services.agents.set_active(
            call.space,
            args.agent,
            active=args.active,
            expected_revision=args.expected_revision,
            by=call.principal.subject,
        ),
    )


@plugin.tool(
    "agent_delete",
    title="Delete an agent",
    arguments=AgentDeletion,
    result=Deleted,
    hints=Hints(destructive=True, idempotent=True),
)
async def agent_delete(call: Call, args: AgentDeletion) -> Deleted:
    """Deletes an agent with its versions, its state and its memories, and frees its name. Its executions stay
    readable."""
    try:
        gone = await call.services.agents.delete(call.space, args.agent, args.expected_revision)
    except NotFound:
        if ids.is_id(args.agent, "ag"):  # a deletion that died halfway is completed
            await call.services.memories.forget_agent(call.space, args.agent)
        raise
    await call.services.memories.forget_agent(call.space, gone.id)
    return Deleted(id=gone.id, name=gone.name)


async def _listed(call: Call) -> list[Listed]:
    return [
        Listed(
            uri=f"cb://agents/{found.value.id}",
            name=found.value.name,
            title=f"Agent {found.value.name}",
            description=found.value.description[:200],
        )
        for found in await call.services.agents.all(call.space)
    ]


async def complete_agent(call: Call, typed: str) -> list[str]:
    """Ids and names of agents that begin with what was typed."""
    every = await call.services.agents.all(call.space)
    return [text for found in every for text in (found.value.name, found.value.id) if text.startswith(typed)]


async def complete_version(call: Call, typed: str) -> list[str]:
    """Numbers of versions of the agent that was filled in before, newest first."""
    if not (agent := call.given.get("id")):
        return []
    try:
        found = await call.services.agents.versions(call.space, agent, 0, VERSIONS_KEPT)
    except NotFound:
        return []
    return [str(version.version) for version in found if str(version.version).startswith(typed)]


async def _agent_topic(call: Call, id: str) -> Topic:  # the template's own word
    agent = (await call.services.agents.get(call.space, id)).value
    return call.services.agents.topic(call.space, agent.id)


async def _state_topic(call: Call, id: str) -> Topic:  # the template's own word
    agent = (await call.services.agents.get(call.space, id)).value
    return call.services.agents.states.topic(call.space, agent.id)


@plugin.resource(
    "cb://agents/{id}",
    name="agent",
    title="An agent",
    listing=_listed,
    complete={"id": complete_agent},
    topic=_agent_topic,
)
async def agent_resource(call: Call, id: str) -> Any:  # the template's own word
    """One agent with all its fields, by id or name."""
    return msgspec.to_builtins(await _view(call, await call.services.agents.get(call.space, id)))


@plugin.resource(
    "cb://agents/{id}/versions/{n}",
    name="agent_version",
    title="A version of an agent",
    complete={"id": complete_agent, "n": complete_version},
)
async def version_resource(call: Call, id: str, n: str) -> Any:  # the template's own words
    """One version of an agent with all its fields, by the agent's id or name and the version's number."""
    number = int(n) if n.isascii() and n.isdecimal() and len(n) < 10 else 0
    agent = await call.services.agents.version(call.space, id, number)
    fields = [*(name for name in AgentView.__struct_fields__ if name not in _MADE), "changed", "summary"]
    return msgspec.to_builtins({name: getattr(agent, name) for name in fields})


@plugin.resource(
    "cb://agents/{id}/state",
    name="agent_state",
    title="The state of an agent",
    complete={"id": complete_agent},
    topic=_state_topic,
)
async def state_resource(call: Call, id: str) -> Any:
    """What an agent keeps from one run to the next with builtin/state_set, and the revision of it; 0: nothing yet."""
    agent = (await call.services.agents.get(call.space, id)).value
    found = await call.services.agents.states.get(call.space, agent.id)
    return {
        "agent_id": agent.id,
        "state": found.value.state,
        "revision": found.revision,
        "updated_at": msgspec.to_builtins(found.value.updated_at) if found.revision else None,
    }


@plugin.prompt(
    "design_agent", title="Design an agent", arguments={"goal": "What the agent should achieve, in a sentence."}
)
async def design_agent(call: Call, arguments: dict[str, str]) -> str:
    """Guides through making an agent for a goal: name, instructions, model, tools, limits."""
    names = ", ".join(call.services.models.names())
    return (
        f"Design an agent for this goal: {arguments['goal']}\n\n"
        f"Models to choose from: {names}. Look at the tool servers with tool_server_list, then call agent_create "
        "with a short name, a precise system_prompt, only the tools it needs, and limits; try it with agent_execute."
    )
