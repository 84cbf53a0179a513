"""Objects: what was put is read back whole, by many at once and while it is replaced."""

import uuid

import anyio
import pytest

from mcp_agents.adapters.nats_link import NatsLink
from mcp_agents.adapters.nats_objects import NatsObjects

pytestmark = pytest.mark.anyio

CROWD = 3_000


@pytest.fixture
def objects(link: NatsLink) -> NatsObjects:
    """The objects of the test server."""
    return NatsObjects(link)


@pytest.fixture
def name() -> str:
    """An object of the test's own."""
    return f"test.{uuid.uuid4().hex}"


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 3_000_000])
async def test_what_was_put_is_read_back(objects: NatsObjects, name: str, size: int) -> None:
    """Whatever its size, in one chunk or in many."""
    data = bytes(number % 251 for number in range(size))
    await objects.put(name, data)
    assert await objects.get(name) == data


async def test_what_is_not_there_or_was_deleted_is_none(objects: NatsObjects, name: str) -> None:
    """Never put, deleted, and deleted twice."""
    assert await objects.get(name) is None
    await objects.put(name, b"here")
    await objects.delete(name)
    await objects.delete(name)
    assert await objects.get(name) is None


async def test_a_crowd_reads_at_once(objects: NatsObjects, name: str) -> None:
    """More than the consumers that one stream may have."""
    await objects.put(name, b"x" * 300_000)
    read: list[bytes | None] = []

    async def one() -> None:
        read.append(await objects.get(name))

    async with anyio.create_task_group() as tasks:
        for _ in range(CROWD):
            tasks.start_soon(one)
    assert read == [b"x" * 300_000] * CROWD


async def test_readers_see_one_version_or_the_other_while_it_is_replaced(objects: NatsObjects, name: str) -> None:
    """Chunks of two versions are never mixed, and a version whose chunks are gone is not half an answer."""
    versions = [bytes([number]) * 400_000 for number in range(1, 9)]
    await objects.put(name, versions[0])
    seen: list[bytes | None] = []
    async with anyio.create_task_group() as tasks:

        async def reading() -> None:
            while len(seen) < 200:
                seen.append(await objects.get(name))

        for _ in range(4):
            tasks.start_soon(reading)
        for version in versions[1:]:
            await objects.put(name, version)
    assert set(seen) <= set(versions)
    assert await objects.get(name) == versions[-1]


async def test_what_begins_alike_is_erased_with_every_part_of_it(objects: NatsObjects, link: NatsLink) -> None:
    """Large ones in several parts, deleted ones too; what only begins similarly stays."""
    mine, theirs = f"log.{uuid.uuid4().hex}", f"log.{uuid.uuid4().hex}"
    for prefix in (mine, f"{mine}-2", theirs):
        await objects.put(f"{prefix}.small", b"s")
        await objects.put(f"{prefix}.large", prefix.encode() * 20_000)
    await objects.put(f"{mine}.deleted", b"d")
    await objects.delete(f"{mine}.deleted")
    assert await objects.erase(f"{mine}.") == 3
    assert [await objects.get(f"{mine}.{name}") for name in ("small", "large", "deleted")] == [None] * 3
    for prefix in (f"{mine}-2", theirs):
        assert await objects.get(f"{prefix}.large") == prefix.encode() * 20_000
    stored = [message.data async for _, message in link.each("OBJ_cb_objects", "$O.cb_objects.>", 0)]
    assert not any(mine.encode() + b"." in data or mine.encode() * 2 in data for data in stored)
    assert await objects.erase(f"{mine}.") == 0
