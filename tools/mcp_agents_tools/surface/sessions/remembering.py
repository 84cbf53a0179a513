"""What agents remember: read, changed and erased by those it is about; about the tenant, by those who write agents."""

from datetime import datetime
from typing import Literal

from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.tenancy import Versioned
from mcp_agents.sessions.book import ADMIN
from mcp_agents.sessions.memory import MAX_HOURS, TEXT_LIMIT, About, Edit, Memory
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints
from mcp_agents_tools.surface.sessions.shapes import plugin


class MemoryListing(Arguments):
    """Which memories to list."""

    agent: str = Field("", max_length=64, description="Only those of this agent (id or name).")
    about: Literal["", "user", "tenant"] = Field("", description="Only those about you, or about the tenant.")
    q: str = Field("", max_length=200, description="Only those in which each of these words occurs.")
    cursor: str = Field("", max_length=64, description="The `next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="Memories on a page.")


class MemoryEditing(Arguments):
    """What to change of a memory; what is absent stays."""

    noted = ("memory_id", "accept")

    memory_id: str = Field(min_length=1, max_length=64, description="The memory.")
    text: str | None = Field(None, min_length=1, max_length=TEXT_LIMIT, description="What is remembered from now on.")
    hours: int | None = Field(None, ge=0, le=MAX_HOURS, description="How long from now it is kept; 0: for good.")
    accept: bool = Field(False, description="Lets what an agent noted about the tenant be shown to all of its users.")
    expected_revision: int | None = Field(None, ge=1, description="The revision you read.")


class MemoryErasing(Arguments):
    """What to erase: one memory, those of one agent, or everything."""

    noted = ("memory_id", "agent", "about", "everything", "user")

    memory_id: str = Field("", max_length=64, description="Only this one.")
    agent: str = Field("", max_length=64, description="All of this agent (id or name).")
    everything: bool = Field(False, description="All of every agent.")
    about: Literal["user", "tenant"] = Field("user", description="With `agent`: about you, or about the tenant.")
    user: str = Field("", max_length=255, description="About somebody else, unseen; needs sessions:admin.")


class MemoryView(Struct, frozen=True, kw_only=True):
    """A memory and where it came from: whose run (`by`), which one, in which session. Without `expires_at` it is kept
    for good. What is not `accepted` is shown to no model yet."""

    memory_id: str
    agent_id: str
    about: About
    term: Literal["short", "long"]
    text: str
    accepted: bool
    by: str
    at: datetime
    execution_id: str
    session_id: str
    expires_at: datetime | None
    edited_by: str
    edited_at: datetime | None
    revision: int


class MemoryPage(Struct, frozen=True, kw_only=True):
    """Memories, newest first; `next_cursor` is empty on the last page."""

    memories: tuple[MemoryView, ...]
    next_cursor: str


class Erased(Struct, frozen=True, kw_only=True):
    """How many were erased."""

    erased: int


@plugin.tool("memory_list", title="List memories", arguments=MemoryListing, result=MemoryPage, hints=READS)
async def memory_list(call: Call, args: MemoryListing) -> MemoryPage:
    """Lists what agents remember about you and about your tenant, newest first. Nobody else sees what is remembered
    about you."""
    agent = await _agent_id(call, args.agent)
    fit = [
        each
        for each in await call.services.memories.all(call.space, call.principal)
        if agent in ("", each.value.agent_id)
        and args.about in ("", each.value.about)
        and each.value.mentions(args.q)
        and (not args.cursor or each.value.id < args.cursor)
    ]
    page = tuple(_view(each) for each in fit[: args.limit])
    return MemoryPage(memories=page, next_cursor=page[-1].memory_id if len(fit) > args.limit else "")


@plugin.tool(
    "memory_edit", title="Edit a memory", arguments=MemoryEditing, result=MemoryView, hints=Hints(idempotent=True)
)
async def memory_edit(call: Call, args: MemoryEditing) -> MemoryView:
    """Changes what an agent remembers about you. What is about the tenant needs agents:write, and reaches the users of
    the agent once somebody has accepted it."""
    edit = Edit(text=args.text, hours=args.hours, accept=args.accept)
    memories = call.services.memories
    return _view(await memories.edit(call.space, call.principal, args.memory_id, edit, expected=args.expected_revision))


@plugin.tool(
    "memory_erase",
    title="Erase memories",
    arguments=MemoryErasing,
    result=Erased,
    hints=Hints(destructive=True, idempotent=True),
)
async def memory_erase(call: Call, args: MemoryErasing) -> Erased:
    """Erases one memory, all that an agent remembers about you, or everything that is remembered about you. Runs and
    sessions keep what was said in them."""
    if [bool(args.memory_id), bool(args.agent), args.everything].count(True) != 1:
        raise _unclear("Give one of memory_id, agent and everything.")
    memories = call.services.memories
    if args.user:
        return Erased(erased=await _of_somebody(call, args))
    if args.memory_id:
        await memories.erase(call.space, call.principal, args.memory_id)
        return Erased(erased=1)
    agent = await _agent_id(call, args.agent)
    if args.about == "tenant":
        if not agent:
            raise _unclear("Name the agent whose memories about the tenant are to go.")
        return Erased(erased=await memories.erase_tenants(call.space, call.principal, agent))
    return Erased(erased=await memories.forget_user(call.space, call.principal.subject, agent))


async def _of_somebody(call: Call, args: MemoryErasing) -> int:
    """For whoever has left, or asks for it: an administrator erases and sees nothing of it."""
    if args.user != call.principal.subject:
        call.principal.require(ADMIN)
    if args.memory_id or args.about == "tenant":
        raise _unclear("With user, give agent or everything.")
    return await call.services.memories.forget_user(call.space, args.user, await _agent_id(call, args.agent))


async def _agent_id(call: Call, agent: str) -> str:
    return (await call.services.agents.get(call.space, agent)).value.id if agent else ""


def _unclear(problem: str) -> Invalid:
    return Invalid("ARGUMENTS_INVALID", f"It is not clear what to erase. {problem}", "Correct them and call again.")


def _view(kept: Versioned[Memory]) -> MemoryView:
    memory = kept.value
    return MemoryView(
        memory_id=memory.id,
        agent_id=memory.agent_id,
        about=memory.about,
        term="short" if memory.expires_at else "long",
        text=memory.text,
        accepted=memory.accepted,
        by=memory.by,
        at=memory.at,
        execution_id=memory.execution_id,
        session_id=memory.session_id,
        expires_at=memory.expires_at,
        edited_by=memory.edited_by,
        edited_at=memory.edited_at,
        revision=kept.revision,
    )
