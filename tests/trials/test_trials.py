"""The trials in little: what must hold at any size. `make trials` plays them whole and looks at times, too."""

import os
from importlib import import_module
from pathlib import Path

import anyio
import pytest

from tests.trials import budget, facts, faults, guesses, overload, price, talks

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What takes seconds to import is there before any lease is taken."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")


async def test_a_budget_is_not_overrun_by_a_crowd_whose_processes_die(tmp_path: Path) -> None:
    """Forty calls, room for ten, a holder of reservations killed: no overshoot, and the books agree."""
    with anyio.fail_after(240):
        books = await budget.trial(tmp_path, calls=40, kills=1, seed=1)
    assert books.faults() == []
    assert books.kills == 1
    assert books.ends.total() == 40
    assert books.settled == budget.LIMIT
    assert books.ends["completed"] == (budget.LIMIT - books.lost) / budget.PRICE
    assert books.lost > 0


async def test_runs_outlive_a_provider_that_goes_wrong_now_and_then(tmp_path: Path) -> None:
    """Every kind of fault was met, and every run completed."""
    with anyio.fail_after(240):
        tally = await faults.trial(tmp_path, runs=300, seed=2)
    assert tally.ends == {"completed": 300}
    assert len(tally.met) == 6
    assert tally.requests > 600


def test_the_interval_is_wilsons() -> None:
    """Against values worked out by hand from the formula."""
    assert faults.wilson(10_000, 10_000) == pytest.approx(0.999616, abs=1e-6)
    assert faults.wilson(95, 100) == pytest.approx(0.888249, abs=1e-5)


async def test_an_overload_loses_nothing_and_is_bounded(tmp_path: Path) -> None:
    """Ten times too much is asked for: what was accepted ends, the rest is told when to come back."""
    with anyio.fail_after(240):
        found = await overload.trial(tmp_path, rounds=1, seconds=4)
    assert found.faults() == []
    assert found.refused > found.accepted


async def test_guesses_are_timed_pair_by_pair(tmp_path: Path) -> None:
    """Every row of the matrix that names something is asked both ways; what the times say is for the whole trial."""
    with anyio.fail_after(120):
        found = await guesses.trial(tmp_path, times=2, seed=1)
    assert len(found.pairs) > 40
    assert all(len(pairs) == 2 for pairs in found.pairs.values())


def test_a_time_that_tells_is_found() -> None:
    """A foreign thing that takes a tenth longer every time is a fault, one that takes longer half the time is none."""
    rows = guesses.POINTED[:2]
    slow = guesses.Found({row: [(1.1, 1.0)] * 20 for row in rows})
    even = guesses.Found({row: [(1.1, 1.0), (1.0, 1.1)] * 10 for row in rows})
    assert slow.faults()
    assert even.faults() == []


async def test_the_price_is_asked_for_each_way(tmp_path: Path) -> None:
    """Every way answers the same call, and decisions are timed for each number of rules."""
    with anyio.fail_after(120):
        found = await price.trial(tmp_path, times=5, seed=1)
    assert [len(took) for took in found.calls.values()] == [5] * 5
    assert set(found.decisions) == set(price.RULES)


async def test_sessions_are_begun_whatever_their_length(tmp_path: Path) -> None:
    """Each length is measured, and turns that are run store something."""
    with anyio.fail_after(120):
        found = await talks.trial(tmp_path, lengths=(70, 140), times=3, ran=5, seed=1)
    assert [len(took) for took in found.opened.values()] == [3, 3]
    assert found.log_bytes > 0
    assert found.head_bytes > 0


async def test_facts_outlast_the_window_by_summaries_alone(tmp_path: Path) -> None:
    """Where the model writes them down, each is known at the end; without summaries most are not."""
    with anyio.fail_after(240):
        found = {
            policy: await facts.trial(tmp_path / policy, policy, turns=90, facts=9, seed=2) for policy in facts.POLICIES
        }
    assert found["compacted"].answered == 9
    assert found["compacted"].summaries > 1
    assert found["recent"].answered < 6
    assert found["recent"].summaries == 0
