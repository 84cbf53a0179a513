"""Keeps sessions: makes, finds, lists, changes and removes them, for those who may.

Whoever began a session owns it, and may share it with somebody, or with a role, to read or to take turns in; all others
see it only with `sessions:admin`, and to everybody else it is not there. A name is not a capability: each call asks
anew. Not here: running turns (`execution.conversing`), taking sessions elsewhere (`copies`).
"""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Literal

import msgspec

from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Denied, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import ROLES
from mcp_agents.kernel.tenancy import Records, SessionLog, TenantSpace, Versioned
from mcp_agents.kernel.tokens import TokenCounter
from mcp_agents.sessions.record import PIN_LIMIT, PINS, SHARES, May, Pin, Session, Share, State, Turn, Window

ADMIN: Final = "sessions:admin"
METADATA_LIMIT: Final = 16 * 1024
_TRIES: Final = 32
_WHO: Final = re.compile(r"[A-Za-z0-9_.:|@+-]{1,255}")
_NEXT: Final[dict[State, frozenset[State]]] = {
    "active": frozenset({"suspended", "closed"}),
    "suspended": frozenset({"active", "closed"}),
    "closed": frozenset(),
}
"""Where a session may go from a state. A closed one can be read, and removed."""

_decode_turn: Final = msgspec.json.Decoder(Turn).decode


class SessionBook:
    """Sessions of any tenant, always through the caller's `TenantSpace`."""

    def __init__(self, tokens: TokenCounter, clock: Clock) -> None:
        self._tokens, self._clock = tokens, clock

    async def create(
        self,
        space: TenantSpace,
        principal: Principal,
        agent_id: str,
        *,
        window: Window,
        metadata: dict[str, Any],
        idle_seconds: int = 0,
        max_seconds: int = 0,
    ) -> Versioned[Session]:
        """A new session of the caller's, closed after so long without a turn, or in any case (0: never).

        Raises `Invalid` for metadata that is too large.
        """
        if len(msgspec.json.encode(metadata)) > METADATA_LIMIT:
            raise Invalid(
                "METADATA_TOO_LARGE", f"Metadata is at most {METADATA_LIMIT // 1024} KiB.", "Keep it elsewhere."
            )
        now = self._clock.now()
        session = msgspec.structs.replace(
            Session.begun(ids.mint("se", self._clock), agent_id, principal, now, window, metadata),
            idle_seconds=idle_seconds,
            expires_at=now + timedelta(seconds=max_seconds) if max_seconds else None,
        )
        return Versioned(session, await heads(space).create(session.id, value=session))

    async def get(
        self, space: TenantSpace, principal: Principal, session_id: str, *, may: May | Literal["own"] = "read"
    ) -> Versioned[Session]:
        """A session that the caller may read, write (take turns in, and pin), or do everything with (`own`).

        Raises `NotFound` (`SESSION_UNKNOWN`), for one that the caller may not see too, and `Denied` (`SESSION_DENIED`)
        for one that they may only see.
        """
        found = await heads(space).get(session_id) if ids.is_id(session_id, "se") else None
        if found is not None and principal.allows(ADMIN):
            return found
        if found is None or not found.value.allows(principal, "read"):
            raise unknown()
        owned = found.value.user_id == principal.subject
        if not (owned if may == "own" else found.value.allows(principal, may)):
            raise Denied(
                "SESSION_DENIED",
                "This session was shared with you for less than this.",
                "Ask its owner, or fork it with session_fork.",
            )
        return found

    async def all(self, space: TenantSpace, principal: Principal) -> list[Versioned[Session]]:
        """Those that the caller may see, newest first."""
        every = await heads(space).all()
        sees = principal.allows(ADMIN)
        return [each for each in reversed(every) if sees or each.value.allows(principal, "read")]

    async def move(
        self, space: TenantSpace, principal: Principal, session_id: str, state: State, *, expected: int | None
    ) -> Versioned[Session]:
        """Suspends, activates or closes; being there already is no error. Raises `NotFound`, and `Conflict`:
        `SESSION_STATE` where there is no way, `SESSION_BUSY` during a turn, `REVISION_CONFLICT`."""

        def to(old: Session) -> Session:
            now = old.state_at(self._clock.now())
            if now == state:
                return old
            if state not in _NEXT[now]:
                raise Conflict(
                    "SESSION_STATE", f"A session that is {now} cannot become {state}.", "Create another session."
                )
            if old.running:
                raise busy()
            return msgspec.structs.replace(old, state=state, last_activity=self._clock.now())

        return await self._change(space, principal, session_id, to, expected)

    async def share(
        self, space: TenantSpace, principal: Principal, session_id: str, who: str, may: May | None
    ) -> Versioned[Session]:
        """Shares a session, or with None takes that back. Raises `NotFound`, `Denied`, `Invalid`."""
        if not _WHO.fullmatch(who) or (who.startswith("role:") and who[5:] not in ROLES):
            raise Invalid(
                "SHARE_INVALID",
                "It is shared with a subject, or with role: and a role.",
                "See user_list and role_list.",
            )

        def to(old: Session) -> Session:
            others = tuple(share for share in old.shares if share.who != who)
            if may is None:
                return old if others == old.shares else msgspec.structs.replace(old, shares=others)
            if len(others) >= SHARES:
                raise Invalid("SHARES_EXHAUSTED", f"It is shared {SHARES} times at most.", "Share it with a role.")
            return msgspec.structs.replace(old, shares=(*others, Share(who=who, may=may)))

        return await self._change(space, principal, session_id, to, None)

    async def pin(
        self, space: TenantSpace, principal: Principal, session_id: str, text: str, *, remove: bool
    ) -> Versioned[Session]:
        """Pins a text, or takes it off; either once is enough. Raises `NotFound`, `Invalid`, `Conflict`."""
        if not 0 < len(text) <= PIN_LIMIT:
            raise Invalid("PIN_INVALID", f"A pinned text has 1 to {PIN_LIMIT} characters.", "Shorten it.")
        tokens = await self._tokens.count("", text)

        def to(old: Session) -> Session:
            others = tuple(pin for pin in old.pins if pin.text != text)
            if remove:
                return msgspec.structs.replace(old, pins=others)
            if old.state_at(self._clock.now()) == "closed":
                raise Conflict("SESSION_STATE", "A closed session is not changed any more.", "Create another session.")
            if len(others) < len(old.pins):
                return old
            taken = sum(pin.tokens for pin in others) + (old.summary.tokens if old.summary else 0)
            if len(others) >= PINS or tokens + taken > old.window.max_tokens:
                raise Invalid(
                    "PINS_EXHAUSTED",
                    f"A session holds {PINS} pinned texts at most, and no more of them than its window has room for "
                    "beside its summary.",
                    "Take one off first.",
                )
            new = Pin(text=text, tokens=tokens, by=principal.subject, at=self._clock.now())
            return msgspec.structs.replace(old, pins=(*others, new))

        return await self._change(space, principal, session_id, to, None, may="write")

    async def remove(self, space: TenantSpace, principal: Principal, session_id: str, *, expected: int | None) -> None:
        """Removes a session with all its turns. Raises `NotFound`, `Conflict` (`SESSION_BUSY`, `REVISION_CONFLICT`)."""
        found = await self.get(space, principal, session_id, may="own")
        if found.value.running:
            raise busy()
        if expected not in (None, found.revision):
            raise _moved_on()
        # Closed first, so that no turn begins; its head goes last, so that what was broken off can be repeated.
        closed = msgspec.structs.replace(found.value, state="closed")
        try:
            revision = await heads(space).update(session_id, value=closed, revision=found.revision)
            await space.session_log(session_id).erase()
            await heads(space).delete(session_id, revision=revision)
        except WrongRevision as moved:
            raise _moved_on() from moved

    async def turns(
        self, space: TenantSpace, session: Session, *, before: int = 0, limit: int = 20, q: str = ""
    ) -> tuple[list[Turn], bool]:
        """Turns, newest first: those before a number (0: from the newest) that hold a text, and whether there are more.

        The last ones are read alone; for older ones, and to search, the whole log is.
        """
        wanted, log = q.casefold(), space.session_log(session.id)
        early = [mark.sequence for mark in session.marks if not before or mark.number < before]
        near = not q and len(early) > limit
        found = await read(log, after=early[-limit - 1] - 1 if near else 0)
        fit = [turn for turn in reversed(found) if (not before or turn.number < before) and _holds(turn, wanted)]
        return fit[:limit], len(fit) > limit

    async def _change(
        self,
        space: TenantSpace,
        principal: Principal,
        session_id: str,
        to: Callable[[Session], Session],
        expected: int | None,
        may: May | Literal["own"] = "own",
    ) -> Versioned[Session]:
        for _ in range(_TRIES):
            found = await self.get(space, principal, session_id, may=may)
            if expected not in (None, found.revision):
                raise _moved_on()
            new = to(found.value)
            if new is found.value:
                return found
            try:
                return Versioned(new, await heads(space).update(session_id, value=new, revision=found.revision))
            except WrongRevision:
                continue
        raise busy()


def heads(space: TenantSpace) -> Records[Session]:
    """The heads of a tenant's sessions."""
    return space.records("cb_agent_sessions", Session)


async def read(log: SessionLog, *, after: int = 0) -> list[Turn]:
    """The turns behind a sequence."""
    return [_decode_turn(stored.payload) for stored in await log.read(after=after)]


def unknown() -> NotFound:
    """What is said of a session that is not there, or not for this caller."""
    return NotFound("SESSION_UNKNOWN", "There is no such session.", "List sessions with session_list.")


def busy() -> Conflict:
    """What is said while a turn is under way."""
    return Conflict(
        "SESSION_BUSY",
        "A turn of this session is under way.",
        "Wait for it with execution_wait, then try again.",
        retry_after_ms=1000,
    )


def _holds(turn: Turn, wanted: str) -> bool:
    return not wanted or any(wanted in message.text.casefold() for message in turn.messages)


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")
