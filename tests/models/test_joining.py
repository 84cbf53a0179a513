"""Streamed fragments of tool calls are joined to whole calls, wherever a provider cuts them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.adapters.chat_wire import Fragment, join
from mcp_agents.kernel.errors import Unavailable
from mcp_agents.kernel.messages import ToolCall

objects: st.SearchStrategy[dict[str, object]] = st.dictionaries(
    st.text(max_size=5), st.text() | st.integers(-(2**53), 2**53) | st.booleans(), max_size=4
)


@st.composite
def streamed(draw: st.DrawFn) -> tuple[list[dict[str, object]], list[Fragment]]:
    """Arguments of some calls, and their fragments: cut anywhere, calls interleaved, each in its own order."""
    wanted = draw(st.lists(objects, min_size=1, max_size=4))
    queues: list[list[Fragment]] = []
    for index, arguments in enumerate(wanted):
        raw = json.dumps(arguments)
        cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=5)))
        pieces = [Fragment(index, arguments=raw[a:b]) for a, b in pairwise([0, *cuts, len(raw)])]
        queues.append([Fragment(index, f"id{index}", f"tool{index}"), *pieces])
    fragments = [queue.pop(0) for queue in queues]
    while any(queues):
        fragments.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    return wanted, fragments


@given(streamed())
def test_fragments_join_wherever_they_are_cut(case: tuple[list[dict[str, object]], list[Fragment]]) -> None:
    """Cutting and interleaving change nothing."""
    wanted, fragments = case
    assert join(fragments, turn=1) == tuple(
        ToolCall(call_id=f"id{place}", tool=f"tool{place}", arguments=arguments)
        for place, arguments in enumerate(wanted)
    )


@pytest.mark.parametrize("raw", ["{", "[1]", "1", '"x"', "null", '{"a": NaN}', '{"a": "\\ud800"}', "{} {}", "[" * 9999])
def test_what_is_no_object_is_kept_as_malformed(raw: str) -> None:
    """The raw text is kept for the model, and nothing is passed on as arguments."""
    assert join([Fragment(0, "x", "add", raw)], turn=1) == (ToolCall(call_id="x", tool="add", malformed=raw),)


@given(st.lists(st.builds(Fragment, st.none() | st.integers(0, 2), st.text(max_size=2), st.just("t"), st.text())))
def test_any_fragments_make_calls_with_ids_of_their_own(fragments: list[Fragment]) -> None:
    """Whatever comes, no two calls share an id."""
    ids = [call.call_id for call in join(fragments, turn=1)]
    assert len(set(ids)) == len(ids)


def test_a_missing_or_repeated_id_is_replaced_by_a_stable_one() -> None:
    """The same stream gives the same ids each time."""
    fragments = [Fragment(0, "", "a"), Fragment(1, "x", "b"), Fragment(2, "x", "c")]
    assert [call.call_id for call in join(fragments, turn=3)] == ["call_3_1", "x", "call_3_3"]


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    """A piece without an id continues the last call."""
    fragments = [Fragment(None, "x", "a", "{"), Fragment(None, arguments="}"), Fragment(None, "y", "b", "{}")]
    assert [(call.call_id, call.malformed) for call in join(fragments, turn=1)] == [("x", ""), ("y", "")]


def test_a_call_without_a_name_is_an_unreadable_answer() -> None:
    """There is nothing to call, and nothing to tell the model about."""
    with pytest.raises(Unavailable, match="MODEL_ANSWER_MALFORMED"):
        join([Fragment(0, "x", "", "{}")], turn=1)
