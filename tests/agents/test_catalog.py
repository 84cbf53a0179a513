"""Agents: every field, unique names, revisions, and what a crash may leave behind."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcp_agents.agents.catalog import AgentCatalog, Checks
from mcp_agents.agents.spec import Agent, Policy
from mcp_agents.kernel.errors import Conflict, Invalid, NotFound
from mcp_agents.kernel.tasks import together
from tests.agents.conftest import Rooms, draft
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


async def test_every_field_that_was_written_is_read_back(rooms: Rooms) -> None:
    """The record holds every field, and what the server sets beside them."""
    written = draft(
        description="Helps.",
        system_prompt="Be kind.",
        virtual_model="cb:coding",
        temperature=0.5,
        max_tokens=100,
        capabilities=["a", "b"],
        tags=["t"],
        metadata={"k": [1, {"x": None}]},
        limits={"max_turns": 3},
        tools=["box/*"],
        policy={"unknown_effects": "verify", "verify_tool": "box/look"},
        output_schema={"type": "object", "properties": {"a": {"type": "integer"}}},
    )
    made = (await rooms.catalog.create(rooms.own, written)).value
    found = (await rooms.catalog.get(rooms.own, made.id)).value
    assert found == made
    assert (found.tenant_id, found.is_active, found.version) == ("a", True, 1)
    assert found.created_at == found.updated_at
    for name in ("description", "system_prompt", "virtual_model", "temperature", "max_tokens", "metadata", "tools"):
        assert getattr(found, name) == getattr(written, name)
    assert (found.capabilities, found.tags, found.limits.max_turns) == (("a", "b"), ("t",), 3)
    assert found.policy == Policy(unknown_effects="verify", verify_tool="box/look")
    assert found.output_schema == written.output_schema
    assert (await rooms.catalog.get(rooms.own, "helper")).value.id == made.id


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "Has Space"},
        {"name": "x" * 65},
        {"name": "ag_" + "0" * 26},
        {"temperature": 2.01},
        {"temperature": -0.01},
        {"max_tokens": 0},
        {"tenant_id": "b"},
        {"limits": {"max_turns": 0}},
        {"limits": {"unknown": 1}},
        {"policy": {"unknown_effects": "hope"}},
        {"policy": {"unknown_effects": "verify"}},
        {"policy": {"unknown_effects": "verify", "verify_tool": "box/look"}},
        {"policy": {"unknown_effects": "verify", "verify_tool": "box/look"}, "tools": ["box/put"]},
        {"policy": {"unknown_effects": "verify", "verify_tool": "box/*"}, "tools": ["box/*"]},
        {"output_schema": "object"},
    ],
)
def test_a_field_out_of_bounds_is_refused(wrong: dict[str, Any]) -> None:
    """Nothing beyond the bounds, and no field that the server sets itself."""
    with pytest.raises(ValidationError):
        draft(**wrong)


@given(st.floats(0, 2), st.integers(1, 1_000_000))
def test_every_field_inside_its_bounds_is_taken(temperature: float, max_tokens: int) -> None:
    """The bounds themselves belong to them."""
    assert draft(temperature=temperature, max_tokens=max_tokens).max_tokens == max_tokens


async def test_a_name_is_taken_once_per_tenant(rooms: Rooms) -> None:
    """The same name is free elsewhere, and free again after the agent is gone."""
    made = await rooms.catalog.create(rooms.own, draft())
    with pytest.raises(Conflict) as refusal:
        await rooms.catalog.create(rooms.own, draft())
    assert refusal.value.code == "AGENT_NAME_TAKEN"
    await rooms.catalog.create(rooms.other, draft())
    await rooms.catalog.delete(rooms.own, made.value.id, None)
    with pytest.raises(NotFound):
        await rooms.catalog.get(rooms.own, "helper")
    await rooms.catalog.create(rooms.own, draft())


async def test_of_many_that_want_a_name_at_once_one_gets_it(rooms: Rooms) -> None:
    """Concurrent creation leaves exactly one agent of that name."""
    outcomes: list[str] = []

    async def want() -> None:
        try:
            await rooms.catalog.create(rooms.own, draft())
            outcomes.append("got")
        except Conflict:
            outcomes.append("refused")

    async with together() as tasks:
        for _ in range(10):
            tasks.start_soon(want)
    assert sorted(outcomes) == ["got"] + ["refused"] * 9
    assert len(await rooms.catalog.all(rooms.own)) == 1


async def test_a_name_claimed_by_a_creation_that_crashed_is_free_after_a_while(
    rooms: Rooms, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim alone is no agent; it is honoured for a moment, for a creation that is still under way."""
    checked = Checks(model=rooms.check_model, unknown=rooms.unknown)
    crashing = AgentCatalog(clock, checked)

    async def crash(*_: object, **__: object) -> int:
        raise RuntimeError("the process died here")

    monkeypatch.setattr("mcp_agents.kernel.tenancy.Records.create", crash)
    with pytest.raises(RuntimeError):
        await crashing.create(rooms.own, draft())
    monkeypatch.undo()
    with pytest.raises(Conflict):
        await rooms.catalog.create(rooms.own, draft())
    clock.advance(11)
    await rooms.catalog.create(rooms.own, draft())


async def test_a_stale_change_is_refused_and_nothing_is_lost(rooms: Rooms, clock: TestClock) -> None:
    """Of two that read the same revision the second is told."""
    made = await rooms.catalog.create(rooms.own, draft())
    clock.advance(5)
    changed = await rooms.catalog.update(rooms.own, "helper", {"description": "First."}, made.revision)
    assert changed.revision > made.revision
    assert changed.value.version == 2
    assert changed.value.updated_at > made.value.updated_at
    assert changed.value.created_at == made.value.created_at
    for change in (
        rooms.catalog.update(rooms.own, "helper", {"description": "Second."}, made.revision),
        rooms.catalog.delete(rooms.own, "helper", made.revision),
        rooms.catalog.set_active(rooms.own, "helper", active=False, expected_revision=made.revision),
    ):
        with pytest.raises(Conflict) as refusal:
            await change
        assert refusal.value.code == "REVISION_CONFLICT"
    assert (await rooms.catalog.get(rooms.own, "helper")).value.description == "First."


async def test_renaming_moves_the_name(rooms: Rooms) -> None:
    """The old name is free, the new one is taken, the id stays."""
    made = await rooms.catalog.create(rooms.own, draft())
    await rooms.catalog.update(rooms.own, "helper", {"name": "aide"}, None)
    assert (await rooms.catalog.get(rooms.own, "aide")).value.id == made.value.id
    with pytest.raises(NotFound):
        await rooms.catalog.get(rooms.own, "helper")
    await rooms.catalog.create(rooms.own, draft())
    with pytest.raises(Conflict):
        await rooms.catalog.update(rooms.own, "aide", {"name": "helper"}, None)


async def test_an_unknown_model_or_tool_is_refused_at_save(rooms: Rooms) -> None:
    """Neither creation nor change can store a binding that does not exist."""
    for wrong in (
        {"virtual_model": "nonsense"},
        {"tools": ["no/such"]},
        {"tools": ["agent:nobody"]},
        {"tools": ["agent:A.B"]},
        {"tools": ["agent:"]},
        {"tools": ["box/*"], "policy": {"unknown_effects": "verify", "verify_tool": "box/gone"}},
        {"output_schema": {"type": "array"}},
    ):
        with pytest.raises(Invalid):
            await rooms.catalog.create(rooms.own, draft(**wrong))  # type: ignore[arg-type]
    await rooms.catalog.create(rooms.own, draft())
    with pytest.raises(Invalid):
        await rooms.catalog.update(rooms.own, "helper", {"virtual_model": "nonsense"}, None)


async def test_an_agent_too_large_for_the_store_is_refused(rooms: Rooms) -> None:
    """The bound is said, and nothing is written, not even the name."""
    with pytest.raises(Invalid) as refusal:
        await rooms.catalog.create(rooms.own, draft(metadata={"k": "x" * 300_000}))
    assert refusal.value.code == "AGENT_TOO_LARGE"
    await rooms.catalog.create(rooms.own, draft())


@pytest.mark.parametrize("reference", ["nobody", "ag_" + "0" * 26, "A.B", "*", "", "ag_*"])
async def test_what_is_not_there_reads_the_same_whatever_was_asked(rooms: Rooms, reference: str) -> None:
    """One answer for an unknown id, an unknown name and nonsense; another tenant's agent reads so too."""
    made = await rooms.catalog.create(rooms.other, draft())
    answers = []
    for asked in (reference, made.value.id, "helper"):
        with pytest.raises(NotFound) as refusal:
            await rooms.catalog.get(rooms.own, asked)
        answers.append(str(refusal.value))
    assert len(set(answers)) == 1


async def test_an_agent_that_is_bound_to_another_holds_its_id(rooms: Rooms) -> None:
    """Named by name or id, once; renaming the other changes nothing."""
    other = (await rooms.catalog.create(rooms.own, draft(name="other"))).value
    tools = ["agent:other", "box/look", f"agent:{other.id}"]
    made = (await rooms.catalog.create(rooms.own, draft(tools=tools))).value
    assert made.tools == (f"agent:{other.id}", "box/look")
    await rooms.catalog.update(rooms.own, "other", {"name": "renamed"}, None)
    changed = await rooms.catalog.update(rooms.own, "helper", {"description": "Still bound."}, None)
    assert changed.value.tools == made.tools


async def test_what_was_removed_since_is_flagged_on_read(rooms: Rooms) -> None:
    """Tools of a server and agents alike, in the order of the bindings; what is still there is not."""
    await rooms.catalog.create(rooms.own, draft(name="stays"))
    leaves = (await rooms.catalog.create(rooms.own, draft(name="leaves"))).value
    tools = ["box/put", "agent:stays", "agent:leaves", "box/look"]
    made = (await rooms.catalog.create(rooms.own, draft(tools=tools))).value
    assert await rooms.catalog.missing_tools(rooms.own, made) == ()
    rooms.boxed.remove("box/put")
    await rooms.catalog.delete(rooms.own, "leaves", None)
    assert await rooms.catalog.missing_tools(rooms.own, made) == ("box/put", f"agent:{leaves.id}")


async def test_no_agent_is_bound_to_itself_or_to_a_foreign_one(rooms: Rooms) -> None:
    """Neither under its name, new or old, nor under its id; a foreign agent reads like none."""
    foreign = (await rooms.catalog.create(rooms.other, draft(name="foreign"))).value
    with pytest.raises(Invalid) as itself:
        await rooms.catalog.create(rooms.own, draft(tools=["agent:helper"]))
    assert itself.value.code == "AGENT_BINDS_ITSELF"
    made = (await rooms.catalog.create(rooms.own, draft())).value
    for changes in ({"tools": ["agent:helper"]}, {"tools": [f"agent:{made.id}"]}):
        with pytest.raises(Invalid) as itself:
            await rooms.catalog.update(rooms.own, "helper", changes, None)
        assert itself.value.code == "AGENT_BINDS_ITSELF"
    for reference in (foreign.id, "foreign"):
        with pytest.raises(Invalid) as unknown:
            await rooms.catalog.update(rooms.own, "helper", {"tools": [f"agent:{reference}"]}, None)
        assert unknown.value.code == "TOOL_NOT_FOUND"


def test_a_record_from_before_versions_and_policies_is_read() -> None:
    """What it lacks has its default."""
    stored = (Path(__file__).parent / "records" / "agent.json").read_bytes()
    agent = msgspec.json.decode(stored, type=Agent)
    assert (agent.name, agent.version, agent.limits.max_turns) == ("helper", 3, 3)
    assert agent.policy == Policy(unknown_effects="tell_model", verify_tool="")
    assert (agent.output_schema, agent.updated_by, agent.changed, agent.summary) == (None, "", (), "")
