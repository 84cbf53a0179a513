"""Reports: figures that are those of the turns, and a hint for what stands out."""

from datetime import UTC, datetime

from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.sessions.record import Session, Turn, Window
from mcp_agents.sessions.report import Report, markdown, report

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOLDEN = """\
# Session se_1

6 turns, 2 of them not completed; 60 tokens, 42 micro-USD; a turn takes 100 ms at the median.
The next prompt goes with 1 turns: 400 of 440 tokens.

## Models

- small: 5 times, 35 micro-USD
- none: 1 times, 7 micro-USD

## Tools

- shop__order: 6 times, 0 micro-USD

## Slow turns

- turn 4 (ex_4): 900 ms

## What to do

- 2 of 6 turns did not complete: see their runs with execution_get.
- The model is shown 1 turns and not the 3 before: pin what has to stay known, bind builtin/search_session, or let \
session_compact summarize them.
- 1 turns fill the window: they are long, or it is small.
- The turns 4 took more than 3 times the median of 100 ms.
"""


def talked(window: int, tokens: int, *, odd: bool) -> tuple[Session, list[Turn]]:
    """Six turns; odd ones fail, take long, or have no model."""
    session = Session(
        id="se_1", agent_id="ag", tenant_id="t", user_id="u", created_at=NOW, last_activity=NOW,
        window=Window(max_tokens=window),
    )  # fmt: skip
    turns = []
    for number in range(1, 7):
        call = ToolCall(call_id="c", tool="shop__order")
        turn = Turn(
            number=number,
            execution_id=f"ex_{number}",
            status="failed" if odd and number in (2, 5) else "completed",
            messages=(Message(role="user", text="q"), Message(role="assistant", tool_calls=(call,))),
            tokens=tokens,
            usage=Usage(input_tokens=10),
            cost_micro_usd=7,
            total_ms=900 if odd and number == 4 else 100,
            model="" if odd and number == 5 else "small",
            by="me",
            at=NOW,
        )
        turns.append(turn)
        session = session.after(turn, number * 10)
    return session, turns


def test_what_stands_out_is_named() -> None:
    """Word for word, from turns that were made to stand out."""
    assert markdown(report(*talked(440, 400, odd=True))) == GOLDEN


def test_a_session_like_any_other_needs_nothing() -> None:
    """All of it is shown, nothing failed, nothing was slow."""
    found = report(*talked(24_000, 10, odd=False))
    assert (found.hints, found.slowest, found.failed, found.shown_turns) == ((), (), 0, 6)
    assert (found.cost_micro_usd, found.total_tokens) == (42, 60)
    assert "Nothing stands out." in markdown(found)


def test_a_session_in_which_nothing_was_said_has_a_report() -> None:
    """Without a division by nothing."""
    session, _ = talked(500, 1, odd=False)
    empty = Session(
        id="se_0", agent_id="ag", tenant_id="t", user_id="u", created_at=NOW, last_activity=NOW, window=session.window
    )
    found = report(empty, [])
    assert isinstance(found, Report)
    assert (found.turns, found.median_ms, found.hints) == (0, 0, ())
