"""What sessions look like to a caller, and the plugin that their tools belong to."""

from datetime import datetime
from typing import Any

from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.tenancy import Versioned
from mcp_agents.sessions import window
from mcp_agents.sessions.record import May, Policy, Session, State, Turn
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import Arguments, Call, Plugin

plugin = Plugin(
    "sessions",
    title="Sessions",
    scopes=scopes.SESSIONS,
    asks_also=frozenset({"sessions:admin", "agents:write"}),  # other people's sessions; memories about the tenant
)

ID = Field(min_length=1, max_length=64, description="The session.")


class ShareView(Struct, frozen=True, kw_only=True):
    """Who else may read the session, or take turns in it too (`write`)."""

    who: str
    may: May


class ContextView(Struct, frozen=True, kw_only=True):
    """What a session has come to. Money in micro-USD; `context_window_size` and `window_tokens` in tokens: the most of
    the conversation that goes with a prompt, and how much does now. `summary` stands for the first
    `summarized_turns`."""

    turns: int
    messages: int
    tool_calls: int
    total_tokens: int
    cost_accumulator: int
    context_window_size: int
    window_policy: Policy
    window_tokens: int
    pinned: tuple[str, ...]
    summary: str
    summarized_turns: int


class SessionView(Struct, frozen=True, kw_only=True):
    """A session. `running` is the execution of the turn under way, "" for none."""

    session_id: str
    agent_id: str
    tenant_id: str
    user_id: str
    created_at: datetime
    last_activity: datetime
    context: ContextView
    state: State
    metadata: dict[str, Any]
    shares: tuple[ShareView, ...]
    forked_from: str
    idle_seconds: int
    expires_at: datetime | None
    running: str
    revision: int


class SessionPage(Struct, frozen=True, kw_only=True):
    """Sessions, newest first; `next_cursor` is empty on the last page."""

    sessions: tuple[SessionView, ...]
    next_cursor: str


class MessageView(Struct, frozen=True, kw_only=True):
    """What was said, or what a tool returned (`role` tool)."""

    role: str
    text: str
    tool_calls: tuple[ToolCall, ...]
    tool: str


class TurnView(Struct, frozen=True, kw_only=True):
    """One turn: its run, and its messages in order. `status` other than completed: not shown to the model again.
    `summary` is the one that the run made of the turns before, and `summary_lacks` why it was not taken."""

    number: int
    execution_id: str
    status: str
    at: datetime
    by: str
    tokens: int
    cost_micro_usd: int
    messages: tuple[MessageView, ...]
    summary: str
    summary_lacks: tuple[str, ...]


class TurnPage(Struct, frozen=True, kw_only=True):
    """Turns, newest first; `next_before` is 0 on the last page."""

    session_id: str
    turns: tuple[TurnView, ...]
    next_before: int


class Exported(Struct, frozen=True, kw_only=True):
    """A session as one document, for session_import here or elsewhere."""

    session_id: str
    export: dict[str, Any]


class Deleted(Struct, frozen=True, kw_only=True):
    """What was removed."""

    session_id: str
    deleted: bool = True


class SessionRef(Arguments):
    """One session."""

    session_id: str = ID


def view(call: Call, kept: Versioned[Session]) -> SessionView:
    """As the caller sees it at this moment."""
    session, shown, made = kept.value, window.stretch(kept.value), window.summary(kept.value)
    return SessionView(
        session_id=session.id,
        agent_id=session.agent_id,
        tenant_id=session.tenant_id,
        user_id=session.user_id,
        created_at=session.created_at,
        last_activity=session.last_activity,
        context=ContextView(
            turns=session.turns,
            messages=session.messages,
            tool_calls=session.tool_calls,
            total_tokens=session.usage.total,
            cost_accumulator=session.cost_micro_usd,
            context_window_size=session.window.max_tokens,
            window_policy=session.window.policy,
            window_tokens=shown.tokens,
            pinned=tuple(pin.text for pin in session.pins),
            summary=made.text if made else "",
            summarized_turns=made.through if made else 0,
        ),
        state=session.state_at(call.services.clock.now()),
        metadata=session.metadata,
        shares=tuple(ShareView(who=each.who, may=each.may) for each in session.shares),
        forked_from=session.forked_from,
        idle_seconds=session.idle_seconds,
        expires_at=session.expires_at,
        running=session.running,
        revision=kept.revision,
    )


def turn_view(turn: Turn) -> TurnView:
    """As the caller sees it."""
    return TurnView(
        number=turn.number,
        execution_id=turn.execution_id,
        status=turn.status,
        at=turn.at,
        by=turn.by,
        tokens=turn.tokens,
        cost_micro_usd=turn.cost_micro_usd,
        messages=tuple(
            MessageView(role=each.role, text=each.text, tool_calls=each.tool_calls, tool=each.tool)
            for each in turn.messages
        ),
        summary=turn.compaction.text if turn.compaction else "",
        summary_lacks=turn.compaction.missing if turn.compaction else (),
    )


async def found(call: Call, session_id: str) -> Versioned[Session]:
    """A session with every turn that has ended."""
    return await call.services.conversations.caught_up(call.space, call.principal, session_id)
