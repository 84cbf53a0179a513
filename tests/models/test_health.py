"""Measurements that fade, and a breaker that opens, probes and closes; time is the test's."""

import pytest

from mcp_agents.kernel.errors import AgentsError, Denied, Exhausted, Invalid, Unavailable
from mcp_agents.models.health import (
    FAILURES_IN_A_ROW,
    OPEN_LONGEST,
    OPEN_SECONDS,
    PROBE_WAIT_MS,
    HealthBoard,
    Lane,
    Vitals,
)
from tests.support.clock import TestClock

LANE = Lane("m")
DOWN = Unavailable("MODEL_UNAVAILABLE", "It does not answer.")


class Board:
    """A board and its clock."""

    def __init__(self, clock: TestClock) -> None:
        self.clock = clock
        self.board = HealthBoard(clock)

    @property
    def vitals(self) -> Vitals:
        return self.board.vitals(LANE)

    def good(self, seconds: float = 0.0, first: float = 0.0) -> None:
        with self.board.attempt(LANE, 120) as attempt:
            self.clock.advance(first)
            attempt.spoke()
            self.clock.advance(seconds - first)
            attempt.answered()

    def bad(self, error: AgentsError = DOWN, seconds: float = 120) -> None:
        with pytest.raises(AgentsError), self.board.attempt(LANE, seconds):
            raise error

    def opened(self) -> None:
        for _ in range(FAILURES_IN_A_ROW):
            self.bad()
        assert self.vitals.state == "open"


@pytest.fixture
def board(clock: TestClock) -> Board:
    return Board(clock)


def test_nobody_knows_a_model_that_was_not_asked(board: Board) -> None:
    """It is closed, and may be asked."""
    assert board.vitals == Vitals()


def test_latency_and_success_are_averaged(board: Board) -> None:
    """To the answer and to the first token; newer ones weigh at least a twenty-first."""
    board.good(2.0, first=0.5)
    board.good(4.0, first=1.5)
    vitals = board.vitals
    assert vitals.latency_ms == pytest.approx(3000, rel=0.01)
    assert vitals.first_token_ms == pytest.approx(1000, rel=0.01)
    assert vitals.success is None
    board.good(3.0, first=1.0)
    assert board.vitals.success == 1
    for _ in range(300):
        board.good(1.0)
    assert board.vitals.latency_ms == pytest.approx(1000, rel=0.01)
    board.bad()
    assert board.vitals.success == pytest.approx(20 / 21, rel=0.01)


def test_a_share_of_successes_takes_some_calls(board: Board) -> None:
    """One failure alone is no share; three calls are, for a moment."""
    board.bad()
    board.good()
    assert board.vitals.success is None
    board.good()
    assert board.vitals.success == pytest.approx(2 / 3)
    board.clock.advance(100)
    assert board.vitals.success is None


def test_what_was_measured_fades_to_unknown(board: Board) -> None:
    """One call for five minutes, many for longer; in the end nothing is known."""
    board.good(1.0)
    board.clock.advance(299)
    assert board.vitals.latency_ms == pytest.approx(1000)
    board.clock.advance(2)
    assert (board.vitals.latency_ms, board.vitals.success) == (None, None)
    for _ in range(100):
        board.good(0.1)
    board.clock.advance(1200)
    assert board.vitals.latency_ms is not None
    board.clock.advance(1200)
    assert board.vitals.latency_ms is None


def test_failures_in_a_row_open_the_breaker_and_a_probe_closes_it(board: Board) -> None:
    """One success between them starts the row anew."""
    for _ in range(FAILURES_IN_A_ROW - 1):
        board.bad()
    board.good()
    board.opened()
    assert board.vitals.ready_in_ms == OPEN_SECONDS * 1000
    assert board.vitals.last_error == "MODEL_UNAVAILABLE"
    board.clock.advance(OPEN_SECONDS)
    assert (board.vitals.state, board.vitals.ready_in_ms) == ("half_open", 0)
    board.good()
    assert (board.vitals.state, board.vitals.last_error) == ("closed", "")


def test_half_open_lets_one_call_through(board: Board) -> None:
    """The others wait; a probe that was given up makes room for another; a second call does not close it."""
    board.opened()
    board.clock.advance(OPEN_SECONDS)
    with board.board.attempt(LANE, 120):
        assert (board.vitals.state, board.vitals.ready_in_ms, board.vitals.in_flight) == ("half_open", PROBE_WAIT_MS, 1)
        board.good()
        assert board.vitals.state == "half_open"
    assert (board.vitals.state, board.vitals.ready_in_ms, board.vitals.in_flight) == ("half_open", 0, 0)


def test_a_probe_that_fails_opens_it_for_twice_as_long(board: Board) -> None:
    """Up to five minutes; a success in the end forgets it."""
    board.opened()
    for place in range(1, 8):
        board.clock.advance(board.vitals.ready_in_ms / 1000)
        board.bad()
        assert board.vitals.ready_in_ms == min(OPEN_LONGEST, OPEN_SECONDS * 2**place) * 1000
    board.clock.advance(OPEN_LONGEST)
    board.good()
    board.opened()
    assert board.vitals.ready_in_ms == OPEN_SECONDS * 1000


def test_half_of_the_calls_failing_opens_it_too(board: Board) -> None:
    """Though no five failed in a row."""
    for _ in range(4):
        board.bad()
        board.good()
    board.bad()
    assert board.vitals.state == "closed"
    board.bad()
    assert board.vitals.state == "open"


def test_calls_that_began_before_it_opened_do_not_prolong_it(board: Board) -> None:
    """Nor does a late success close it."""
    board.opened()
    board.clock.advance(10)
    board.bad()
    assert board.vitals.ready_in_ms == (OPEN_SECONDS - 10) * 1000
    board.good()
    assert board.vitals.state == "open"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Denied("MODEL_KEY_REFUSED", "?"), 300),
        (Exhausted("MODEL_QUOTA_EXHAUSTED", "?"), 300),
        (Denied("MODEL_NOT_FOUND", "?"), 600),
    ],
)
def test_a_refusal_opens_it_at_once_and_for_long(board: Board, error: AgentsError, seconds: int) -> None:
    """Asking again soon would be refused again."""
    board.bad(error)
    assert (board.vitals.state, board.vitals.ready_in_ms, board.vitals.last_error) == (
        "open",
        seconds * 1000,
        error.code,
    )


def test_a_rate_limit_cools_for_as_long_as_it_says(board: Board) -> None:
    """It is no failure; without a word it is two seconds; a probe that meets one closes the breaker."""
    for _ in range(3):
        board.good()
    board.bad(Exhausted("MODEL_RATE_LIMITED", "?", retry_after_ms=7000))
    assert (board.vitals.state, board.vitals.ready_in_ms, board.vitals.success) == ("cooling", 7000, 1.0)
    board.bad(Exhausted("MODEL_RATE_LIMITED", "?"))
    assert board.vitals.ready_in_ms == 7000
    board.clock.advance(7)
    assert (board.vitals.state, board.vitals.ready_in_ms) == ("closed", 0)
    board.bad(Exhausted("MODEL_RATE_LIMITED", "?"))
    assert board.vitals.ready_in_ms == 2000
    board.opened()
    board.clock.advance(OPEN_SECONDS)
    board.bad(Exhausted("MODEL_RATE_LIMITED", "?", retry_after_ms=1000))
    assert board.vitals.state == "cooling"


@pytest.mark.parametrize(
    "code", ["MODEL_CONTEXT_TOO_LONG", "MODEL_CONTENT_FILTERED", "MODEL_REQUEST_REFUSED", "ANYTHING_ELSE"]
)
def test_the_requests_own_fault_counts_against_nobody(board: Board, code: str) -> None:
    """However often."""
    for _ in range(20):
        board.bad(Invalid(code, "?"))
    assert board.vitals == Vitals(recent=board.vitals.recent)


def test_lanes_are_apart(board: Board) -> None:
    """What a tenant's own key meets is not the model's fault."""
    board.opened()
    assert board.board.vitals(Lane("m", "a#1")) == Vitals()
