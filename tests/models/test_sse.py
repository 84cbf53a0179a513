"""Events come out of bytes the same way, however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.adapters import sse
from mcp_agents.adapters.sse import Events
from mcp_agents.kernel.errors import Exhausted

texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=8)
lines = st.one_of(
    texts.map(lambda text: f"data: {text}"),
    texts.map(lambda text: f"data:{text}"),
    texts.map(lambda text: f": {text}"),
    texts.map(lambda text: f"event: {text}"),
    st.just(""),
)


def by_the_book(stream: list[str]) -> list[bytes]:
    """The standard's own steps, line by line: data is gathered, one space behind the colon dropped."""
    events: list[bytes] = []
    data: list[str] = []
    for line in stream:
        if not line and data:
            events.append("\n".join(data).encode())
            data = []
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
    return events


@given(st.lists(lines, max_size=12), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200), max_size=8))
def test_cuts_and_line_ends_change_nothing(stream: list[str], end: str, cuts: list[int]) -> None:
    """Any cut, also in a character or between CR and LF, gives the events of the whole."""
    content = "".join(line + end for line in stream).encode()
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    events = Events()
    found = [event for begin, stop in pairwise(places) for event in events.feed(content[begin:stop])]
    assert found == by_the_book(stream)


def test_a_line_without_an_end_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before it fills the memory."""
    monkeypatch.setattr(sse, "LONGEST_LINE", 100)
    events = Events()
    assert events.feed(b"data: " + b"a" * 90) == []
    with pytest.raises(Exhausted, match="MODEL_ANSWER_TOO_LARGE"):
        events.feed(b"a" * 90)
