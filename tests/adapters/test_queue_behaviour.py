"""The work queue on a real server: lanes, turns, bounds, and nothing lost whatever happens to whom."""

import asyncio
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil
import pytest

from mcp_agents.adapters import nats_jobs, nats_topology
from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded
from mcp_agents.adapters.nats_jobs import RESERVE, NatsJobs, lane_name
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, connect
from mcp_agents.adapters.nats_queue import NatsQueue, retry_after_ms
from mcp_agents.adapters.nats_topology import JOBS, QueueLimits
from mcp_agents.kernel.errors import Exhausted
from mcp_agents.kernel.job import Delivery, Job, Jobs, Lane, Priority, Weights, even
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import job_subject, lane_of

pytestmark = pytest.mark.anyio


@dataclass
class House:
    """One server, and connections to it."""

    folder: Path
    endpoint: Endpoint
    link: NatsLink
    queue: NatsQueue

    async def put(
        self,
        tenant: str,
        *names: str,
        agent: str = "ag_1",
        priority: Priority = "normal",
        queue: NatsQueue | None = None,
    ) -> None:
        """Publishes a job for each name, in order."""
        for name in names:
            job = Job(tenant, agent, name, priority)
            await (queue or self.queue).publish(job_subject(job.lane), job, dedup=uuid.uuid4().hex)

    @asynccontextmanager
    async def worker(self, weights: Weights = even) -> AsyncIterator[Jobs]:
        """A worker with a connection of its own."""
        async with connect(self.endpoint, "worker") as link, NatsQueue(link).jobs(weights) as jobs:
            yield jobs

    async def messages(self) -> int:
        """How many jobs the stream holds."""
        return sum((await self.queue.counts("cb.agent.execute.>")).values())

    async def restart(self) -> None:
        """Kills the server without warning; its owner starts it again."""
        config = str(self.folder / "server.conf")
        [server] = [each for each in psutil.process_iter(["cmdline"]) if config in (each.info["cmdline"] or [])]
        server.send_signal(signal.SIGKILL)


@asynccontextmanager
async def housed(folder: Path, limits: QueueLimits | None = None) -> AsyncIterator[House]:
    """A house on a folder."""
    options = EmbeddedOptions(
        folder=folder, key=b"k" * 32, key_id="test", sync="interval", limits=limits or QueueLimits()
    )
    async with embedded(options) as endpoint, connect(endpoint, "front end") as link:
        yield House(folder, endpoint, link, NatsQueue(link))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A server of the test's own: what it holds is all there is."""
    async with housed(tmp_path / "nats") as opened:
        yield opened


async def taken(jobs: Jobs, number: int, room: int = 256, *, end: bool = True) -> list[Delivery]:
    """The next `number` deliveries, at most `room` at a time, each ended at once unless told otherwise."""
    found: list[Delivery] = []
    with anyio.fail_after(30):
        while len(found) < number:
            for delivery in await jobs.take(min(room, number - len(found)), 5):
                found.append(delivery)
                if end:
                    await delivery.done()
    return found


async def until_empty(house: House) -> None:
    """Returns when the stream holds no job."""
    with anyio.fail_after(20):
        while await house.messages():
            await anyio.lowlevel.checkpoint()


def names(deliveries: Sequence[Delivery]) -> list[str]:
    """The executions, in order."""
    return [delivery.job.execution_id for delivery in deliveries]


async def test_a_lane_is_strictly_in_order_and_its_payload_is_the_execution_id(house: House) -> None:
    """What was published first is taken first; the message holds nothing else."""
    wanted = [f"ex_{number}" for number in range(300)]
    await house.put("acme", *wanted)
    first = await house.link.api(f"STREAM.MSG.GET.{JOBS}", {"seq": 1})
    assert first["message"]["data"] == "eyJ2IjoxLCJleGVjdXRpb25faWQiOiJleF8wIn0="  # {"v":1,"execution_id":"ex_0"}
    async with house.worker() as jobs:
        found = await taken(jobs, 300, room=7)
    assert names(found) == wanted
    assert {delivery.attempt for delivery in found} == {1}
    await until_empty(house)


async def test_the_same_occasion_is_queued_once(house: House) -> None:
    """De-duplication is by the caller's word for it, also across lanes that are full."""
    job = Job("acme", "ag_1", "ex_1")
    for _ in range(3):
        await house.queue.publish(job_subject(job.lane), job, dedup="ex_1.accepted")
    assert await house.messages() == 1


async def test_priorities_of_an_agent_go_in_order(house: House) -> None:
    """One slot, all waiting: high, then normal, then low."""
    for priority in ("low", "normal", "high"):
        await house.put("acme", *(f"{priority}-{number}" for number in range(3)), priority=priority)
    async with house.worker() as jobs:
        found = await taken(jobs, 9, room=1)
    assert [delivery.job.priority for delivery in found] == ["high"] * 3 + ["normal"] * 3 + ["low"] * 3


async def test_a_noisy_tenant_keeps_no_quiet_one_waiting(house: House) -> None:
    """2,000 jobs of one tenant were there before; the five of another are taken in the first turns."""
    async with together() as tasks:
        for part in range(20):
            tasks.start_soon(house.put, "noisy", *(f"n{part}-{number}" for number in range(100)))
    await house.put("quiet", *(f"q{number}" for number in range(5)))
    async with house.worker() as jobs:
        found = await taken(jobs, 12, room=1)
        assert sum(delivery.job.tenant == "quiet" for delivery in found) == 5


async def test_a_full_worker_takes_the_quiet_job_that_came_meanwhile_first(house: House) -> None:
    """All slots are taken by a backlog; the first that frees goes to who runs less than its share."""
    await house.put("noisy", *(f"n{number}" for number in range(200)))
    async with house.worker() as jobs:
        running = await taken(jobs, 8, room=8, end=False)
        assert {delivery.job.tenant for delivery in running} == {"noisy"}
        await listening(house, jobs)
        await house.put("quiet", "q0")
        await heard(jobs, Lane("quiet", "ag_1", "normal"))
        await running.pop().done()
        assert names(await taken(jobs, 1, room=1)) == ["q0"]


async def listening(house: House, jobs: Jobs) -> None:
    """Returns when the worker hears all news."""
    assert isinstance(jobs, NatsJobs)
    with anyio.fail_after(10):
        while not (jobs._news and jobs._look_at > asyncio.get_running_loop().time()):
            await anyio.lowlevel.checkpoint()


async def heard(jobs: Jobs, lane: Lane) -> None:
    """Returns when the worker knows that something waits in the lane."""
    assert isinstance(jobs, NatsJobs)
    with anyio.fail_after(10):
        while not ((known := jobs._lanes.get(lane)) and known.made and known.waiting):
            await anyio.lowlevel.checkpoint()


async def test_turns_go_by_weight(house: House) -> None:
    """A tenant of weight 3 starts three jobs for one of a tenant of weight 1."""
    for tenant in ("heavy", "light"):
        await house.put(tenant, *(f"{tenant}{number}" for number in range(60)))
    async with house.worker(lambda tenant, _: 3 if tenant == "heavy" else 1) as jobs:
        found = Counter(delivery.job.tenant for delivery in await taken(jobs, 40, room=1))
    assert abs(found["heavy"] - 30) <= 1


async def test_several_workers_share_the_work_and_none_is_done_twice(house: House) -> None:
    """Three workers, four lanes, published while they work: every job once, each at its first delivery."""
    found: list[Delivery] = []
    total = 600

    async def work() -> None:
        async with house.worker() as jobs:
            while len(found) < total:
                for delivery in await jobs.take(3, 0.2):
                    found.append(delivery)
                    await delivery.done()

    with anyio.fail_after(40):
        async with together() as tasks:
            for _ in range(3):
                tasks.start_soon(work)
            for lane in range(4):
                tasks.start_soon(house.put, f"t{lane % 2}", *(f"{lane}-{n}" for n in range(total // 4)))
    assert sorted(names(found)) == sorted(f"{lane}-{n}" for lane in range(4) for n in range(total // 4))
    await until_empty(house)


async def test_a_full_lane_refuses_says_when_and_loses_nothing(tmp_path: Path) -> None:
    """The bound per lane leaves other lanes free; the bound over all does not. What was accepted is there."""
    async with housed(tmp_path / "nats", QueueLimits(per_lane=20, total=30)) as house:
        await house.put("noisy", *(f"n{number}" for number in range(20)))
        for _ in range(2):
            with pytest.raises(Exhausted) as refusal:
                await house.put("noisy", "too many")
            assert refusal.value.code == "QUEUE_FULL"
            assert refusal.value.retry_after_ms == 60_000  # nobody has ever worked here
        await house.put("noisy", *(f"h{number}" for number in range(5)), priority="high")
        await house.put("quiet", *(f"q{number}" for number in range(5)))
        with pytest.raises(Exhausted):
            await house.put("late", "no room at all")
        async with house.worker() as jobs:
            found = await taken(jobs, 30)
            await until_empty(house)
            await house.put("noisy", "again")
            found += await taken(jobs, 1)
        wanted = {*(f"n{n}" for n in range(20)), *(f"h{n}" for n in range(5)), *(f"q{n}" for n in range(5)), "again"}
        assert sorted(names(found)) == sorted(wanted)


def test_the_time_to_wait_follows_the_rate_within_bounds() -> None:
    """Depth over rate, never below a quarter of a second nor above a minute."""
    assert retry_after_ms(100, 50, 2.0) == 4000
    assert retry_after_ms(1, 1000, 1.0) == 250
    assert retry_after_ms(10_000, 1, 1.0) == 60_000
    assert retry_after_ms(10, 0, 1.0) == 60_000


async def test_a_job_given_back_comes_at_once_to_another_worker(house: House) -> None:
    """Its second delivery counts as one, and it is the same job."""
    async with house.worker() as first, house.worker() as second:
        await house.put("acme", "ex_1")
        [delivery] = await taken(first, 1, end=False)
        with anyio.fail_after(4):  # well within the lease
            await delivery.release()
            [again] = await taken(second, 1)
    assert (again.job, again.number, again.attempt) == (delivery.job, delivery.number, 2)


async def test_a_job_given_back_for_later_comes_later(house: House) -> None:
    """Neither before its time nor after a lease; the lane's other jobs go on meanwhile."""
    async with house.worker() as jobs:
        await house.put("acme", "later", "now")
        first, second = await taken(jobs, 2, end=False)
        began = anyio.current_time()
        await first.release(1.0)
        await second.done()
        await house.put("acme", "next")
        assert names(await taken(jobs, 1)) == ["next"]
        [again] = await taken(jobs, 1)
        waited = anyio.current_time() - began
    assert (names([again]), again.attempt) == (["later"], 2)
    assert 0.9 <= waited <= 4.5


async def test_a_dead_workers_jobs_come_back_after_their_lease(house: House) -> None:
    """A worker that vanishes with a job says nothing; another one has it after the lease."""
    async with connect(house.endpoint, "doomed") as link, NatsQueue(link).jobs(even) as doomed:
        await house.put("acme", "ex_1")
        await taken(doomed, 1, end=False)
    async with house.worker() as jobs:
        began = anyio.current_time()
        [again] = await taken(jobs, 1)
        assert anyio.current_time() - began <= nats_topology.LEASE_SECONDS + 1.5
    assert (again.job.execution_id, again.attempt) == ("ex_1", 2)


async def test_a_closing_worker_gives_back_what_nobody_took(house: House) -> None:
    """Jobs in its hands that it has not handed out are another worker's at once."""
    await house.put("acme", *(f"ex_{number}" for number in range(20)))
    async with house.worker() as closing:
        assert isinstance(closing, NatsJobs)
        await taken(closing, 1)
        with anyio.move_on_after(5):
            closing._room = 10
            while len(closing._arrived) < 10:
                await closing._request()
                await anyio.lowlevel.checkpoint()
    with anyio.fail_after(4):
        async with house.worker() as jobs:
            assert sorted(names(await taken(jobs, 19))) == sorted(f"ex_{number}" for number in range(1, 20))


async def test_no_more_is_leased_than_there_is_room_and_reserve(house: House) -> None:
    """Fifty lanes get jobs at once and the worker has two slots: the surplus is given back at once and not lost."""
    async with house.worker() as jobs:
        assert isinstance(jobs, NatsJobs)
        for lane in range(50):
            await house.put("acme", f"warm-{lane}", agent=f"ag_{lane}")
        await taken(jobs, 50)
        await until_empty(house)
        held: list[Delivery] = []
        async with together() as tasks:
            tasks.start_soon(taking := Taking(jobs, 2, end=False))
            with anyio.fail_after(10):
                while jobs._standing < RESERVE:
                    await anyio.lowlevel.checkpoint()
            for lane in range(50):
                await house.put("acme", f"ex_{lane}", agent=f"ag_{lane}")
        held = taking.found
        depths = await house.queue.depths()
        assert 2 <= sum(depth.running for depth in depths) <= 2 + RESERVE
        assert sum(depth.waiting + depth.running for depth in depths) == 50
        began = anyio.current_time()
        async with house.worker() as idle:
            rest = await taken(idle, 48)
        assert anyio.current_time() - began < 4  # given back, not left to their leases
        assert sorted(names([*held, *rest])) == sorted(f"ex_{lane}" for lane in range(50))
        for delivery in held:
            await delivery.done()
    await until_empty(house)


async def test_a_removed_lane_is_made_again_and_loses_nothing(house: House) -> None:
    """The consumer is deleted under a standing request, and once more while jobs wait in it."""
    lane = Lane("acme", "ag_1", "normal")
    async with house.worker() as jobs:
        await house.put("acme", "ex_1")
        await taken(jobs, 1)
        await until_empty(house)  # an acknowledgement that a consumer never got is for the next one to ask for
        async with together() as tasks:
            tasks.start_soon(taken_into := Taking(jobs, 1))
            await standing(jobs, lane)
            await nats_topology.remove_lane(house.link, lane_name(lane))
            await house.put("acme", "ex_2")
        assert names(taken_into.found) == ["ex_2"]
        await until_empty(house)
        await nats_topology.remove_lane(house.link, lane_name(lane))
        await house.put("acme", "ex_3", "ex_4")
        assert names(await taken(jobs, 2)) == ["ex_3", "ex_4"]


class Taking:
    """Takes in the background."""

    def __init__(self, jobs: Jobs, number: int, *, end: bool = True) -> None:
        self._jobs, self._number, self._end = jobs, number, end
        self.found: list[Delivery] = []

    async def __call__(self) -> None:
        self.found = await taken(self._jobs, self._number, end=self._end)


async def standing(jobs: Jobs, lane: Lane) -> None:
    """Returns when the worker stands in line on the lane."""
    assert isinstance(jobs, NatsJobs)
    with anyio.fail_after(10):
        while not ((known := jobs._lanes.get(lane)) and known.standing):
            await anyio.lowlevel.checkpoint()


async def test_jobs_published_without_any_worker_are_found_by_the_first(house: House) -> None:
    """No consumer is needed to publish; the first worker looks and makes every lane."""
    for lane in range(40):
        await house.put(f"t{lane}", f"ex_{lane}")
    assert (await house.link.api(f"CONSUMER.LIST.{JOBS}"))["total"] == 0
    async with house.worker() as jobs:
        assert sorted(names(await taken(jobs, 40, room=5))) == sorted(f"ex_{lane}" for lane in range(40))
    assert (await house.link.api(f"CONSUMER.LIST.{JOBS}"))["total"] == 40


async def test_more_lanes_than_may_have_a_consumer_are_served_in_turn(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle lanes make way, a tenant's own and others'; never are there more than the bound."""
    monkeypatch.setattr(nats_jobs, "MAX_LANES", 8)
    for tenant in range(5):
        for agent in range(5):
            await house.put(f"t{tenant}", f"ex_{tenant}_{agent}", agent=f"ag_{agent}")
    async with house.worker() as jobs:
        found = await taken(jobs, 25, room=4)
        assert (await house.link.api(f"CONSUMER.LIST.{JOBS}"))["total"] <= 8
    assert sorted(names(found)) == sorted(f"ex_{tenant}_{agent}" for tenant in range(5) for agent in range(5))


async def test_a_killed_server_comes_back_with_every_job(house: House) -> None:
    """Requests it forgot are made again, for lanes that stand and for those that wait."""
    async with house.worker() as jobs:
        await house.put("acme", "before")
        await taken(jobs, 1)
        await until_empty(house)
        async with together() as tasks:
            tasks.start_soon(taking := Taking(jobs, 41))
            await standing(jobs, Lane("acme", "ag_1", "normal"))
            await house.restart()
            await house.put("acme", *(f"ex_{number}" for number in range(40)))
            await house.put("new", "ex_40")
        assert sorted(names(taking.found)) == sorted(f"ex_{number}" for number in range(41))


async def test_a_purge_leaves_a_working_queue(house: House) -> None:
    """Beliefs about jobs that are gone are corrected."""
    await house.put("acme", *(f"ex_{number}" for number in range(50)))
    async with house.worker() as jobs:
        await taken(jobs, 1)
        await house.link.api(f"STREAM.PURGE.{JOBS}")
        for _ in range(3):
            for delivery in await jobs.take(1, 0.05):
                await delivery.done()
        await house.put("acme", "after")
        assert names(await taken(jobs, 1)) == ["after"]


async def test_an_idle_worker_picks_up_at_once_also_from_a_lane_that_is_new(house: House) -> None:
    """Neither the lease nor the next look is waited for: forty new lanes and forty known ones in a few seconds."""
    async with house.worker() as jobs, house.worker() as other:
        waits = Counter[str]()
        for kind in ("new", "known"):
            for lane in range(40):
                with anyio.fail_after(0.9):  # the next look would be a second away
                    async with together() as tasks:
                        tasks.start_soon(house.put, f"t{lane}", f"{kind}-{lane}")
                        async with first_of(jobs, other) as found:
                            pass
                waits[kind] += len(found)
        assert waits == {"new": 40, "known": 40}


@asynccontextmanager
async def first_of(*workers: Jobs) -> AsyncIterator[list[str]]:
    """What the first of the workers takes."""
    found: list[str] = []
    async with together() as tasks:

        async def take(jobs: Jobs) -> None:
            found.extend(names(await taken(jobs, 1)))
            tasks.cancel_scope.cancel()

        for jobs in workers:
            tasks.start_soon(take, jobs)
    yield found


async def test_a_message_that_is_no_job_is_dropped_and_holds_up_nothing(house: House) -> None:
    """Garbage on a job subject does not come back again and again."""
    await house.link.request("cb.agent.execute.acme.ag_1", b"garbage")
    await house.put("acme", "ex_1")
    async with house.worker() as jobs:
        assert names(await taken(jobs, 1)) == ["ex_1"]
        await until_empty(house)


async def test_depths_say_what_waits_and_what_runs(house: House) -> None:
    """By lane, for everybody; by tenant, for admission."""
    await house.put("acme", "a", "b", "c")
    await house.put("acme", "d", priority="low")
    await house.put("other", "e")
    assert sorted(await house.queue.depths()) == [
        ("acme", "ag_1", "low", 1, 0),
        ("acme", "ag_1", "normal", 3, 0),
        ("other", "ag_1", "normal", 1, 0),
    ]
    async with house.worker() as jobs:
        held = await taken(jobs, 2, room=2, end=False)
        running = Counter(delivery.job.lane for delivery in held)
        depths = {Lane(*depth[:3]): (depth.waiting, depth.running) for depth in await house.queue.depths()}
        assert {lane: count for lane, (_, count) in depths.items() if count} == running
        assert sum(waiting for waiting, _ in depths.values()) == 3
        assert sum((await house.queue.counts("cb.agent.execute.acme.>")).values()) == 4


async def test_bounds_are_adjusted_at_a_start_and_never_cost_a_job(tmp_path: Path) -> None:
    """A queue of an older version with one consumer for all; a bound below what is there waits for its time."""
    old = {**nats_topology.jobs_stream(1, QueueLimits()), "subjects": ["cb.agent.execute.*.*"]}
    for key in ("republish", "discard", "discard_new_per_subject", "max_msgs_per_subject", "max_msgs", "max_consumers"):
        del old[key]
    async with housed(tmp_path / "nats") as house:
        await house.link.api(f"STREAM.DELETE.{JOBS}")
        await house.link.api(f"STREAM.CREATE.{JOBS}", old)
        shared = {"durable_name": "workers", "name": "workers", "ack_policy": "explicit"}
        await house.link.api(f"CONSUMER.CREATE.{JOBS}.workers", {"stream_name": JOBS, "config": shared})
        await house.put("acme", *(f"ex_{number}" for number in range(30)))
    async with housed(tmp_path / "nats", QueueLimits(per_lane=10, total=20)) as house:
        assert await house.messages() == 30
        config = (await house.link.api(f"STREAM.INFO.{JOBS}"))["config"]
        assert (config["max_msgs"], config["max_msgs_per_subject"], config["discard"]) == (20, -1, "new")
        async with house.worker() as jobs:
            assert len(await taken(jobs, 30)) == 30
        await until_empty(house)
    async with housed(tmp_path / "nats", QueueLimits(per_lane=10, total=20)) as house:
        config = (await house.link.api(f"STREAM.INFO.{JOBS}"))["config"]
        assert (config["max_msgs_per_subject"], config["discard_new_per_subject"]) == (10, True)


def test_a_subject_and_its_lane_are_one_to_one() -> None:
    """The normal lane is the public contract; an agent may be called like a priority."""
    assert job_subject(Lane("acme", "ag_1", "normal")) == "cb.agent.execute.acme.ag_1"
    for lane in (Lane("acme", "high", "normal"), Lane("acme", "high", "low"), Lane("a-b", "ag_1", "high")):
        assert lane_of(job_subject(lane)) == lane
    assert lane_of("cb.agent.execute.acme") is None
    assert lane_of("cb.agent.execute.acme.ag_1.normal") is None
    assert len({lane_name(Lane("a", "b_high", "low")), lane_name(Lane("a", "b", "high"))}) == 2


async def test_a_tenants_jobs_are_purged_and_nobody_elses(house: House) -> None:
    """Of every agent and priority, waiting and leased; a worker that still holds one can let go of it."""
    for tenant in ("acme", "acme-2"):
        await house.put(tenant, "one", "two")
        await house.put(tenant, "three", agent="ag_2", priority="high")
    async with house.worker() as jobs:
        (held,) = await jobs.take(1, 5)
        assert await house.queue.purge("cb.agent.execute.acme.>") == 3
        assert await house.messages() == 3
        await held.done()
        rest = [each async for each in _all(jobs)]
    assert Counter(each.job.tenant for each in [held, *rest])["acme-2"] == 3
    assert {each.job.tenant for each in rest} == {"acme-2"}


async def _all(jobs: Jobs) -> AsyncIterator[Delivery]:
    while taken := await jobs.take(10, 1):
        for each in taken:
            await each.done()
            yield each
