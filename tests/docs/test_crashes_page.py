"""docs/crashes.md holds the tables that the crash tests play, row by row."""

import pytest

from tests.crash.scenarios import (
    APPROVAL,
    CHILD,
    EVERY,
    FRONT,
    NATS,
    PARALLEL,
    PARENT,
    QUESTION,
    REPEATABLE,
    SERVING,
    STREAMING,
    WORKER,
    Scenario,
)
from tests.crash.test_zombies import ZOMBIES
from tests.docs.pages import rows, section, text_of

SECTIONS = {
    "A worker dies": WORKER,
    "A worker dies, and the tool may be repeated": REPEATABLE,
    "The process that accepted the run dies": SERVING,
    "A worker dies among parallel calls": PARALLEL,
    "A worker dies in the middle of a streamed answer": STREAMING,
    "A worker dies over a run that calls another agent": PARENT,
    "A worker dies over the run of a called agent": CHILD,
    "A process dies over a call that a person approves": APPROVAL,
    "A process dies over a question of an agent": QUESTION,
    "A front end dies": FRONT,
    "The NATS server dies": NATS,
}
STOPPED = "A worker is stopped and comes back"


@pytest.mark.parametrize("title", [*SECTIONS, STOPPED])
def test_a_section_has_the_scenarios_with_their_points_and_counts(title: str) -> None:
    """Name, fault point, paid answers, effects and unknown calls are those of the test."""
    page = [
        (row[0], row[1].replace("`", ""), *row[3:]) for row in list(rows(section(text_of("crashes.md"), title)))[1:]
    ]
    assert page == [_row(scenario) for scenario in {**SECTIONS, STOPPED: ZOMBIES}[title]]


def test_no_scenario_is_left_out() -> None:
    """The sections are all there is."""
    listed = [scenario.name for part in SECTIONS.values() for scenario in part]
    assert sorted(listed) == sorted(scenario.name for scenario in EVERY)
    assert len(set(listed)) == len(listed)


def test_what_a_section_says_of_all_its_rows_is_so() -> None:
    """Who believes the tools, who never comes back, and who begins runs without a job."""
    assert [scenario for scenario in EVERY if scenario.trusted] == REPEATABLE
    forgotten = [scenario for scenario in EVERY if not scenario.retried_by_client]
    assert forgotten == [SERVING[-1], FRONT[-1]]
    assert all(scenario.name.startswith("serving-") == (scenario.role == "serving") for scenario in EVERY)


def _row(scenario: Scenario) -> tuple[str, ...]:
    point = scenario.point + {1: "", 2: ", 2nd time", 3: ", 3rd time"}[scenario.nth]
    return (scenario.name, point, str(scenario.answers), str(scenario.effects), str(scenario.unknown))
