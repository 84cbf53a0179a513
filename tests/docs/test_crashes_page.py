"""docs/crashes.md holds the table that the crash tests play, row by row."""

import pytest

from tests.crash.scenarios import (
    EVERY,
    FRONT,
    NATS,
    PARALLEL,
    REPEATABLE,
    SERVING,
    WORKER,
    Scenario,
)
from tests.docs.pages import rows, section, text_of

SECTIONS = {
    "A worker dies": WORKER,
    "A worker dies, and the tool may be repeated": REPEATABLE,
    "A process that began the run at once dies": SERVING,
    "A worker dies in the middle of parallel calls": PARALLEL,
    "A front end dies": FRONT,
    "The NATS server dies": NATS,
}


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_has_the_scenarios_with_their_points_and_counts(title: str) -> None:
    """Name, fault point, paid answers, effects and unknown calls are those of the test."""
    page = [
        (row[0], row[1].replace("`", ""), *row[3:]) for row in list(rows(section(text_of("crashes.md"), title)))[1:]
    ]
    assert page == [_row(scenario) for scenario in SECTIONS[title]]


def test_no_scenario_is_left_out() -> None:
    """The sections are all there is."""
    assert [scenario for part in SECTIONS.values() for scenario in part] == EVERY


def test_the_trusted_tools_have_the_section_of_their_own() -> None:
    """The page says of one section that the tool may be repeated; the scenarios say so too."""
    assert [scenario for scenario in EVERY if scenario.trusted] == REPEATABLE
    assert [each for each in EVERY if not each.retried_by_client] == [SERVING[-1], FRONT[-1]]


def _row(scenario: Scenario) -> tuple[str, ...]:
    point = scenario.point + {1: "", 2: ", 2nd time", 3: ", 3rd time"}[scenario.nth]
    return (scenario.name, point, str(scenario.answers), str(scenario.effects), str(scenario.unknown))
