"""Every change of an agent makes a version; none is lost, and one can go back to each that is kept."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.agents.catalog import VERSIONS_KEPT
from mcp_agents.agents.spec import Agent
from mcp_agents.kernel.errors import Conflict, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Records
from tests.agents.conftest import Rooms, draft
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


async def numbers(rooms: Rooms, reference: str = "helper") -> list[int]:
    """The versions that can be listed, newest first."""
    return [agent.version for agent in await rooms.catalog.versions(rooms.own, reference, 0, 1000)]


async def stored(rooms: Rooms) -> set[str]:
    """The keys of the records in the agents' bucket."""
    return {record.key async for record in rooms.store.scan("cb_agents", ">")}


async def test_each_change_makes_a_version_that_says_what_and_by_whom(rooms: Rooms, clock: TestClock) -> None:
    """Creating, changing, switching and rolling back all do."""
    made = (await rooms.catalog.create(rooms.own, draft(system_prompt="One."), by="us_1")).value
    clock.advance(1)
    await rooms.catalog.update(rooms.own, "helper", {"system_prompt": "Two.", "temperature": 1.0}, None, by="us_2")
    await rooms.catalog.set_active(rooms.own, "helper", active=False, expected_revision=None, by="us_3")
    await rooms.catalog.rollback(rooms.own, "helper", 1, None, by="us_4")
    told = [
        (agent.version, agent.updated_by, agent.changed, agent.summary)
        for agent in await rooms.catalog.versions(rooms.own, "helper", 0, 10)
    ]
    assert told == [
        (4, "us_4", ("system_prompt", "temperature"), "rolled back to version 1"),
        (3, "us_3", ("is_active",), "switched off"),
        (2, "us_2", ("system_prompt", "temperature"), "changed system_prompt, temperature"),
        (1, "us_1", ("name", "system_prompt"), "created"),
    ]
    assert await rooms.catalog.version(rooms.own, made.id, 1) == made
    head = (await rooms.catalog.get(rooms.own, "helper")).value
    assert (head.system_prompt, head.temperature) == ("One.", None)
    assert not head.is_active, "rolling back does not switch an agent on"


async def test_versions_come_by_page(rooms: Rooms) -> None:
    """Newest first, each once."""
    await rooms.catalog.create(rooms.own, draft())
    for n in range(5):
        await rooms.catalog.update(rooms.own, "helper", {"description": str(n)}, None)
    pages, before = [], 0
    while page := await rooms.catalog.versions(rooms.own, "helper", before, 4):
        pages.append([agent.version for agent in page])
        before = pages[-1][-1]
        if before == 1:
            break
    assert pages == [[6, 5, 4, 3], [2, 1]]


async def test_rolling_back_checks_everything_again(rooms: Rooms) -> None:
    """A model or tool that is gone since is refused, and nothing has changed."""
    await rooms.catalog.create(rooms.own, draft(virtual_model="old", tools=["box/look"]))
    await rooms.catalog.update(rooms.own, "helper", {"virtual_model": "auto"}, None)
    await rooms.catalog.update(rooms.own, "helper", {"tools": []}, None)
    before = await rooms.catalog.get(rooms.own, "helper")
    rooms.gone_models.add("old")
    with pytest.raises(Invalid) as model:
        await rooms.catalog.rollback(rooms.own, "helper", 1, None)
    rooms.boxed.clear()
    with pytest.raises(Invalid) as tool:
        await rooms.catalog.rollback(rooms.own, "helper", 2, None)
    with pytest.raises(Conflict) as stale:
        await rooms.catalog.rollback(rooms.own, "helper", 3, before.revision - 1)
    assert [each.value.code for each in (model, tool, stale)] == [
        "MODEL_UNKNOWN",
        "TOOL_NOT_FOUND",
        "REVISION_CONFLICT",
    ]
    assert await rooms.catalog.get(rooms.own, "helper") == before


async def test_the_name_goes_back_if_it_is_free(rooms: Rooms) -> None:
    """Taken by another agent meanwhile, the present one stays, and the version says so."""
    made = (await rooms.catalog.create(rooms.own, draft(description="First."))).value
    await rooms.catalog.update(rooms.own, made.id, {"name": "aide", "description": "Second."}, None)
    back = await rooms.catalog.rollback(rooms.own, made.id, 1, None)
    assert (back.value.name, back.value.description) == ("helper", "First.")
    assert (await rooms.catalog.get(rooms.own, "helper")).value.id == made.id
    with pytest.raises(NotFound):
        await rooms.catalog.get(rooms.own, "aide")
    await rooms.catalog.create(rooms.own, draft(name="aide"))
    kept = await rooms.catalog.rollback(rooms.own, made.id, 2, None)
    assert (kept.value.name, kept.value.description) == ("helper", "Second.")
    assert "taken" in kept.value.summary


@pytest.mark.parametrize("number", [0, -1, 3, 10**9])
async def test_a_version_that_is_not_there_is_unknown(rooms: Rooms, number: int) -> None:
    """Before the first and behind the last; nothing changes."""
    await rooms.catalog.create(rooms.own, draft())
    await rooms.catalog.update(rooms.own, "helper", {"description": "Second."}, None)
    for asked in (
        rooms.catalog.version(rooms.own, "helper", number),
        rooms.catalog.rollback(rooms.own, "helper", number, None),
    ):
        with pytest.raises(NotFound) as refusal:
            await asked
        assert refusal.value.code == "AGENT_VERSION_UNKNOWN"
    assert await numbers(rooms) == [2, 1]


async def test_the_newest_hundred_are_kept(rooms: Rooms) -> None:
    """Older ones can neither be listed nor read, and are not in the store; the newest all can."""
    made = (await rooms.catalog.create(rooms.own, draft())).value
    for n in range(VERSIONS_KEPT + 4):
        await rooms.catalog.update(rooms.own, "helper", {"description": str(n)}, None)
    newest = VERSIONS_KEPT + 5
    assert await numbers(rooms) == list(range(newest, newest - VERSIONS_KEPT, -1))
    assert (await rooms.catalog.version(rooms.own, "helper", 6)).description == "4"
    with pytest.raises(NotFound):
        await rooms.catalog.version(rooms.own, "helper", 5)
    kept = {key for key in await stored(rooms) if ".version." in key}
    assert kept == {f"a.version.{made.id}.{n}" for n in range(6, newest)}


async def test_a_death_between_the_version_and_the_agent_loses_neither(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outgoing version is stored first; the change that died can be made again."""
    made = (await rooms.catalog.create(rooms.own, draft(description="First."))).value
    update = Records.update

    async def dies(self: Records[Any], *parts: str, value: Any, revision: int, ttl: int = 0) -> int:
        if parts == (made.id,):
            raise RuntimeError("the process died here")
        return await update(self, *parts, value=value, revision=revision, ttl=ttl)

    monkeypatch.setattr(Records, "update", dies)
    with pytest.raises(RuntimeError):
        await rooms.catalog.update(rooms.own, "helper", {"description": "Second."}, None)
    monkeypatch.undo()
    assert f"a.version.{made.id}.1" in await stored(rooms)
    assert await numbers(rooms) == [1]
    assert (await rooms.catalog.get(rooms.own, "helper")).value == made
    await rooms.catalog.update(rooms.own, "helper", {"description": "Third."}, None)
    assert await numbers(rooms) == [2, 1]
    assert await rooms.catalog.version(rooms.own, "helper", 1) == made


async def test_changes_at_once_leave_a_history_without_a_gap(rooms: Rooms) -> None:
    """Whoever lost was told; each version that was made is there, with the content it was made with."""
    await rooms.catalog.create(rooms.own, draft(description="start"))
    wrote: dict[int, str] = {}

    async def change(text: str) -> None:
        for _ in range(20):
            try:
                saved = await rooms.catalog.update(rooms.own, "helper", {"description": text}, None)
            except Conflict:
                continue
            wrote[saved.value.version] = text
            return

    async with together() as tasks:
        for n in range(8):
            tasks.start_soon(change, str(n))
    assert sorted(wrote) == list(range(2, 10))
    kept = await rooms.catalog.versions(rooms.own, "helper", 0, 100)
    assert {agent.version: agent.description for agent in kept} == {1: "start", **wrote}


async def test_deleting_an_agent_erases_its_versions_and_its_state(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first deletion died behind the agent itself: the id can be deleted again."""
    for dies in (False, True):
        made = (await rooms.catalog.create(rooms.own, draft())).value
        await rooms.catalog.update(rooms.own, "helper", {"description": "Second."}, None)
        await rooms.catalog.states.merge(rooms.own, made.id, {"a": 1}, "eff_1")
        if dies:

            async def crash(*_: object) -> None:
                raise RuntimeError("the process died here")

            monkeypatch.setattr(type(rooms.catalog), "_erase", crash)
            with pytest.raises(RuntimeError):
                await rooms.catalog.delete(rooms.own, "helper", None)
            monkeypatch.undo()
            assert await stored(rooms)
            with pytest.raises(NotFound):
                await rooms.catalog.delete(rooms.own, made.id, None)
        else:
            await rooms.catalog.delete(rooms.own, "helper", None)
        assert await stored(rooms) == set()
        assert [record async for record in rooms.store.scan("cb_agent_state", ">")] == []


async def test_versions_of_another_tenants_agent_read_like_none(rooms: Rooms) -> None:
    """By id and by name, listed, read and rolled back to."""
    made = (await rooms.catalog.create(rooms.other, draft())).value
    await rooms.catalog.update(rooms.other, "helper", {"description": "Second."}, None)
    for reference in (made.id, "helper"):
        for asked in (
            rooms.catalog.versions(rooms.own, reference, 0, 10),
            rooms.catalog.version(rooms.own, reference, 1),
            rooms.catalog.rollback(rooms.own, reference, 1, None),
        ):
            with pytest.raises(NotFound) as refusal:
                await asked  # type: ignore[misc]
            assert refusal.value.code == "AGENT_UNKNOWN"


async def test_an_agent_from_before_there_were_versions_gets_them_from_now_on(rooms: Rooms) -> None:
    """What was never stored is not listed; what is replaced from now on is."""
    old = msgspec.json.decode((Path(__file__).parent / "records" / "agent.json").read_bytes(), type=Agent)
    await rooms.own.records("cb_agents", Agent).create(old.id, value=old)
    rooms.boxed |= {"demo/add", "demo/*"}
    assert await numbers(rooms, old.id) == [3]
    await rooms.catalog.update(rooms.own, old.id, {"description": "New."}, None)
    assert await numbers(rooms, old.id) == [4, 3]
    assert (await rooms.catalog.rollback(rooms.own, old.id, 3, None)).value.description == "Helps."


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12), st.integers(0, 11))
async def test_rolling_back_restores_exactly_what_was_written(texts: list[str], pick: int) -> None:
    """Whatever came between, the written fields are those of the old version."""
    rooms = Rooms(TestClock())
    await rooms.catalog.create(rooms.own, draft(description="start"))
    for text in texts:
        await rooms.catalog.update(rooms.own, "helper", {"description": text, "tags": [text]}, None)
    number = 1 + pick % (len(texts) + 1)
    then = await rooms.catalog.version(rooms.own, "helper", number)
    now = (await rooms.catalog.rollback(rooms.own, "helper", number, None)).value
    made = ("version", "updated_at", "updated_by", "changed", "summary")
    assert {name: getattr(now, name) for name in Agent.__struct_fields__ if name not in made} == {
        name: getattr(then, name) for name in Agent.__struct_fields__ if name not in made
    }
    assert now.version == len(texts) + 2


async def test_a_stored_version_is_never_overwritten(rooms: Rooms) -> None:
    """Creating its record again is refused by the store itself."""
    made = (await rooms.catalog.create(rooms.own, draft())).value
    await rooms.catalog.update(rooms.own, "helper", {"description": "Second."}, None)
    with pytest.raises(WrongRevision):
        await rooms.own.records("cb_agents", Agent).create("version", made.id, "1", value=made)
