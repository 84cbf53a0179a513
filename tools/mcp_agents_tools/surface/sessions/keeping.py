"""Beginning sessions, reading them, pinning in them, and their life cycle."""

from typing import Any, Literal

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from mcp_agents.kernel.tenancy import Topic
from mcp_agents.sessions import report
from mcp_agents.sessions.record import PIN_LIMIT, WINDOW_LEAST, WINDOW_MOST, Policy, State, Window
from mcp_agents.sessions.report import Report
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Listed
from mcp_agents_tools.surface.sessions.shapes import (
    ID,
    Deleted,
    SessionPage,
    SessionRef,
    SessionView,
    TurnPage,
    found,
    plugin,
    turn_view,
    view,
)

_REVISION = Field(None, ge=1, description="The revision you read.")


class WindowArgument(BaseModel):
    """How much of the conversation goes with each prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Policy = Field(
        "recent",
        description="The last turns that fit; all of them (`full`); those that changed or left open something before "
        "others (`prioritized`); or the last ones behind a summary of those before (`compacted`).",
    )
    max_tokens: int = Field(
        24_000,
        ge=WINDOW_LEAST,
        le=WINDOW_MOST,
        description="The most that pinned texts and earlier turns take of a prompt.",
    )


class Creation(Arguments):
    """A session to begin."""

    noted = ("agent",)

    agent: str = Field(min_length=1, max_length=64, description="The agent's id or name.")
    window: WindowArgument = Field(
        default_factory=lambda: WindowArgument.model_validate({}), description="How much of it goes with each prompt."
    )
    metadata: dict[str, Any] = Field(default_factory=dict, description="Stored and returned, never shown to the model.")
    idle_seconds: int = Field(
        0, ge=0, le=31_536_000, description="After so long without a turn the session is closed; 0: never."
    )
    max_seconds: int = Field(0, ge=0, le=315_360_000, description="After so long it is closed in any case; 0: never.")


class Change(Arguments):
    """Which session to change."""

    noted = ("session_id",)

    session_id: str = ID
    expected_revision: int | None = _REVISION


class SessionListing(Arguments):
    """Which sessions to list."""

    agent: str = Field("", max_length=64, description="Only those with this agent (id or name).")
    state: Literal["", "active", "suspended", "closed"] = Field("", description="Only those in this state.")
    cursor: str = Field("", max_length=64, description="The `next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="Sessions on a page.")


class Reading(Arguments):
    """Which turns to read."""

    session_id: str = ID
    q: str = Field("", max_length=200, description="Only turns in which this text occurs.")
    before: int = Field(0, ge=0, description="Only turns before this number; the `next_before` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="Turns on a page.")


class Reporting(Arguments):
    """What to report on."""

    session_id: str = ID


class SessionReport(Struct, frozen=True, kw_only=True):
    """Figures of a session, and the same as Markdown."""

    report: Report
    markdown: str


class Pinning(Arguments):
    """What to keep in sight."""

    noted = ("session_id", "remove")

    session_id: str = ID
    text: str = Field(min_length=1, max_length=PIN_LIMIT, description="A text that every prompt goes with.")
    remove: bool = Field(False, description="Takes it off again.")


@plugin.tool("session_create", title="Begin a session", arguments=Creation, result=SessionView, hints=Hints())
async def session_create(call: Call, args: Creation) -> SessionView:
    """Begins a conversation with an agent. Pass its session_id to agent_execute: each run is a turn that goes on where
    the last one ended. Only you see it, and administrators of sessions."""
    agent = (await call.services.agents.get(call.space, args.agent)).value
    shape = Window(policy=args.window.policy, max_tokens=args.window.max_tokens)
    made = await call.services.sessions.create(
        call.space,
        call.principal,
        agent.id,
        window=shape,
        metadata=args.metadata,
        idle_seconds=args.idle_seconds,
        max_seconds=args.max_seconds,
    )
    return view(call, made)


@plugin.tool("session_get", title="Get a session", arguments=SessionRef, result=SessionView, hints=READS)
async def session_get(call: Call, args: SessionRef) -> SessionView:
    """Returns a session with what it has come to: turns, tokens, cost, and what of it a prompt goes with now."""
    return view(call, await found(call, args.session_id))


@plugin.tool("session_list", title="List sessions", arguments=SessionListing, result=SessionPage, hints=READS)
async def session_list(call: Call, args: SessionListing) -> SessionPage:
    """Lists your sessions, newest first."""
    agent = (await call.services.agents.get(call.space, args.agent)).value.id if args.agent else ""
    now = call.services.clock.now()
    fit = [
        each
        for each in await call.services.sessions.all(call.space, call.principal)
        if agent in ("", each.value.agent_id)
        and args.state in ("", each.value.state_at(now))
        and (not args.cursor or each.value.id < args.cursor)
    ]
    page = tuple(view(call, each) for each in fit[: args.limit])
    return SessionPage(sessions=page, next_cursor=page[-1].session_id if len(fit) > args.limit else "")


@plugin.tool("session_messages", title="Read a session", arguments=Reading, result=TurnPage, hints=READS)
async def session_messages(call: Call, args: Reading) -> TurnPage:
    """Returns a session's turns with their messages, newest first, or only those in which a text occurs; also what no
    prompt goes with any more."""
    session = (await found(call, args.session_id)).value
    turns, more = await call.services.sessions.turns(
        call.space, session, before=args.before, limit=args.limit, q=args.q
    )
    return TurnPage(
        session_id=session.id,
        turns=tuple(turn_view(turn) for turn in turns),
        next_before=turns[-1].number if more else 0,
    )


@plugin.tool("session_report", title="Report on a session", arguments=Reporting, result=SessionReport, hints=READS)
async def session_report(call: Call, args: Reporting) -> SessionReport:
    """Returns what a session has come to, as figures and as Markdown: cost, tokens, models, tools, slow and failed
    turns, how much of it the model is still shown, and what could be done about what stands out."""
    session = (await found(call, args.session_id)).value
    turns, _ = await call.services.sessions.turns(call.space, session, limit=session.turns)
    made = report.report(session, turns)
    return SessionReport(report=made, markdown=report.markdown(made))


@plugin.tool(
    "session_suspend", title="Suspend a session", arguments=Change, result=SessionView, hints=Hints(idempotent=True)
)
async def session_suspend(call: Call, args: Change) -> SessionView:
    """Stops a session for a while: no turn begins until session_activate."""
    return await _moved(call, args, "suspended")


@plugin.tool(
    "session_activate", title="Activate a session", arguments=Change, result=SessionView, hints=Hints(idempotent=True)
)
async def session_activate(call: Call, args: Change) -> SessionView:
    """Lets a suspended session go on."""
    return await _moved(call, args, "active")


@plugin.tool(
    "session_close",
    title="Close a session",
    arguments=Change,
    result=SessionView,
    hints=Hints(destructive=True, idempotent=True),
)
async def session_close(call: Call, args: Change) -> SessionView:
    """Ends a session for good. It can still be read; session_delete removes it."""
    return await _moved(call, args, "closed")


@plugin.tool(
    "session_delete",
    title="Delete a session",
    arguments=Change,
    result=Deleted,
    hints=Hints(destructive=True, idempotent=True),
)
async def session_delete(call: Call, args: Change) -> Deleted:
    """Removes a session with all its turns. The runs themselves stay until they are retired."""
    await found(call, args.session_id)
    sessions = call.services.sessions
    await sessions.remove(call.space, call.principal, args.session_id, expected=args.expected_revision)
    return Deleted(session_id=args.session_id)


@plugin.tool(
    "session_pin", title="Pin a text in a session", arguments=Pinning, result=SessionView, hints=Hints(idempotent=True)
)
async def session_pin(call: Call, args: Pinning) -> SessionView:
    """Keeps a text in sight: every prompt of the session goes with it, however long the conversation grows."""
    await found(call, args.session_id)
    return view(
        call,
        await call.services.sessions.pin(call.space, call.principal, args.session_id, args.text, remove=args.remove),
    )


async def _moved(call: Call, args: Change, state: State) -> SessionView:
    await found(call, args.session_id)
    sessions = call.services.sessions
    return view(
        call, await sessions.move(call.space, call.principal, args.session_id, state, expected=args.expected_revision)
    )


async def _listed(call: Call) -> list[Listed]:
    newest = (await call.services.sessions.all(call.space, call.principal))[:100]
    return [Listed(uri=f"cb://sessions/{each.value.id}", name=each.value.id) for each in newest]


async def _ids(call: Call, text: str) -> list[str]:
    every = await call.services.sessions.all(call.space, call.principal)
    return [each.value.id for each in every if each.value.id.startswith(text)]


async def _topic(call: Call, id: str) -> Topic:
    session = (await call.services.sessions.get(call.space, call.principal, id)).value
    return call.space.record_topic("cb_agent_sessions", session.id)


@plugin.resource(
    "cb://sessions/{id}", name="session", title="Session", listing=_listed, complete={"id": _ids}, topic=_topic
)
async def session_resource(call: Call, id: str) -> Any:
    """One session with its last turns."""
    kept = await found(call, id)
    turns, _ = await call.services.sessions.turns(call.space, kept.value, limit=10)
    return msgspec.to_builtins({"session": view(call, kept), "turns": [turn_view(turn) for turn in turns]})
