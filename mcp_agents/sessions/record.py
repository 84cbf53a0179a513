"""What is stored of a session: its head, and the turns in its log. Shapes and pure steps from one to the next."""

import re
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.kernel.messages import Message, Usage
from mcp_agents.kernel.principal import Principal

State = Literal["active", "suspended", "closed"]
Policy = Literal["recent", "full", "prioritized", "compacted"]
"""Which turns the model is shown: the last ones that fit; all of them; those that weigh most; the last ones that fit
behind a summary of the others."""

May = Literal["read", "write"]
SHARES: Final = 64
MARKS: Final = 256
"""So many of the last turns the head knows the places of; a window never reaches back further."""
PINS: Final = 32
PIN_LIMIT: Final = 4_000
"""Characters of a pinned text."""
VERSION: Final = 2
"""Of heads and turns. 2 added what summaries are made of; whatever is read of an earlier one is as if it had none."""
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
QUESTION_LIMIT: Final = 500
"""Characters of a question that a summary holds word for word."""
WINDOW_LEAST: Final = 500
WINDOW_MOST: Final = 2_000_000
"""Tokens that a window may be said to take."""
REST: Final = 8
"""So many turns pass before a conversation whose summary was not taken is summarized again."""


class Window(Struct, frozen=True, kw_only=True):
    """How much of the conversation goes with each prompt. `max_tokens` bounds pinned texts and earlier turns together;
    instructions, tools and the prompt itself come on top."""

    policy: Policy = "recent"
    max_tokens: int = 24_000


class Mark(Struct, frozen=True, array_like=True):
    """Where a turn is in the log, and what it takes of a window."""

    sequence: int
    number: int
    tokens: int
    whole: bool
    """Whether it ended with an answer; what did not is kept and not shown to the model again."""
    weight: int = 0
    """How much would be lost with it, for windows that choose: see `Turn.weight`."""


class Pin(Struct, frozen=True, kw_only=True):
    """A text that every window holds."""

    text: str
    tokens: int
    by: str
    at: datetime


class Kept(Struct, frozen=True, array_like=True):
    """What has to survive word for word when the turn it is in becomes part of a summary, and what it is."""

    text: str
    about: str


class Compaction(Struct, frozen=True, kw_only=True):
    """A summary of every turn up to and with the one numbered `through`. `missing` says why it was not taken: what it
    had to hold and did not, or what went wrong; then it holds for nothing."""

    through: int
    text: str = ""
    tokens: int = 0
    model: str = ""
    holds: tuple[Kept, ...] = ()
    missing: tuple[str, ...] = ()


class Turn(Struct, frozen=True, kw_only=True):
    """One run of the session's agent: what was asked, done and answered. One entry of the log.

    `compaction` is the summary that the run made before it, or that was all it was there for (`status` compacted).
    """

    number: int
    execution_id: str
    status: str
    messages: tuple[Message, ...]
    tokens: int
    usage: Usage
    cost_micro_usd: int
    total_ms: int
    model: str
    by: str
    at: datetime
    kept: tuple[Kept, ...] = ()
    compaction: Compaction | None = None
    v: int = VERSION

    def __post_init__(self) -> None:
        """Takes an older record for what it is. Raises `ValueError` for one of a later version."""
        msgspec.structs.force_setattr(self, "v", _readable(self.v))

    @property
    def weight(self) -> int:
        """2: it changed something, or left something open. 1: tools were used, or it ended with a question. Else 0."""
        if self.kept:
            return 2
        return int(bool(self.tool_calls) or self.question != "")

    @property
    def question(self) -> str:
        """The question that its answer ends with, or "" (also for one that is too long to be held in a summary)."""
        last = next((each.text for each in reversed(self.messages) if each.role == "assistant"), "").rstrip()
        asked = _SENTENCE.split(last)[-1].strip() if last.endswith("?") else ""
        return asked if len(asked) <= QUESTION_LIMIT else ""

    @property
    def whole(self) -> bool:
        """Whether it can be shown to a model: a turn that broke off may end in the middle of its tools."""
        return self.status == "completed"

    @property
    def tool_calls(self) -> int:
        """Tools that the model asked for."""
        return sum(len(message.tool_calls) for message in self.messages)


class Share(Struct, frozen=True, kw_only=True):
    """That somebody else may read a session, or take turns in it too. `who` is a subject, or `role:` and a role."""

    who: str
    may: May


class Session(Struct, frozen=True, kw_only=True):
    """A session's head. `user_id` is its owner's subject; `tip` the sequence of the last turn that it knows of.

    `running` is the execution of the turn under way, "" for none, and `running_since` when it was let in.
    """

    id: str
    agent_id: str
    tenant_id: str
    user_id: str
    created_at: datetime
    last_activity: datetime
    state: State = "active"
    metadata: dict[str, Any] = {}
    window: Window = Window()
    turns: int = 0
    messages: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    cost_micro_usd: int = 0
    tip: int = 0
    marks: tuple[Mark, ...] = ()
    pins: tuple[Pin, ...] = ()
    shares: tuple[Share, ...] = ()
    forked_from: str = ""
    idle_seconds: int = 0
    """After so long without a turn it is closed; 0: never."""
    expires_at: datetime | None = None
    """When it is closed in any case."""
    running: str = ""
    running_since: datetime | None = None
    summary: Compaction | None = None
    """What stands for the turns up to its `through`."""
    compact_from: int = 0
    """The first turn before which a summary is made again, where the last one was not taken."""
    v: int = VERSION

    def __post_init__(self) -> None:
        """Takes an older record for what it is. Raises `ValueError` for one of a later version."""
        msgspec.structs.force_setattr(self, "v", _readable(self.v))

    @staticmethod
    def begun(
        session_id: str, agent_id: str, owner: Principal, now: datetime, window: Window, metadata: dict[str, Any]
    ) -> "Session":
        """One in which nothing was said yet."""
        return Session(
            id=session_id,
            agent_id=agent_id,
            tenant_id=owner.tenant,
            user_id=owner.subject,
            created_at=now,
            last_activity=now,
            metadata=metadata,
            window=window,
        )

    def after(self, turn: Turn, sequence: int) -> "Session":
        """The head once a turn is in the log."""
        mark = Mark(sequence, turn.number, turn.tokens, turn.whole, turn.weight)
        made, summary, compact_from = turn.compaction, self.summary, self.compact_from
        if made is not None and made.missing:
            compact_from = turn.number + REST
        elif made is not None:
            summary = made
        return msgspec.structs.replace(
            self,
            last_activity=max(self.last_activity, turn.at),
            turns=self.turns + 1,
            messages=self.messages + len(turn.messages),
            tool_calls=self.tool_calls + turn.tool_calls,
            usage=self.usage + turn.usage,
            cost_micro_usd=self.cost_micro_usd + turn.cost_micro_usd,
            tip=sequence,
            marks=(*self.marks, mark)[-MARKS:],
            summary=summary,
            compact_from=compact_from,
        )

    def state_at(self, now: datetime) -> State:
        """Its state: one that has run out of time is closed, whether anybody noticed or not. A turn that is under way
        is finished."""
        idle = bool(self.idle_seconds) and now - self.last_activity >= timedelta(seconds=self.idle_seconds)
        over = self.expires_at is not None and now >= self.expires_at
        return "closed" if not self.running and (idle or over) else self.state

    def allows(self, principal: Principal, may: May) -> bool:
        """Whether the owner, or whoever it was shared with, is the one who asks."""
        names = {principal.subject, *(f"role:{role}" for role in principal.roles)}
        shared = any(share.who in names and share.may in (may, "write") for share in self.shares)
        return shared or principal.subject == self.user_id

    def holding(self, execution_id: str, at: datetime | None) -> "Session":
        """The head while this run is its turn; none with "" and None."""
        return msgspec.structs.replace(self, running=execution_id, running_since=at)


def _readable(version: int) -> int:
    if version > VERSION:
        raise ValueError(f"it was written by a later version of this program ({version}, not {VERSION})")
    return VERSION
