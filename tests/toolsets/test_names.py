"""Names of tools as the model sees them, and what a server's texts are reduced to."""

import re

from hypothesis import given
from hypothesis import strategies as st
from mcp_agents_tools.toolsets.listing import cut, visible
from mcp_agents_tools.toolsets.names import model_names

from mcp_agents.agents.schema import depth_over

SERVERS = st.text("ab_-", min_size=1, max_size=40)
TOOLS = st.text("ab_./é ", min_size=1, max_size=100) | st.text(min_size=1, max_size=128)


@given(st.lists(st.tuples(SERVERS, TOOLS), max_size=40))
def test_names_are_distinct_short_and_safe_whatever_the_order(origins: list[tuple[str, str]]) -> None:
    """For any set of tools."""
    names = model_names(origins)
    assert len(set(names.values())) == len(set(origins))
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names.values())
    assert model_names(reversed(origins)) == names


def test_an_ordinary_name_is_left_as_it_is() -> None:
    """Two underscores join it."""
    assert model_names([("files", "read_file")]) == {("files", "read_file"): "files__read_file"}


def test_two_tools_that_would_share_a_name_do_not() -> None:
    """Not even when one of them was named after the other's hash."""
    first = model_names([("a", "b__c"), ("a__b", "c")])
    assert len(set(first.values())) == 2
    taken = first["a", "b__c"].removeprefix("a__")
    assert len(set(model_names([("a", "b__c"), ("a__b", "c"), ("a", taken)]).values())) == 3


@given(st.text(), st.integers(3, 50))
def test_a_cut_text_fits(text: str, limit: int) -> None:
    """In bytes."""
    assert len(cut(visible(text), limit).encode()) <= limit


def test_what_cannot_be_seen_is_taken_out() -> None:
    """Escapes, direction marks, zero widths, tags and selectors."""
    assert visible("a\x1b[31mb\x1b]0;title\x07c\u202ed\u200be\U000e0041f\ufe0fg\x00h\n\ti\u2028j") == "abcdefgh\n\ti\nj"


def test_depth_is_counted_without_recursion() -> None:
    """A very deep value is only deep."""
    value: object = 1
    for _ in range(100_000):
        value = [value]
    assert depth_over(value, 32)
    assert not depth_over({"a": [{"b": 1}]}, 3)
