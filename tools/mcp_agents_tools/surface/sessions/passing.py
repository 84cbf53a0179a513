"""Passing sessions on: forks, shares, exports and imports."""

from contextlib import suppress
from typing import Any, Literal

import msgspec
from pydantic import Field

from mcp_agents.kernel.errors import NotFound
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints
from mcp_agents_tools.surface.sessions.shapes import (
    ID,
    Exported,
    SessionView,
    found,
    plugin,
    view,
)


class Forking(Arguments):
    """What to fork."""

    noted = ("session_id", "turn")

    session_id: str = ID
    turn: int | None = Field(None, ge=0, description="The last turn that is taken along; absent: all of them.")


class Sharing(Arguments):
    """With whom to share."""

    noted = ("session_id", "who", "may")

    session_id: str = ID
    who: str = Field(min_length=1, max_length=255, description="A member's id (user_list), or `role:` and a role.")
    may: Literal["read", "write"] = Field("read", description="Read it, or take turns in it too.")


class Unsharing(Arguments):
    """From whom to take it back."""

    noted = ("session_id", "who")

    session_id: str = ID
    who: str = Field(min_length=1, max_length=255, description="As it was shared.")


class Exporting(Arguments):
    """What to export."""

    noted = ("session_id",)

    session_id: str = ID


class Importing(Arguments):
    """What to take in."""

    noted = ("agent",)

    agent: str = Field(min_length=1, max_length=64, description="The agent (id or name) that it goes on with.")
    export: dict[str, Any] = Field(description="What session_export gave.")


@plugin.tool("session_fork", title="Fork a session", arguments=Forking, result=SessionView, hints=Hints())
async def session_fork(call: Call, args: Forking) -> SessionView:
    """Begins a session of your own with a copy of another one's turns, up to one of them: to try something else from
    there. The other one stays as it is."""
    session = (await found(call, args.session_id)).value
    return view(call, await call.services.copies.fork(call.space, call.principal, session, args.turn))


@plugin.tool(
    "session_share", title="Share a session", arguments=Sharing, result=SessionView, hints=Hints(idempotent=True)
)
async def session_share(call: Call, args: Sharing) -> SessionView:
    """Lets somebody else of your tenant, or a role, read your session, or take turns in it too."""
    sessions = call.services.sessions
    return view(call, await sessions.share(call.space, call.principal, args.session_id, args.who, args.may))


@plugin.tool(
    "session_unshare",
    title="Stop sharing a session",
    arguments=Unsharing,
    result=SessionView,
    hints=Hints(idempotent=True),
)
async def session_unshare(call: Call, args: Unsharing) -> SessionView:
    """Takes back what session_share gave; it counts from the next call on."""
    sessions = call.services.sessions
    return view(call, await sessions.share(call.space, call.principal, args.session_id, args.who, None))


@plugin.tool("session_export", title="Export a session", arguments=Exporting, result=Exported, hints=READS)
async def session_export(call: Call, args: Exporting) -> Exported:
    """Returns a whole session as one JSON document, which session_import takes in here or elsewhere."""
    session = (await found(call, args.session_id)).value
    name = session.agent_id
    with suppress(NotFound):
        name = (await call.services.agents.get(call.space, session.agent_id)).value.name
    export = await call.services.copies.exported(call.space, session, name)
    return Exported(session_id=session.id, export=msgspec.to_builtins(export))


@plugin.tool("session_import", title="Import a session", arguments=Importing, result=SessionView, hints=Hints())
async def session_import(call: Call, args: Importing) -> SessionView:
    """Begins a session of your own with the turns of an exported one."""
    agent = (await call.services.agents.get(call.space, args.agent)).value
    return view(call, await call.services.copies.imported(call.space, call.principal, agent.id, args.export))
