"""The one door: no id, however it is made, reaches another tenant's subject or key."""

import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from mcp_agents.adapters.memory_log import MemoryLog
from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.adapters.nats_link import NatsLink
from mcp_agents.adapters.nats_log import NatsLog
from mcp_agents.adapters.nats_objects import NatsObjects
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError, Fenced
from mcp_agents.kernel.events import START, Completed, Started
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Doors, Tenancy, TenantSpace, log_subject
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


class Note(Struct, frozen=True, kw_only=True):
    """A record."""

    text: str
    v: int = 1


class Nothing:
    """An object store without an object."""

    async def get(self, name: str) -> bytes | None:
        return None


def doors(clock: TestClock, **filled: Any) -> Doors:
    """Doors with what a test needs, the rest closed."""
    ports = {
        "store": MemoryStore(clock),
        "log": MemoryLog(),
        "queue": None,
        "bus": None,
        "objects": Nothing(),
        **filled,
    }
    return Doors(clock=clock, faults=NoFaults(), **cast("dict[str, Any]", ports))


def space(opened: Doors, tenant: str) -> TenantSpace:
    return Tenancy(opened).of(Principal(tenant=tenant, subject="s", scopes=frozenset()))


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_subject_is_made_of_safe_parts_or_not_at_all(tenant: str, execution: str) -> None:
    """Dots, wildcards, spaces and everything else that has a meaning are refused, never replaced."""
    try:
        subject = log_subject(tenant, execution)
    except AgentsError:
        assert not re.fullmatch(r"[a-z0-9-]{1,40}", tenant) or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", execution)
    else:
        parts = subject.split(".")
        assert parts[:3] == ["cb", "agent", "events"]
        assert parts[4:] == [tenant, execution]


async def test_two_tenants_with_the_same_key_have_two_records(clock: TestClock) -> None:
    """The tenant is part of every key."""
    opened = doors(clock)
    first, second = space(opened, "a").records("cb_agents", Note), space(opened, "b").records("cb_agents", Note)
    await first.create("one", value=Note(text="of a"))
    assert await second.get("one") is None
    await second.create("one", value=Note(text="of b"))
    assert [found.value.text for found in await first.all()] == ["of a"]


@pytest.mark.parametrize("key", ["*", ">", "a.b", "", " ", "a b", "ü", "a*", "../x", "a\n", "x" * 129])
async def test_a_key_that_could_mean_more_than_itself_is_refused(clock: TestClock, key: str) -> None:
    """A caller's text never becomes a pattern."""
    records = space(doors(clock), "a").records("cb_agents", Note)
    with pytest.raises(AgentsError):
        await records.get(key)


@pytest.mark.parametrize("tenant", ["", "A", "a.b", "*", "a b", "ü", "x" * 41])
def test_a_tenants_name_is_restricted(clock: TestClock, tenant: str) -> None:
    """Whatever a token says, a space exists only for a well-formed name."""
    with pytest.raises(AgentsError):
        space(doors(clock), tenant)


async def test_a_log_is_one_tenants_own(clock: TestClock) -> None:
    """The same execution id in another tenant is another, empty log."""
    opened = doors(clock)
    execution_id = ids.mint("ex", clock)
    await space(opened, "a").log(execution_id).append(START, [Started(worker="w", attempt=1)])
    assert (await space(opened, "b").log(execution_id).read())[1] == []
    assert await space(opened, "b").execution_ids() == []
    assert await space(opened, "a").execution_ids() == [execution_id]


async def test_a_commit_too_large_to_travel_is_kept_as_an_object_and_read_back(
    clock: TestClock, link: NatsLink
) -> None:
    """On the real stores: over 256 KiB the message holds a reference, and readers see no difference."""
    opened = doors(clock, log=NatsLog(link), objects=NatsObjects(link))
    log = space(opened, "large").log(ids.mint("ex", clock))
    tip, _ = await log.append(START, [Started(worker="w", attempt=1)])
    await log.append(tip, [Completed(text="x" * 3_000_000)])
    _, entries = await log.read()
    assert isinstance(entries[1].event, Completed)
    assert entries[1].event.text == "x" * 3_000_000


async def test_an_append_behind_the_wrong_tip_is_fenced(clock: TestClock) -> None:
    """A worker that lost its run cannot write to it."""
    log = space(doors(clock), "a").log(ids.mint("ex", clock))
    tip, _ = await log.append(START, [Started(worker="w", attempt=1)])
    await log.append(tip, [Completed(text="mine")])
    with pytest.raises(Fenced):
        await log.append(tip, [Completed(text="zombie")])


def test_ids_sort_by_time_and_never_repeat(clock: TestClock) -> None:
    """Later means greater, and a thousand in one millisecond are a thousand."""
    first = [ids.mint("ex", clock) for _ in range(1000)]
    clock.advance(0.001)
    later = ids.mint("ex", clock)
    assert len(set(first)) == 1000
    assert max(first) < later
    assert all(ids.is_id(made, "ex") and not ids.is_id(made, "ag") for made in first)
