"""An agent's state: merge patches, once per effect id, whoever else writes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.agents.state import APPLIED_LIMIT
from mcp_agents.kernel.errors import Exhausted, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Records
from tests.agents.conftest import Rooms, draft
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


async def an_agent(rooms: Rooms) -> str:
    """The id of a new agent."""
    return (await rooms.catalog.create(rooms.own, draft())).value.id


# The examples of RFC 7396, appendix A, whose target and patch are objects.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": 1}, {"a": 1}, {"e": 1, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
async def test_a_change_is_a_merge_patch(rooms: Rooms, target: Any, patch: Any, result: Any) -> None:
    """As RFC 7396 shows it."""
    agent = await an_agent(rooms)
    await rooms.catalog.states.merge(rooms.own, agent, target, "eff_1")
    assert (await rooms.catalog.states.merge(rooms.own, agent, patch, "eff_2")).value.state == result
    assert (await rooms.catalog.states.get(rooms.own, agent)).value.state == result


async def test_the_state_is_empty_at_first_and_each_agents_own(rooms: Rooms) -> None:
    """Revision 0 until something is kept; neither another agent nor another tenant sees it."""
    states, agent = rooms.catalog.states, await an_agent(rooms)
    assert (await states.get(rooms.own, agent)).revision == 0
    kept = await states.merge(rooms.own, agent, {"a": 1}, "eff_1")
    assert kept.revision > 0
    other = (await rooms.catalog.create(rooms.own, draft(name="other"))).value.id
    for space, who in ((rooms.own, other), (rooms.other, agent)):
        assert (await states.get(space, who)).value.state == {}
    with pytest.raises(NotFound):
        await states.merge(rooms.other, agent, {"a": 2}, "eff_2")


async def test_a_repeated_effect_is_applied_once(rooms: Rooms) -> None:
    """Also when others have written since; the answer is the state as it is now."""
    states, agent = rooms.catalog.states, await an_agent(rooms)
    await states.merge(rooms.own, agent, {"n": 1}, "eff_1")
    second = await states.merge(rooms.own, agent, {"n": 2}, "eff_2")
    assert await states.merge(rooms.own, agent, {"n": 1}, "eff_1") == second
    for n in range(APPLIED_LIMIT * 2):
        await states.merge(rooms.own, agent, {"n": n}, f"eff_more_{n}")
    applied = (await states.get(rooms.own, agent)).value.applied
    assert len(applied) == APPLIED_LIMIT
    assert applied[-1] == f"eff_more_{APPLIED_LIMIT * 2 - 1}"


async def test_changes_at_once_are_all_kept(rooms: Rooms) -> None:
    """Each run writes a member of its own; none overwrites what it has not seen."""
    states, agent = rooms.catalog.states, await an_agent(rooms)
    async with together() as tasks:
        for n in range(16):
            tasks.start_soon(states.merge, rooms.own, agent, {f"k{n}": n}, f"eff_{n}")
    assert (await states.get(rooms.own, agent)).value.state == {f"k{n}": n for n in range(16)}


async def test_a_change_that_always_comes_second_ends_and_says_so(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried for ever."""
    agent = await an_agent(rooms)

    async def beaten(*_: object, **__: object) -> int:
        raise WrongRevision

    monkeypatch.setattr(Records, "update", beaten)
    with pytest.raises(Exhausted) as refusal:
        await rooms.catalog.states.merge(rooms.own, agent, {"a": 1}, "eff_1")
    assert refusal.value.code == "STATE_BUSY"


@pytest.mark.parametrize("size", ["wide", "deep", "deep in a list"])
async def test_a_state_beyond_its_bounds_is_refused_and_stays_as_it_was(rooms: Rooms, size: str) -> None:
    """Too many bytes after the merge, or too deep."""
    states, agent = rooms.catalog.states, await an_agent(rooms)
    before = await states.merge(rooms.own, agent, {"a": "x" * 40_000}, "eff_1")
    deep: Any = 1
    for _ in range(40):
        deep = [deep] if size == "deep in a list" else {"d": deep}
    with pytest.raises(Invalid) as refusal:
        await states.merge(rooms.own, agent, {"b": "x" * 40_000 if size == "wide" else deep}, "eff_2")
    assert refusal.value.code == "STATE_TOO_LARGE"
    assert await states.get(rooms.own, agent) == before
    assert (await states.merge(rooms.own, agent, {"a": None}, "eff_3")).value.state == {}


async def test_a_deleted_agent_keeps_nothing_more(rooms: Rooms) -> None:
    """A run that is still under way is refused, so that no state outlives its agent."""
    agent = await an_agent(rooms)
    await rooms.catalog.delete(rooms.own, agent, None)
    with pytest.raises(NotFound):
        await rooms.catalog.states.merge(rooms.own, agent, {"a": 1}, "eff_1")
    assert [record async for record in rooms.store.scan("cb_agent_state", ">")] == []


JSON = st.recursive(
    st.none() | st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=6
)
PATCHES = st.dictionaries(st.sampled_from("ab"), JSON, max_size=2)


@given(st.lists(PATCHES, max_size=4), PATCHES)
async def test_a_patch_that_is_applied_again_changes_nothing(
    before: list[dict[str, Any]], patch: dict[str, Any]
) -> None:
    """Under another effect id too: a merge patch is idempotent, and holds no null afterwards."""
    rooms = Rooms(TestClock())
    states, agent = rooms.catalog.states, await an_agent(rooms)
    for n, each in enumerate(before):
        await states.merge(rooms.own, agent, each, f"eff_{n}")
    once = await states.merge(rooms.own, agent, patch, "eff_once")
    twice = await states.merge(rooms.own, agent, patch, "eff_twice")
    assert once.value.state == twice.value.state
    assert "None" not in repr(once.value.state)
