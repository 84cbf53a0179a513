"""Turns of sessions: a run that goes on where the last one of its session ended.

A session has one turn at a time. Its head says which run that is, from before the run is accepted until its end is in
the session's log; so every run that a session waits for can be looked up, and whatever process finds it ended takes the
turn down: the worker that ended it, or the next caller, where that worker died. A turn is appended once, behind the
last, whoever does it. Above: dispatch, which accepts runs, and the archive, which hears of their ends. Below: sessions.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Final

import msgspec

from mcp_agents.execution.run import Run
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Fenced, Invalid, WrongRevision
from mcp_agents.kernel.events import Compact, ContextCompacted, InSession
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace, Versioned
from mcp_agents.kernel.tokens import TokenCounter
from mcp_agents.sessions.book import SessionBook, busy, heads
from mcp_agents.sessions.compaction import LEAD
from mcp_agents.sessions.record import Compaction, Kept, Session, Turn
from mcp_agents.sessions.window import leaving, size, stretch, summary, summary_room

SCOPE: Final = "sessions:run"
"""What taking a turn needs, besides running the agent."""
ACCEPT_SECONDS: Final = 30.0
"""A turn whose run is not there after so long is given up: whoever was let in died before the run was accepted. Should
it only have slept, its turn comes behind those that were let in meanwhile."""
_TRIES: Final = 64
_PINNED: Final = "Pinned for the whole conversation:"
_ENDS: Final = {"done": "was done", "unknown": "may have been done"}


class Conversations:
    """Turns of any tenant's sessions. Holds no state of any."""

    def __init__(self, book: SessionBook, tokens: TokenCounter, clock: Clock) -> None:
        self._book, self._tokens, self._clock = book, tokens, clock

    async def begin(
        self,
        space: TenantSpace,
        principal: Principal,
        session_id: str,
        agent_id: str,
        execution_id: str,
        *,
        compacts: bool = False,
    ) -> InSession:
        """Lets a run in as the session's next turn, and says what it is shown of the ones before; with `compacts` it
        summarizes them and does nothing else.

        Raises `NotFound` (`SESSION_UNKNOWN`), `Denied` (`SESSION_DENIED`, `INSUFFICIENT_SCOPE`), `Invalid`
        (`SESSION_OF_ANOTHER_AGENT`, `NOTHING_TO_COMPACT`), `Conflict` (`SESSION_BUSY`, `SESSION_STATE`).
        """
        principal.require(SCOPE)
        for _ in range(_TRIES):
            found = await self._book.get(space, principal, session_id, may="write")
            session = found.value
            if session.agent_id != agent_id:
                raise Invalid(
                    "SESSION_OF_ANOTHER_AGENT",
                    "This session is a conversation with another agent.",
                    "Create a session with this agent.",
                )
            state = session.state_at(self._clock.now())
            if state != "active":
                raise Conflict("SESSION_STATE", f"The session is {state}.", "Activate it, or create another session.")
            if session.running not in ("", execution_id):
                await self._end_of_last(space, session)
                continue
            shown = _shown(session, compacts=compacts)
            now = self._clock.now()
            held = msgspec.structs.replace(session.holding(execution_id, now), last_activity=now)
            with suppress(WrongRevision):
                await heads(space).update(session_id, value=held, revision=found.revision)
                return shown
        raise busy()

    async def caught_up(self, space: TenantSpace, principal: Principal, session_id: str) -> Versioned[Session]:
        """The session with every turn that has ended. Raises `NotFound` (`SESSION_UNKNOWN`)."""
        found = await self._book.get(space, principal, session_id)
        if not found.value.running:
            return found
        with suppress(Conflict):
            await self._end_of_last(space, found.value)
        return await self._book.get(space, principal, session_id)

    async def still_allowed(self, space: TenantSpace, principal: Principal, session_id: str) -> None:
        """Raises where this caller may not take turns any more: a run may have waited for long."""
        await self._book.get(space, principal, session_id, may="write")

    async def give_up(self, space: TenantSpace, session_id: str, execution_id: str) -> None:
        """Lets a run out again that was not accepted after all."""
        for _ in range(_TRIES):
            found = await heads(space).get(session_id)
            if found is None or found.value.running != execution_id:
                return
            with suppress(WrongRevision):
                await self._write(space, found, found.value.holding("", None))
                return

    async def earlier(
        self, space: TenantSpace, shown: InSession, compacted: ContextCompacted | None = None
    ) -> tuple[Message, ...]:
        """What the model is shown before the prompt: pinned texts, a summary, and the turns of the window."""
        text, after, without = shown.summary, shown.after, shown.without
        if shown.compact is not None and compacted is not None and not compacted.missing:
            text, after, without = compacted.text, shown.compact.shown_after, ()
        messages: list[Message] = []
        if shown.pinned:
            messages.append(Message(role="user", text="\n- ".join((_PINNED, *shown.pinned))))
        if text:
            messages.append(Message(role="user", text=LEAD + text))
        turns = await self.turns(space, shown.id, after=after, upto=shown.upto, without=without)
        return (*messages, *(message for turn in turns for message in turn.messages))

    async def turns(
        self, space: TenantSpace, session_id: str, *, after: int, upto: int, without: tuple[int, ...] = ()
    ) -> list[Turn]:
        """The turns of a stretch of the log that a model may be shown."""
        if after >= upto:
            return []
        stored = await space.session_log(session_id).read(after=after)
        found = [
            msgspec.json.decode(each.payload, type=Turn)
            for each in stored
            if each.sequence <= upto and each.sequence not in without
        ]
        return [turn for turn in found if turn.whole]

    async def ended(self, space: TenantSpace, run: Run) -> None:
        """Takes down the turn of a run that has ended. May be repeated, by several at once, and broken off anywhere."""
        shown = run.requested.session
        if shown is None:
            return
        log = space.session_log(shown.id)
        turn: Turn | None = None
        for _ in range(_TRIES):
            found = await heads(space).get(shown.id)
            if found is None:
                return  # removed, and its turns with it
            session = found.value
            landed = [(each.sequence, each.payload) for each in await log.read(after=min(shown.upto, session.tip))]
            since = [(sequence, msgspec.json.decode(payload, type=Turn)) for sequence, payload in landed]
            if not any(each.execution_id == run.execution_id for _, each in since):
                turn = turn or await self._turn(run, shown)
                unseen = [sequence for sequence, _ in since if sequence > session.tip]
                numbered = msgspec.structs.replace(turn, number=session.turns + len(unseen) + 1)
                with suppress(Fenced):
                    await log.append(msgspec.json.encode(numbered), expected=since[-1][0] if since else session.tip)
                continue
            for sequence, each in since:
                if sequence > session.tip:
                    session = session.after(each, sequence)
            if session.running == run.execution_id:
                session = session.holding("", None)
            if session is found.value:
                return
            with suppress(WrongRevision):
                await self._write(space, found, session)
                return

    async def _end_of_last(self, space: TenantSpace, session: Session) -> None:
        """Takes down the turn before, if it has ended. Raises `Conflict` (`SESSION_BUSY`) while it has not."""
        _, entries = await space.log(session.running).read()
        if entries:
            run = Run.folded(session.running, entries)
            if not run.finished:
                raise busy()
            await self.ended(space, run)
            return
        since = session.running_since or session.created_at
        if self._clock.now() - since < timedelta(seconds=ACCEPT_SECONDS):
            raise busy()
        await self.give_up(space, session.id, session.running)

    async def _turn(self, run: Run, shown: InSession) -> Turn:
        alone = shown.compact is not None and shown.compact.alone
        messages = () if alone else run.exchange()
        return Turn(
            number=shown.number,
            execution_id=run.execution_id,
            status="compacted" if alone and run.status == "completed" else run.status,
            messages=messages,
            tokens=await size(self._tokens, run.model, messages),
            usage=run.usage,
            cost_micro_usd=run.spent.micro_usd,
            total_ms=run.view().timings.total_ms,
            model=run.model,
            by=run.requested.caller.subject,
            at=run.finished_at or self._clock.now(),
            kept=_kept(run),
            compaction=_compaction(run),
        )

    async def _write(self, space: TenantSpace, found: Versioned[Session], value: Session) -> None:
        await heads(space).update(found.value.id, value=value, revision=found.revision)


def _shown(session: Session, *, compacts: bool) -> InSession:
    """What the next turn is shown, and what it summarizes first. Raises `Invalid` (`NOTHING_TO_COMPACT`)."""
    goes, window, made = leaving(session, wanted=compacts), stretch(session), summary(session)
    if compacts and goes is None:
        raise Invalid(
            "NOTHING_TO_COMPACT",
            "There are no turns before the last one to summarize, or what is pinned leaves no room for a summary.",
            "Go on with agent_execute.",
        )
    compact = None
    if goes is not None:
        compact = Compact(
            after=goes.after,
            upto=goes.upto,
            through=goes.through,
            room=summary_room(session),
            shown_after=goes.behind.after,
            last=goes.last,
            alone=compacts,
        )
    return InSession(
        id=session.id,
        number=session.turns + 1,
        after=window.after,
        upto=window.upto,
        without=window.without,
        pinned=tuple(pin.text for pin in session.pins),
        summary=made.text if made else "",
        holds=tuple((kept.text, kept.about) for kept in made.holds) if made else (),
        compact=compact,
    )


def _kept(run: Run) -> tuple[Kept, ...]:
    """What no summary of this turn may lose: calls that may have changed something, and what nobody answered."""
    found = [
        Kept(call.effect_id, f"the id of a call of {call.call.tool} that {_ENDS[call.state]}")
        for call in run.calls()
        if call.effect_id and call.state in _ENDS and not call.repeatable
    ]
    asked = [posed.question for posed in run.posed.values() if posed.told is None]
    return (
        *found,
        *(Kept(question.id, f"a question that nobody answered: {question.message[:200]}") for question in asked),
    )


def _compaction(run: Run) -> Compaction | None:
    made, shown = run.compacted, run.requested.session
    if made is None and shown and shown.compact:  # so that the next turn does not end at it, too
        return Compaction(through=shown.compact.through, missing=("the run ended before it was made",))
    if made is None:
        return None
    return Compaction(
        through=made.through,
        text=made.text,
        tokens=made.tokens,
        model=made.model,
        holds=tuple(Kept(*each) for each in made.holds),
        missing=made.missing,
    )
