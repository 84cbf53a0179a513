"""One window of a budget: never over, whatever is reserved, settled and released in whatever order."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcp_agents.scaling import window as windows
from mcp_agents.scaling.periods import Period, span
from mcp_agents.scaling.window import Ceiling, Spend, Window

HOLDS = st.sampled_from([f"ex_{run}/{turn}" for run in "abc" for turn in (1, 2)])
AMOUNTS = st.builds(Spend, st.integers(0, 60), st.integers(0, 60))
CEILING = Ceiling(100, 120)


class WindowMachine(RuleBasedStateMachine):
    """A window beside a plain account of what was asked of it. What is spent is at most what was reserved for it."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Window = Window(span="all")
        self.held: dict[str, Spend] = {}
        self.spent = Spend()

    @rule(hold=HOLDS, worst=AMOUNTS)
    def reserve(self, hold: str, worst: Spend) -> None:
        others = sum((one.micro_usd for name, one in self.held.items() if name != hold), 0)
        other_tokens = sum((one.tokens for name, one in self.held.items() if name != hold), 0)
        window, verdict = windows.reserve(self.window, hold, worst, CEILING)
        fits = CEILING.admits(self.spent + Spend(others, other_tokens) + worst)
        if self.held.get(hold) == worst:
            assert verdict == "held"
        else:
            alone = CEILING.admits(self.spent + worst)
            assert verdict == ("held" if fits else "busy" if alone else "over")
        if verdict == "held":
            self.held[hold] = worst
        else:
            assert window is self.window
        self.window = window

    @rule(hold=HOLDS, share=st.floats(0, 1))
    def settle(self, hold: str, share: float) -> None:
        worst = self.held.pop(hold, None)
        most = worst or Spend(50, 50)
        spent = Spend(int(most.micro_usd * share), int(most.tokens * share))
        window, sums = windows.settle(self.window, hold, spent)
        assert window is not None
        if worst is None:
            assert (window is self.window, sums) == (True, None)
        else:
            assert sums == (self.spent, self.spent + spent)
            self.spent = self.spent + spent
        self.window = window

    @rule(hold=HOLDS)
    def release(self, hold: str) -> None:
        window, was_there = windows.release(self.window, hold)
        assert window is not None
        assert was_there == (self.held.pop(hold, None) is not None)
        self.window = window

    @invariant()
    def never_over(self) -> None:
        assert CEILING.admits(self.window.spent + self.window.held)

    @invariant()
    def sums_are_those_of_the_account(self) -> None:
        assert self.window.holds == self.held
        assert self.window.spent == self.spent
        total = Spend()
        for worst in self.held.values():
            total = total + worst
        assert self.window.held == total


TestWindow = WindowMachine.TestCase


def test_a_window_with_as_many_calls_as_it_can_hold_lets_others_wait() -> None:
    """The record stays bounded, and a call that is held already may still change its amount."""
    full = Window(span="all", holds={f"ex_{number}/1": Spend() for number in range(windows.MAX_HOLDS)})
    assert windows.reserve(full, "ex_new/1", Spend(1, 1), Ceiling()) == (full, "busy")
    assert windows.reserve(full, "ex_0/1", Spend(1, 1), Ceiling())[1] == "held"


@pytest.mark.parametrize(
    ("period", "name", "start", "end"),
    [
        ("day", "2026-12-31", (2026, 12, 31), (2027, 1, 1)),
        ("week", "2026-W53", (2026, 12, 28), (2027, 1, 4)),
        ("month", "2026-12", (2026, 12, 1), (2027, 1, 1)),
        ("year", "2026", (2026, 1, 1), (2027, 1, 1)),
    ],
)
def test_the_last_evening_of_a_year(period: Period, name: str, start: tuple[int, ...], end: tuple[int, ...]) -> None:
    """Calendar windows, in UTC whatever zone the moment is given in."""
    moment = datetime(2027, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    found = span(period, moment)
    assert found.name == name
    assert (found.start, found.end) == tuple(datetime(*at, tzinfo=UTC) for at in (start, end))


MOMENTS = st.floats(0, 1e11).map(lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))


@given(MOMENTS, st.sampled_from(["day", "week", "month", "year"]))
def test_windows_follow_each_other_without_gap_or_overlap(moment: datetime, period: Period) -> None:
    """A moment lies in its window, the last instant too, and the next begins where it ends, under another name."""
    found = span(period, moment)
    assert found.start is not None
    assert found.end is not None
    assert found.start <= moment < found.end
    assert span(period, found.end - timedelta(microseconds=1)) == found == span(period, found.start)
    following = span(period, found.end)
    assert following.start == found.end
    assert following.name != found.name
    assert found.start.weekday() == 0 or period != "week"


def test_total_never_begins_again() -> None:
    """One window for ever."""
    assert span("total", datetime(2026, 1, 1, tzinfo=UTC)) == ("all", None, None)
