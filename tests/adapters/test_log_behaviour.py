"""One behaviour, two logs: fenced appends, reads, and following without a gap or a repeat."""

import uuid
from functools import partial

import anyio
import pytest

from mcp_agents.adapters.memory_log import MemoryLog
from mcp_agents.adapters.nats_link import NatsLink
from mcp_agents.adapters.nats_log import NatsLog
from mcp_agents.kernel.errors import Fenced
from mcp_agents.kernel.log import Log
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import log_subject

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "nats"])
def log(request: pytest.FixtureRequest, link: NatsLink) -> Log:
    """Each log in turn."""
    return MemoryLog() if request.param == "memory" else NatsLog(link)


@pytest.fixture
def subject() -> str:
    """The log of one execution of the test's own."""
    return log_subject("t", f"ex_{uuid.uuid4().hex[:26]}")


async def test_appends_are_read_back_in_order(log: Log, subject: str) -> None:
    """What was appended is read, each under its sequence."""
    first = await log.append(subject, b"one", expected=0)
    second = await log.append(subject, b"two", expected=first)
    assert await log.read(subject) == [(first, b"one"), (second, b"two")]
    assert await log.read(subject, after=first) == [(second, b"two")]


async def test_a_stale_append_is_fenced_and_stores_nothing(log: Log, subject: str) -> None:
    """Two writers behind the same sequence: one wins, the other is told."""
    first = await log.append(subject, b"one", expected=0)
    await log.append(subject, b"winner", expected=first)
    with pytest.raises(Fenced):
        await log.append(subject, b"zombie", expected=first)
    with pytest.raises(Fenced):
        await log.append(subject, b"zombie", expected=0)
    assert [stored.payload for stored in await log.read(subject)] == [b"one", b"winner"]


async def test_of_many_concurrent_appends_exactly_one_wins(log: Log, subject: str) -> None:
    """The fence holds under real interleaving."""
    outcomes: list[str] = []

    async def attempt(number: int) -> None:
        try:
            await log.append(subject, f"writer {number}".encode(), expected=0)
        except Fenced:
            outcomes.append("fenced")
        else:
            outcomes.append("won")

    async with together() as tasks:
        for number in range(20):
            tasks.start_soon(attempt, number)
    assert sorted(outcomes) == ["fenced"] * 19 + ["won"]
    assert len(await log.read(subject)) == 1


async def test_an_empty_log_reads_as_nothing(log: Log, subject: str) -> None:
    """There is no error for a run that never was."""
    assert await log.read(subject) == []


async def test_a_follower_sees_what_was_there_and_what_comes(log: Log, subject: str) -> None:
    """Replay and live are one stream without a gap or a repeat."""
    last = await log.append(subject, b"0", expected=0)
    last = await log.append(subject, b"1", expected=last)
    seen: list[bytes] = []
    with anyio.fail_after(10):
        async with log.follow(subject) as stored:
            async for message in stored:
                seen.append(message.payload)
                if len(seen) == 50:
                    break
                if len(seen) >= 2:
                    last = await log.append(subject, str(len(seen)).encode(), expected=last)
    assert seen == [str(number).encode() for number in range(50)]


async def test_many_followers_of_one_log_all_see_everything(log: Log, subject: str) -> None:
    """Appends made while followers join are missed by none."""
    seen: dict[int, list[bytes]] = {number: [] for number in range(20)}

    async def follow(number: int) -> None:
        async with log.follow(subject) as stored:
            async for message in stored:
                seen[number].append(message.payload)
                if message.payload == b"end":
                    return

    with anyio.fail_after(20):
        async with together() as tasks:
            last = 0
            for number in range(20):
                tasks.start_soon(follow, number)
                last = await log.append(subject, str(number).encode(), expected=last)
            await log.append(subject, b"end", expected=last)
    wanted = [*(str(number).encode() for number in range(20)), b"end"]
    assert all(messages == wanted for messages in seen.values())


async def test_the_subjects_of_a_tenant_are_listed_and_nobody_elses(log: Log) -> None:
    """Listing is by pattern, over all shards."""
    tenant, other = f"t{uuid.uuid4().hex[:8]}", f"t{uuid.uuid4().hex[:8]}"
    own = [log_subject(tenant, f"ex_{number:026}") for number in range(12)]
    for subject in [*own, log_subject(other, "ex_" + "0" * 26)]:
        await log.append(subject, b"x", expected=0)
    assert await log.subjects(f"cb.agent.events.*.{tenant}.*") == dict.fromkeys(own, 1)


async def test_a_follower_of_nats_hears_only_what_was_stored(link: NatsLink, subject: str) -> None:
    """A refused append reaches the subject's plain subscribers, but never a follower."""
    log = NatsLog(link)
    first = await log.append(subject, b"one", expected=0)
    seen: list[bytes] = []
    with anyio.fail_after(10):
        async with log.follow(subject) as stored:
            async for message in stored:
                seen.append(message.payload)
                if message.payload == b"one":
                    with pytest.raises(Fenced):
                        await log.append(subject, b"zombie", expected=0)
                    await log.append(subject, b"two", expected=first)
                if message.payload == b"two":
                    break
    assert seen == [b"one", b"two"]


async def test_a_lost_acknowledgement_is_settled_by_reading(link: NatsLink, subject: str) -> None:
    """An append whose answer was lost is sent again, refused, recognised as our own and counted once."""
    log = NatsLog(link)
    original = link.request
    lost = 0

    async def losing(target: str, payload: bytes, headers: dict[str, str] | None = None) -> object:
        nonlocal lost
        answer = await original(target, payload, headers)
        if target == subject and not lost:
            lost += 1
            return await original(target, payload, headers)  # the first answer never arrived
        return answer

    link.request = losing  # type: ignore[assignment,method-assign]
    sequence = await log.append(subject, b"one", expected=0)
    assert lost == 1
    assert await log.read(subject) == [(sequence, b"one")]


async def test_a_crowd_of_appends_waits_here_and_not_at_the_server(link: NatsLink) -> None:
    """A thousand appends at once all land, and the server never has more than a window of them."""
    log, original = NatsLog(link), link.request
    under_way = most = 0

    async def counted(target: str, payload: bytes, headers: dict[str, str] | None = None) -> object:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await original(target, payload, headers)
        finally:
            under_way -= 1

    link.request = counted  # type: ignore[assignment,method-assign]
    subjects = [log_subject("crowd", f"ex_{uuid.uuid4().hex[:26]}") for _ in range(1000)]
    async with together() as tasks:
        for subject in subjects:
            tasks.start_soon(partial(log.append, subject, b"one", expected=0))
    assert 1 < most <= 64
    assert await log.subjects("cb.agent.events.*.crowd.*") == dict.fromkeys(subjects, 1)
