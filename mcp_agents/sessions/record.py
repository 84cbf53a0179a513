"""What is stored of a session: its head, and the turns in its log. Shapes and pure steps from one to the next."""

from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.kernel.messages import Message, Usage
from mcp_agents.kernel.principal import Principal

State = Literal["active", "suspended", "closed"]
Policy = Literal["recent", "full"]
"""Which turns the model is shown: the last ones that fit, or all of them."""

May = Literal["read", "write"]
SHARES: Final = 64
MARKS: Final = 256
"""So many of the last turns the head knows the places of; a window never reaches back further."""
PINS: Final = 32
PIN_LIMIT: Final = 4_000
"""Characters of a pinned text."""


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


class Pin(Struct, frozen=True, kw_only=True):
    """A text that every window holds."""

    text: str
    tokens: int
    by: str
    at: datetime


class Turn(Struct, frozen=True, kw_only=True):
    """One run of the session's agent: what was asked, done and answered. One entry of the log."""

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
    v: int = 1

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
    v: int = 1

    def after(self, turn: Turn, sequence: int) -> "Session":
        """The head once a turn is in the log."""
        mark = Mark(sequence, turn.number, turn.tokens, turn.whole)
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
