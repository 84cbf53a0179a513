"""Chains of entries: everything that can be done to stored ones is noticed; writers at once make one chain."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import anyio
import msgspec
import pytest

from mcp_agents.adapters.memory_log import MemoryLog
from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.audit import Deed, Entry, audited
from mcp_agents.kernel.errors import Conflict, Fault
from mcp_agents.kernel.log import Stored
from mcp_agents.kernel.principal import Principal
from mcp_agents.security.audit import AuditTrail, Head, Wanted
from tests.auth.desk import YieldingStore, log_of, platform
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio

KEY, OTHER = b"k" * 32, b"o" * 32
WHO = Principal(tenant="acme", subject="us_ada", scopes=frozenset(), client="cl_app", actors=("ag_one",))
Stream = list[Stored]


@dataclass
class Room:
    """A trail over a store and a log that tests may reach into."""

    store: MemoryStore
    clock: TestClock
    trail: AuditTrail

    @property
    def log(self) -> MemoryLog:
        """What the entries are in."""
        return log_of(self.store)

    def stream(self, tenant: str = "acme") -> Stream:
        """A tenant's stored entries."""
        return self.log._logs[f"cb.agent.audit.{tenant}"]

    def another(self, key: bytes = KEY) -> AuditTrail:
        """The trail of another process."""
        return AuditTrail(platform(self.store, self.clock), key, self.clock)

    async def filled(self, number: int = 6, tenant: str = "acme") -> None:
        """Writes entries."""
        for each in range(number):
            await self.trail.note(tenant, Deed(WHO, f"act_{each}", "thing"), "done")


@pytest.fixture
def room() -> Room:
    """An empty one."""
    clock = TestClock()
    store = YieldingStore(clock)
    return Room(store, clock, AuditTrail(platform(store, clock), KEY, clock))


def changed(stored: Stored, **parts: object) -> Stored:
    """A stored entry with other parts and its old code."""
    entry = msgspec.structs.replace(msgspec.json.decode(stored.payload, type=Entry), **parts)
    return Stored(stored.sequence, msgspec.json.encode(entry))


def of_others(stream: Stream) -> Stream:
    """A whole chain by somebody who has not the key."""
    clock = TestClock()
    forger = AuditTrail(platform(YieldingStore(clock), clock), OTHER, clock)
    made, previous = Stream(), ""
    for stored in stream:
        entry = msgspec.structs.replace(msgspec.json.decode(stored.payload, type=Entry), subject="x", previous=previous)
        entry = msgspec.structs.replace(entry, mac=forger._mac(entry))
        previous = entry.mac
        made.append(Stored(stored.sequence, msgspec.json.encode(entry)))
    return made


TAMPERED: dict[str, Callable[[Stream], Stream]] = {
    **{
        f"{part} of the {place}": lambda stream, at=at, part=part, value=value: [
            changed(stored, **{part: value}) if number == at % len(stream) else stored
            for number, stored in enumerate(stream)
        ]
        for place, at in (("first", 0), ("third", 2), ("last", -1))
        for part, value in (
            ("subject", "us_mallory"),
            ("client", ""),
            ("actors", ()),
            ("act", "another"),
            ("target", "another"),
            ("outcome", "failed"),
            ("reason", "because"),
            ("number", 99),
            ("tenant", "other"),
            ("previous", "0" * 64),
            ("mac", "0" * 64),
        )
    },
    "the first removed": lambda stream: stream[1:],
    "one removed": lambda stream: stream[:2] + stream[3:],
    "the last removed": lambda stream: stream[:-1],
    "all but one removed": lambda stream: stream[:1],
    "all removed": lambda _: [],
    "two swapped": lambda stream: [stream[1], stream[0], *stream[2:]],
    "one twice": lambda stream: [*stream[:3], *stream[2:]],
    "the last twice": lambda stream: [*stream, stream[-1]],
    "backwards": lambda stream: stream[::-1],
    "one unreadable": lambda stream: [*stream[:2], Stored(stream[2].sequence, b"{}"), *stream[3:]],
    "forged with another key": of_others,
}


@pytest.mark.parametrize("how", TAMPERED)
async def test_tampering_is_noticed(room: Room, how: str) -> None:
    """By the process that wrote and by one that comes later; before it, the chain is whole."""
    await room.filled()
    whole = await room.trail.verify("acme")
    assert (whole.entries, whole.problems) == (6, ())
    room.stream()[:] = TAMPERED[how](list(room.stream()))
    for trail in (room.trail, room.another()):
        assert (await trail.verify("acme")).problems


async def test_an_entry_of_one_chain_does_not_fit_into_another(room: Room) -> None:
    """Each carries the tenant it is of."""
    await room.filled(3, "acme")
    await room.filled(3, "other")
    room.stream("other")[:] = list(room.stream("acme"))
    assert (await room.trail.verify("other")).problems
    assert not (await room.trail.verify("acme")).problems


async def test_what_cannot_be_noticed_from_within_can_be_from_outside(room: Room) -> None:
    """The whole store put back to yesterday is whole; who kept the last code elsewhere sees that it is gone."""
    await room.filled(3)
    stream, cells = list(room.stream()), dict(room.store._cells)
    await room.filled(3)
    kept = (await room.trail.verify("acme")).last
    room.stream()[:], room.store._cells = stream, cells
    after = await room.another().verify("acme")
    assert after.problems == ()
    assert after.last != kept
    assert not any(kept.encode() in stored.payload for stored in room.stream())


async def test_many_writers_make_one_chain(room: Room) -> None:
    """Four processes, a hundred entries at once: none lost, none double, numbered without a gap."""
    trails = [room.trail, *(room.another() for _ in range(3))]
    async with anyio.create_task_group() as writing:
        for number in range(100):
            writing.start_soon(trails[number % 4].note, "acme", Deed(WHO, f"act_{number}"), "done")
    entries, _ = await room.trail.entries("acme", Wanted(), 200)
    assert sorted(each.act for each in entries) == sorted(f"act_{number}" for number in range(100))
    assert [each.number for each in entries] == list(range(100, 0, -1))
    found = await room.trail.verify("acme")
    assert (found.entries, found.problems) == (100, ())


async def test_a_writer_that_died_before_noting_the_end_is_made_up_for(room: Room) -> None:
    """The chain is one entry ahead of its record; the next writer goes on from the chain."""
    await room.filled(2)
    heads = platform(room.store, room.clock).records("cb_tenants", "trail", kind=Head)
    before = await heads.get("acme")
    assert before is not None
    await room.filled(1)
    after = await heads.get("acme")
    assert after is not None
    await heads.update("acme", value=before.value, revision=after.revision)
    late = room.another()
    assert not (await late.verify("acme")).problems
    await late.note("acme", Deed(WHO, "next"), "done")
    found = await late.verify("acme")
    assert (found.entries, found.problems) == (4, ())


async def test_nothing_is_done_behind_a_chain_that_was_cut_off(room: Room) -> None:
    """A process that comes later refuses to write, and so to administer."""
    await room.filled()
    room.stream()[:] = room.stream()[:3]
    done = False
    with pytest.raises(Fault) as damaged:
        async with audited(room.another(), "acme", Deed(WHO, "act")):
            done = True
    assert damaged.value.code == "AUDIT_DAMAGED"
    assert not done


async def test_a_deed_is_written_before_and_its_failure_behind(room: Room) -> None:
    """What was carried out has one entry, what was refused a second one with the code."""
    async with audited(room.trail, "acme", Deed(WHO, "good")):
        assert [each.act for each in (await room.trail.entries("acme", Wanted(), 9))[0]] == ["good"]
    with pytest.raises(Conflict):
        async with audited(room.trail, "acme", Deed(WHO, "bad", "thing")):
            raise Conflict("TAKEN", "It is taken.", "Use another.")
    entries, _ = await room.trail.entries("acme", Wanted(), 9)
    told = [(each.act, each.outcome, each.reason) for each in reversed(entries)]
    assert told == [("good", "begun", ""), ("bad", "begun", ""), ("bad", "failed", "TAKEN")]
    assert {(each.subject, each.client, each.actors) for each in entries} == {("us_ada", "cl_app", ("ag_one",))}


async def test_entries_are_found_by_act_person_and_time_page_by_page(room: Room) -> None:
    """Newest first; pages meet without gap or overlap."""
    await room.filled(4)
    room.clock.advance(60)
    middle = room.clock.now()
    await room.trail.note("acme", Deed(Principal(tenant="acme", subject="us_bob", scopes=frozenset()), "act_x"), "done")
    await room.filled(3)

    async def numbers(wanted: Wanted) -> list[int]:
        found, before = list[int](), 0
        while True:
            page, before = await room.trail.entries("acme", replace(wanted, before=before or wanted.before), 2)
            found += [each.number for each in page]
            if not before:
                return found

    assert await numbers(Wanted()) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert await numbers(Wanted(before=4)) == [3, 2, 1]
    assert await numbers(Wanted(act="act_1")) == [7, 2]
    assert await numbers(Wanted(subject="us_bob")) == [5]
    assert await numbers(Wanted(since=middle)) == [8, 7, 6, 5]
    assert await numbers(Wanted(act="nothing")) == []


async def test_a_tenants_chain_can_be_erased_and_begun_again(room: Room) -> None:
    """Nothing of the old one is left, and nobody takes its absence for tampering."""
    await room.filled()
    await room.trail.erase("acme")
    assert room.stream() == []
    assert (await room.trail.verify("acme")).problems == ()
    await room.filled(2)
    found = await room.another().verify("acme")
    assert (found.entries, found.problems) == (2, ())
