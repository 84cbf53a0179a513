"""Copies of sessions: a fork that goes on from an earlier turn, and a file that holds a session for elsewhere.

A copy is the caller's own, shares nothing with what it came from, and is there whole or not at all: its turns are
written first and its head last. The file is one JSON document (`Export`), readable by any version from the one that
wrote it on. Above: the surface; below: `book`.
"""

from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import anyio
import msgspec
from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Invalid
from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace, Versioned
from mcp_agents.kernel.tokens import TokenCounter
from mcp_agents.sessions.book import METADATA_LIMIT, heads, read
from mcp_agents.sessions.compaction import HOLDS, LEAD
from mcp_agents.sessions.record import (
    PIN_LIMIT,
    PINS,
    WINDOW_LEAST,
    WINDOW_MOST,
    Compaction,
    Pin,
    Session,
    Turn,
    Window,
)
from mcp_agents.sessions.window import size

FORMAT: Final = "mcp-agents-session"
EXPORT_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of a file that is taken in or given out over MCP."""
_TEXT_MOST: Final = 64 * 1024
"""Characters of a summary, and of all that it holds."""
_KEPT_MOST: Final = 2_000
"""Things of a turn that a summary holds: twice as many as an agent may call tools in one run."""
_CLEANING_SECONDS: Final = 10
_NAME_MOST: Final = 400
_MOST: Final = 10**12
"""No turn takes so many tokens, milliseconds or micro-USD."""


class Export(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session as a file. Times are UTC, money micro-USD; ids are those of where it came from."""

    format: str
    v: int
    session_id: str
    agent: str
    """The agent's name."""
    created_at: datetime
    exported_at: datetime
    metadata: dict[str, Any]
    window: Window
    pins: tuple[Pin, ...]
    turns: tuple[Turn, ...]


class SessionCopies:
    """Forks, writes out and takes in."""

    def __init__(self, tokens: TokenCounter, clock: Clock) -> None:
        self._tokens, self._clock = tokens, clock

    async def fork(
        self, space: TenantSpace, principal: Principal, session: Session, upto: int | None
    ) -> Versioned[Session]:
        """A new session of the caller's with the turns up to a number (None: all). Raises `Invalid`."""
        if upto is not None and not 0 <= upto <= session.turns:
            raise Invalid(
                "TURN_UNKNOWN", f"The session has the turns 1 to {session.turns}.", "Choose one of them, or 0."
            )
        turns = await read(space.session_log(session.id)) if upto != 0 else []
        kept = [turn for turn in turns if upto is None or turn.number <= upto]
        new = self._new(principal, session.agent_id, session.window, session.metadata)
        new = msgspec.structs.replace(new, pins=session.pins, forked_from=session.id)
        return await self._write(space, new, kept)

    async def exported(self, space: TenantSpace, session: Session, agent: str) -> Export:
        """The file. Raises `Invalid` (`SESSION_TOO_LARGE`)."""
        export = Export(
            format=FORMAT,
            v=1,
            session_id=session.id,
            agent=agent,
            created_at=session.created_at,
            exported_at=self._clock.now(),
            metadata=session.metadata,
            window=session.window,
            pins=session.pins,
            turns=tuple(await read(space.session_log(session.id))),
        )
        if len(msgspec.json.encode(export)) > EXPORT_LIMIT:
            raise Invalid(
                "SESSION_TOO_LARGE",
                f"The session is more than {EXPORT_LIMIT // 1024 // 1024} MiB.",
                "Read it in pages with session_messages.",
            )
        return export

    async def imported(
        self, space: TenantSpace, principal: Principal, agent_id: str, document: Any
    ) -> Versioned[Session]:
        """A new session of the caller's out of a file. Raises `Invalid` (`IMPORT_INVALID`), and nothing is kept."""
        try:
            export = msgspec.convert(document, Export)
        except (msgspec.ValidationError, RecursionError) as wrong:
            raise _no_import(str(wrong)[:200]) from wrong
        if objection := _objection(export):
            raise _no_import(objection)
        # What a file says of sizes is not believed: windows are filled by them.
        turns = [await self._counted(turn) for turn in export.turns]
        pins = [
            msgspec.structs.replace(pin, tokens=await self._tokens.count("", pin.text), by=principal.subject)
            for pin in export.pins
        ]
        if any(len(pin.text) > PIN_LIMIT for pin in pins) or sum(pin.tokens for pin in pins) > export.window.max_tokens:
            raise _no_import("its pins are larger than its window")
        new = self._new(principal, agent_id, export.window, export.metadata)
        return await self._write(space, msgspec.structs.replace(new, pins=tuple(pins)), turns)

    async def _counted(self, turn: Turn) -> Turn:
        made = turn.compaction
        if made is not None:
            made = msgspec.structs.replace(made, tokens=await self._tokens.count(made.model, LEAD + made.text))
        tokens = await size(self._tokens, turn.model, turn.messages)
        return msgspec.structs.replace(turn, tokens=tokens, compaction=made)

    def _new(self, principal: Principal, agent_id: str, window: Window, metadata: dict[str, Any]) -> Session:
        return Session.begun(ids.mint("se", self._clock), agent_id, principal, self._clock.now(), window, metadata)

    async def _write(self, space: TenantSpace, new: Session, turns: list[Turn]) -> Versioned[Session]:
        log, tip = space.session_log(new.id), 0
        try:
            for turn in turns:
                tip = await log.append(msgspec.json.encode(turn), expected=tip)
                new = new.after(turn, tip)
            return await self._headed(space, new)
        except BaseException:
            with anyio.move_on_after(_CLEANING_SECONDS, shield=True), suppress(AgentsError):
                await log.erase()
            raise

    async def _headed(self, space: TenantSpace, new: Session) -> Versioned[Session]:
        # What the turns cost was paid once, where they were run.
        new = msgspec.structs.replace(new, last_activity=self._clock.now(), cost_micro_usd=0, usage=Usage())
        return Versioned(new, await heads(space).create(new.id, value=new))


def _objection(export: Export) -> str:
    """Why a file that has the right shape is not taken in: what no session of ours could have written. "": it is."""
    numbers = [turn.number for turn in export.turns]
    if export.format != FORMAT or export.v != 1:
        return "it is another format, or of a later version"
    if numbers != list(range(1, len(numbers) + 1)) or len(export.pins) > PINS:
        return "its turns are not numbered from 1, or it has too many pins"
    if not WINDOW_LEAST <= export.window.max_tokens <= WINDOW_MOST:
        return f"its window is not of {WINDOW_LEAST} to {WINDOW_MOST} tokens"
    if len(msgspec.json.encode(export.metadata)) > METADATA_LIMIT:
        return f"its metadata are more than {METADATA_LIMIT // 1024} KiB"
    if any(not _possible(turn) for turn in export.turns):
        return "it has a turn with a time, a figure, a role or a summary that no turn has"
    if len(msgspec.json.encode(export)) > EXPORT_LIMIT:
        return f"it is more than {EXPORT_LIMIT // 1024 // 1024} MiB"
    return ""


def _possible(turn: Turn) -> bool:
    usage, made = turn.usage, turn.compaction
    figures = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.lost_tokens)
    return (
        turn.at.tzinfo is not None
        and all(0 <= each <= _MOST for each in (*figures, turn.cost_micro_usd, turn.total_ms))
        and all(message.role != "system" for message in turn.messages)
        and len(turn.kept) <= _KEPT_MOST
        and len(turn.model) <= _NAME_MOST
        and _paired(turn)
        and (made is None or (0 < made.through < turn.number and _fits(made)))
    )


def _fits(made: Compaction) -> bool:
    texts = [made.text, made.model, *made.missing, *(part for kept in made.holds for part in (kept.text, kept.about))]
    return len(made.holds) <= HOLDS and sum(map(len, texts)) <= _TEXT_MOST


def _paired(turn: Turn) -> bool:
    """Whether each call of a whole turn has its result behind it, and each result its call, as providers want it."""
    called, answered = set[str](), set[str]()
    for message in turn.messages:
        called |= {call.call_id for call in message.tool_calls}
        if message.role == "tool":
            if message.call_id not in called:
                return False
            answered.add(message.call_id)
    return called == answered or not turn.whole


def _no_import(why: str) -> Invalid:
    return Invalid(
        "IMPORT_INVALID", f"This is no session that can be taken in: {why}.", "Use what session_export gave."
    )
