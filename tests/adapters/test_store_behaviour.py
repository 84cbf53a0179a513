"""One behaviour, two stores: what the memory store promises unit tests, NATS keeps."""

import uuid

import anyio
import anyio.lowlevel
import pytest

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.adapters.nats_cached_store import NatsCachedStore
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, connect
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.store import Store
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "nats", "cached"])
async def store(request: pytest.FixtureRequest, link: NatsLink, clock: TestClock) -> Store:
    """Each store in turn."""
    if request.param == "memory":
        return MemoryStore(clock)
    if request.param == "nats":
        return NatsStore(link)
    cached = NatsCachedStore(link, NatsStore(link))
    await cached.open()
    return cached


@pytest.fixture
def prefix() -> str:
    """Keys of one test's own."""
    return f"t{uuid.uuid4().hex}"


async def test_a_written_record_is_read_back_with_its_revision(store: Store, prefix: str) -> None:
    """What was written is what is read, under the revision the write returned."""
    revision = await store.write("cb_agents", f"{prefix}.a", b"one", revision=0)
    record = await store.get("cb_agents", f"{prefix}.a")
    assert record is not None
    assert (record.value, record.revision) == (b"one", revision)


async def test_creating_over_a_live_record_is_refused_and_changes_nothing(store: Store, prefix: str) -> None:
    """Revision 0 means "must not exist"."""
    await store.write("cb_agents", f"{prefix}.a", b"one", revision=0)
    with pytest.raises(WrongRevision):
        await store.write("cb_agents", f"{prefix}.a", b"two", revision=0)
    record = await store.get("cb_agents", f"{prefix}.a")
    assert record is not None
    assert record.value == b"one"


async def test_a_stale_update_is_refused(store: Store, prefix: str) -> None:
    """Of two writers that read the same revision, the second loses."""
    first = await store.write("cb_agents", f"{prefix}.a", b"one", revision=0)
    await store.write("cb_agents", f"{prefix}.a", b"two", revision=first)
    with pytest.raises(WrongRevision):
        await store.write("cb_agents", f"{prefix}.a", b"three", revision=first)


async def test_a_deleted_record_is_gone_and_can_be_created_again(store: Store, prefix: str) -> None:
    """A marker left by a deletion does not stand in the way."""
    revision = await store.write("cb_agents", f"{prefix}.a", b"one", revision=0)
    await store.delete("cb_agents", f"{prefix}.a", revision=revision)
    assert await store.get("cb_agents", f"{prefix}.a") is None
    again = await store.write("cb_agents", f"{prefix}.a", b"two", revision=0)
    assert again > revision


async def test_a_stale_delete_is_refused(store: Store, prefix: str) -> None:
    """Deleting what moved on would lose somebody's change."""
    first = await store.write("cb_agents", f"{prefix}.a", b"one", revision=0)
    await store.write("cb_agents", f"{prefix}.a", b"two", revision=first)
    with pytest.raises(WrongRevision):
        await store.delete("cb_agents", f"{prefix}.a", revision=first)


async def test_a_scan_returns_exactly_the_matching_live_records_in_key_order(store: Store, prefix: str) -> None:
    """One token is one token; neighbours, deeper keys and deleted records are not returned."""
    for key in ("b", "a", "c.deep"):
        await store.write("cb_agents", f"{prefix}.{key}", key.encode(), revision=0)
    gone = await store.write("cb_agents", f"{prefix}.gone", b"x", revision=0)
    await store.delete("cb_agents", f"{prefix}.gone", revision=gone)
    await store.write("cb_agents", f"{prefix}x.a", b"neighbour", revision=0)
    found = [record.key async for record in store.scan("cb_agents", f"{prefix}.*")]
    assert found == [f"{prefix}.a", f"{prefix}.b"]


async def test_a_scan_goes_on_beyond_one_batch(store: Store, prefix: str) -> None:
    """More records than one batch holds are all returned, once each."""
    wanted = [f"{prefix}.{number:04}" for number in range(300)]
    for key in wanted:
        await store.write("cb_agents", key, b"v", revision=0)
    assert [record.key async for record in store.scan("cb_agents", f"{prefix}.*")] == wanted


async def test_buckets_do_not_see_each_other(store: Store, prefix: str) -> None:
    """The same key in two buckets is two records."""
    await store.write("cb_agents", f"{prefix}.a", b"agents", revision=0)
    assert await store.get("cb_agent_state", f"{prefix}.a") is None


async def test_a_memory_record_with_a_time_to_live_expires_by_the_clock(clock: TestClock, prefix: str) -> None:
    """The injected clock alone decides."""
    store = MemoryStore(clock)
    await store.write("cb_auth", f"{prefix}.a", b"one", revision=0, ttl=5)
    clock.advance(4)
    assert await store.get("cb_auth", f"{prefix}.a") is not None
    clock.advance(1)
    assert await store.get("cb_auth", f"{prefix}.a") is None
    await store.write("cb_auth", f"{prefix}.a", b"two", revision=0)


async def test_a_nats_record_with_a_time_to_live_carries_it_to_the_server(link: NatsLink, prefix: str) -> None:
    """The server is told the seconds, and a record without them is told to stay."""
    store = NatsStore(link)
    await store.write("cb_auth", f"{prefix}.a", b"one", revision=0, ttl=7)
    await store.write("cb_auth", f"{prefix}.b", b"one", revision=0)
    expiring = await link.last("KV_cb_auth", f"$KV.cb_auth.{prefix}.a")
    staying = await link.last("KV_cb_auth", f"$KV.cb_auth.{prefix}.b")
    assert expiring is not None
    assert staying is not None
    assert (expiring[1].headers or {})["Nats-TTL"] == "7"
    assert (staying[1].headers or {})["Nats-TTL"] == "never"


async def test_a_cached_record_is_forgotten_when_another_process_writes_it(
    nats: Endpoint, link: NatsLink, prefix: str
) -> None:
    """What one process changes, another one reads, although both keep what they read."""
    async with connect(nats, "other") as other_link:
        here, there = NatsCachedStore(link, NatsStore(link)), NatsCachedStore(other_link, NatsStore(other_link))
        await here.open()
        await there.open()
        first = await here.write("cb_agents", f"{prefix}.a", b"one", revision=0)
        assert (await there.get("cb_agents", f"{prefix}.a")) is not None
        second = await here.write("cb_agents", f"{prefix}.a", b"two", revision=first)
        with anyio.fail_after(5):
            while (found := await there.get("cb_agents", f"{prefix}.a")) is None or found.revision != second:
                await anyio.lowlevel.checkpoint()
        assert found.value == b"two"
