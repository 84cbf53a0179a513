"""Which turns a model is shown: those that fit, whole, by recency or weight, and never more than the window takes."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.sessions.record import MARKS, REST, Compaction, Kept, Pin, Policy, Session, Turn, Window
from mcp_agents.sessions.window import AT_ONCE, LAST, SUMMARY_LEAST, leaving, stretch, summary, summary_room

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def turn(number: int, tokens: int, *, whole: bool, weight: int = 1, made: Compaction | None = None) -> Turn:
    """A turn of this size and weight."""
    calls = (ToolCall(call_id="c", tool="t"),) if weight else ()
    return Turn(
        number=number,
        execution_id=f"ex_{number}",
        status="completed" if whole else "failed",
        messages=(Message(role="user", text="q"), Message(role="assistant", tool_calls=calls)),
        tokens=tokens,
        usage=Usage(input_tokens=tokens),
        cost_micro_usd=1,
        total_ms=1,
        model="m",
        by="me",
        at=NOW,
        kept=(Kept("eff", "a call"),) if weight > 1 else (),
        compaction=made,
    )


@st.composite
def sessions(draw: st.DrawFn, *policies: Policy, summaries: bool = False) -> Session:
    """A session of any turns, pins and window; sequences have gaps, as those of a shared stream do. Now and then one of
    the turns made a summary of those before, which was taken or not."""
    window = Window(policy=draw(st.sampled_from(policies)), max_tokens=draw(st.integers(1, 2_000)))
    session = Session(
        id="se", agent_id="ag", tenant_id="t", user_id="u", created_at=NOW, last_activity=NOW, window=window
    )
    sequence = 0
    one = st.tuples(st.integers(0, 400), st.booleans(), st.integers(1, 9), st.integers(0, 2), st.integers(0, 19))
    for number, (tokens, whole, gap, weight, luck) in enumerate(draw(st.lists(one, max_size=MARKS + 20)), 1):
        sequence += gap
        made = None
        if summaries and luck < 2 and number > 1:
            lacks = ("something",) if luck else ()
            made = Compaction(through=draw(st.integers(1, number - 1)), text="s", tokens=tokens // 4, missing=lacks)
        session = session.after(turn(number, tokens, whole=whole, weight=weight, made=made), sequence)
    pins = draw(st.lists(st.integers(1, 100), max_size=3))
    made = tuple(Pin(text=str(number), tokens=tokens, by="me", at=NOW) for number, tokens in enumerate(pins))
    while sum(pin.tokens for pin in made) > window.max_tokens:
        made = made[1:]
    return Session(**{name: getattr(session, name) for name in Session.__struct_fields__ if name != "pins"}, pins=made)


@given(sessions("recent", "full"))
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


@given(sessions("prioritized"))
def test_what_is_left_out_is_what_weighs_least(session: Session) -> None:
    """The last few turns first, then by weight, then by recency: nothing is out that goes before what is in."""
    shown = stretch(session)
    inside = [mark for mark in session.marks if mark.sequence > shown.after and mark.sequence not in shown.without]
    outside = [mark for mark in session.marks if mark not in inside]

    def place(number: int, weight: int) -> tuple[int, int, int]:
        last = number > session.turns - LAST
        return (int(last), 0 if last else weight, number)

    worst = min((place(mark.number, mark.weight) for mark in inside if mark.whole), default=(9, 9, 9))
    dropped = [mark for mark in outside if mark.whole]
    assert all(place(mark.number, mark.weight) < worst for mark in dropped)
    taken = sum(pin.tokens for pin in session.pins) + sum(mark.tokens for mark in inside if mark.whole)
    assert shown.tokens == taken <= session.window.max_tokens
    if dropped:
        first = max(dropped, key=lambda mark: place(mark.number, mark.weight))
        assert taken + first.tokens > session.window.max_tokens, "there was room for one more"


@given(sessions("recent", "prioritized", "compacted", summaries=True))
def test_a_summary_and_what_is_behind_it_fit(session: Session) -> None:
    """No turn is shown that the summary stands for; what is to leave is a beginning, whole, and what stays fits."""
    shown, made = stretch(session), summary(session)
    assert shown.tokens <= session.window.max_tokens
    inside = [mark for mark in session.marks if mark.sequence > shown.after and mark.sequence not in shown.without]
    if made is not None:
        assert not made.missing
        assert all(mark.number > made.through for mark in inside if mark.whole)
    goes = leaving(session)
    if goes is None:
        return
    assert session.window.policy == "compacted"
    assert session.turns + 1 >= session.compact_from
    assert summary_room(session) >= SUMMARY_LEAST
    first = made.through if made else 0
    leaves = [mark for mark in session.marks if goes.after < mark.sequence <= goes.upto]
    stays = [mark for mark in session.marks if mark.sequence > goes.upto]
    read, most = sum(mark.tokens for mark in leaves if mark.whole), AT_ONCE * session.window.max_tokens
    assert read <= most or len(leaves) == 1
    if stays and read + stays[0].tokens > most:
        return  # the rest leaves the next time
    assert [mark.number for mark in leaves] == list(range(leaves[0].number, goes.through + 1))
    assert leaves[0].number == max(first + 1, session.marks[0].number)
    pinned = sum(pin.tokens for pin in session.pins)
    assert (
        pinned + summary_room(session) + sum(mark.tokens for mark in stays if mark.whole) <= session.window.max_tokens
    )


@given(sessions("compacted", summaries=True))
def test_a_summary_that_was_not_taken_is_not_tried_again_at_once(session: Session) -> None:
    """Some turns pass first; and what was taken before still holds."""
    number = session.turns + 1
    failed = Compaction(through=1, missing=("it",))
    after = session.after(turn(number, 10, whole=True, made=failed), session.tip + 1)
    assert after.summary == session.summary
    for _ in range(REST - 1):
        assert leaving(after) is None
        after = after.after(turn(after.turns + 1, 400, whole=True), after.tip + 1)


@given(sessions("recent", "full", "prioritized", "compacted"))
def test_the_head_does_not_grow_with_the_conversation(session: Session) -> None:
    """It knows the places of the last turns and sums of the rest."""
    assert len(session.marks) <= MARKS
    assert [mark.number for mark in session.marks] == list(
        range(session.turns - len(session.marks) + 1, session.turns + 1)
    )
    assert session.messages == 2 * session.turns
    assert session.tool_calls <= session.turns
    assert session.cost_micro_usd == session.turns
