"""docs/errors.md names every code that the source can say, and no other."""

import pytest

from mcp_agents.kernel.errors import KINDS
from mcp_agents.server.rendering import HTTP_STATUS
from tests.docs.codes import Codes
from tests.docs.pages import rows, section, text_of


@pytest.fixture(scope="module")
def codes() -> Codes:
    """What the source can say."""
    return Codes()


def listed() -> list[tuple[str, str]]:
    """(kind, code) of every row of the page."""
    page = text_of("errors.md")
    found = [(kind, row[0]) for kind in KINDS for row in rows(section(page, kind)) if row[0] != "code"]
    kind = ""
    for first, *_ in rows(section(page, "What a tool call of a run can end with")):
        if first in ("refused", "broken"):
            kind = first.capitalize()
        else:
            found.append((kind, first))
    return found


def test_every_code_of_the_source_is_on_the_page_under_its_kind(codes: Codes) -> None:
    """A code that is raised and not described is missing."""
    assert sorted(codes.said - set(listed())) == []


def test_no_code_on_the_page_is_stale(codes: Codes) -> None:
    """A code that nothing raises any more has no place on the page, and none stands there twice."""
    assert sorted(set(listed()) - codes.said) == []
    assert len(listed()) == len(set(listed()))


def test_each_row_says_what_it_means_and_what_to_do() -> None:
    """No cell is empty."""
    assert [row for row in rows(text_of("errors.md")) if len(row) != 3 or not all(row)] == []


def test_codes_that_are_not_literals_are_made_in_known_places_only(codes: Codes) -> None:
    """A new way to make a code would go unseen by the scan, so it is noticed here."""
    assert dict(codes.dynamic) == {
        "tools/mcp_agents_tools/toolsets/builtin.py": 1,  # an error of a kind, said again
        "tools/mcp_agents_tools/toolsets/outcomes.py": 2,  # from _UNSENT_SAYS and _BROKEN_SAYS
        "tools/mcp_agents_tools/toolsets/toolbox.py": 1,  # an error of a kind, said again
    }


def test_each_section_names_the_status_of_its_kind() -> None:
    """The page's HTTP statuses are those of the one table."""
    page = text_of("errors.md")
    for kind, status in HTTP_STATUS.items():
        assert f"HTTP {status}" in section(page, kind)
