"""Commits: what is encoded is decoded, and nothing that was tampered with is."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.events import (
    START,
    AnyEvent,
    Completed,
    ModelAnswered,
    Reference,
    Started,
    Tip,
    ToolDone,
    decode_commit,
    encode_commit,
    encode_reference,
)
from mcp_agents.kernel.messages import ToolCall, Usage

AT = datetime(2026, 1, 1, tzinfo=UTC)
text = st.text(max_size=40)
events = st.one_of(
    st.builds(Started, worker=text, attempt=st.integers(1, 5)),
    st.builds(
        ModelAnswered,
        turn=st.integers(1, 9),
        model=text,
        text=text,
        tool_calls=st.lists(st.builds(ToolCall, call_id=text, tool=text), max_size=3).map(tuple),
        usage=st.builds(Usage, input_tokens=st.integers(0, 9)),
    ),
    st.builds(ToolDone, effect_id=text, text=text),
    st.builds(Completed, text=text),
)


def commits(groups: list[list[AnyEvent]]) -> tuple[list[bytes], Tip]:
    """Each group as a stored message, behind the one before."""
    tip, payloads = START, []
    for number, group in enumerate(groups, 1):
        payload, tip, _ = encode_commit(tip, group, at=AT, append_id=f"a{number}")
        payloads.append(payload)
    return payloads, tip


def decoded(payloads: list[bytes]) -> list[AnyEvent]:
    tip, found = START, []
    for number, payload in enumerate(payloads, 1):
        result = decode_commit(tip, payload, number)
        assert not isinstance(result, Reference)
        tip, entries = result
        found += entries
    assert [entry.seq for entry in found] == list(range(1, len(found) + 1))
    return [entry.event for entry in found]


@given(st.lists(st.lists(events, min_size=1, max_size=3), max_size=4))
def test_what_was_committed_is_read_back_with_contiguous_numbers(groups: list[list[AnyEvent]]) -> None:
    """Encoding and decoding are inverse, over any number of commits."""
    payloads, _ = commits(groups)
    assert decoded(payloads) == [event for group in groups for event in group]


@given(st.lists(st.lists(events, min_size=1, max_size=2), min_size=2, max_size=4), st.data())
def test_a_missing_swapped_or_repeated_commit_is_noticed(groups: list[list[AnyEvent]], data: st.DataObject) -> None:
    """The chain breaks wherever a message is not the one that belongs there."""
    payloads, _ = commits(groups)
    at = data.draw(st.integers(0, len(payloads) - 2))
    broken = data.draw(
        st.sampled_from(
            [
                payloads[:at] + payloads[at + 1 :],
                [*payloads[:at], payloads[at + 1], payloads[at], *payloads[at + 2 :]],
                [*payloads[: at + 1], payloads[at], *payloads[at + 1 :]],
            ]
        )
    )
    with pytest.raises(Fault) as refusal:
        decoded(broken)
    assert refusal.value.code == "LOG_DAMAGED"


@pytest.mark.parametrize("field", ["seq", "at", "digest", "event"])
def test_a_changed_part_of_an_event_is_noticed(field: str) -> None:
    """Number, time, digest and body are all covered."""
    (payload,), _ = commits([[Completed(text="the answer")]])
    message = json.loads(payload)
    message["entries"][0][field] = {
        "seq": 2,
        "at": "2026-01-02T00:00:00Z",
        "digest": "0" * 32,
        "event": {"type": "completed", "text": "another answer"},
    }[field]
    with pytest.raises(Fault):
        decode_commit(START, json.dumps(message).encode(), 1)


def test_nonsense_is_a_fault_and_not_a_guess() -> None:
    """Bytes that are no commit end the run with a clear fault."""
    for payload in (b"", b"{}", b"[]", b'{"id": 1}', b"\xff"):
        with pytest.raises(Fault):
            decode_commit(START, payload, 1)


def test_a_reference_names_its_object() -> None:
    """A commit too large to travel is found again by its name."""
    assert decode_commit(START, encode_reference("a1", "log.acme.ex_1.a1"), 1) == Reference("log.acme.ex_1.a1")
