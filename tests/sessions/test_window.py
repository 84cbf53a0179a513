"""Which turns a model is shown: the last that fit, whole, and never more than the window takes."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.sessions.record import MARKS, Pin, Session, Turn, Window
from mcp_agents.sessions.window import stretch

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def turn(number: int, tokens: int, *, whole: bool) -> Turn:
    """A turn of this size, with a tool in it."""
    call = ToolCall(call_id="c", tool="t")
    return Turn(
        number=number,
        execution_id=f"ex_{number}",
        status="completed" if whole else "failed",
        messages=(Message(role="user", text="q"), Message(role="assistant", tool_calls=(call,))),
        tokens=tokens,
        usage=Usage(input_tokens=tokens),
        cost_micro_usd=1,
        total_ms=1,
        model="m",
        by="me",
        at=NOW,
    )


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """A session of any turns, pins and window; sequences have gaps, as those of a shared stream do."""
    window = Window(policy=draw(st.sampled_from(["recent", "full"])), max_tokens=draw(st.integers(1, 2_000)))
    session = Session(
        id="se", agent_id="ag", tenant_id="t", user_id="u", created_at=NOW, last_activity=NOW, window=window
    )
    sequence = 0
    for number, (tokens, whole, gap) in enumerate(
        draw(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.integers(1, 9)), max_size=MARKS + 20)), 1
    ):
        sequence += gap
        session = session.after(turn(number, tokens, whole=whole), sequence)
    pins = draw(st.lists(st.integers(1, 100), max_size=3))
    made = tuple(Pin(text=str(number), tokens=tokens, by="me", at=NOW) for number, tokens in enumerate(pins))
    while sum(pin.tokens for pin in made) > window.max_tokens:
        made = made[1:]
    return Session(**{name: getattr(session, name) for name in Session.__struct_fields__ if name != "pins"}, pins=made)


@given(sessions())
def test_the_window_is_the_longest_end_that_fits(session: Session) -> None:
    """Never over its budget; one turn more would be, or there is none; the newest are in it before any older one."""
    shown = stretch(session)
    assert shown.upto == session.tip
    inside = [mark for mark in session.marks if mark.sequence > shown.after]
    assert inside == list(session.marks[len(session.marks) - len(inside) :])
    pinned = sum(pin.tokens for pin in session.pins)
    taken = pinned + sum(mark.tokens for mark in inside if mark.whole)
    assert shown.tokens == taken
    if session.window.policy == "full":
        assert shown.after == 0
        return
    assert taken <= session.window.max_tokens
    if len(inside) < len(session.marks):
        next_older = session.marks[len(session.marks) - len(inside) - 1]
        assert next_older.whole
        assert taken + next_older.tokens > session.window.max_tokens


@given(sessions())
def test_the_head_does_not_grow_with_the_conversation(session: Session) -> None:
    """It knows the places of the last turns and sums of the rest."""
    assert len(session.marks) <= MARKS
    assert [mark.number for mark in session.marks] == list(
        range(session.turns - len(session.marks) + 1, session.turns + 1)
    )
    assert session.messages == 2 * session.turns
    assert session.tool_calls == session.turns
    assert session.cost_micro_usd == session.turns
