"""Quotas and slots: exact over processes, free without a limit, given back to whoever wants them."""

import uuid
from random import Random

import anyio
import pytest

from mcp_agents.adapters.nats_link import Endpoint, connect
from mcp_agents.kernel.clock import SystemClock
from mcp_agents.kernel.errors import Conflict, Exhausted, Unavailable
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling.quotas import NO_QUOTA, Allowance, Quotas
from mcp_agents.scaling.slices import LEASE
from mcp_agents.scaling.slots import KEEP_EVERY, Slots, running
from tests.scaling.conftest import Counted
from tests.support.clock import TestClock
from tests.support.spender import space_over

pytestmark = pytest.mark.anyio

AGENT = "ag_1"


async def limit(space: TenantSpace, number: int | None, agent_id: str = "") -> None:
    """Sets how many run at once."""
    await Quotas().set(space, agent_id, Allowance(max_concurrent=number), None)


def processes(clock: TestClock, count: int) -> list[Slots]:
    """That many processes."""
    return [Slots(clock, Quotas()) for _ in range(count)]


async def taken(slots: Slots, space: TenantSpace, tries: int, agent_id: str = AGENT) -> int:
    """How many of so many runs may go on."""
    return sum([await slots.take(space, agent_id) for _ in range(tries)])


async def test_a_quota_is_set_read_and_forgotten(space: TenantSpace, other: TenantSpace) -> None:
    """For the tenant and for one agent; another agent and another tenant have none."""
    quotas = Quotas()
    assert await quotas.of(space, AGENT) == (NO_QUOTA, NO_QUOTA)
    assert ((await quotas.of(space, "")).tenant.weight, (await quotas.all(space)).revision) == (1, 0)
    whole = Allowance(max_concurrent=5, max_queued=100, weight=3)
    part = Allowance(max_concurrent=2)
    first = await quotas.set(space, "", whole, 0)
    second = await quotas.set(space, AGENT, part, first)
    assert await quotas.of(space, AGENT) == (whole, part)
    assert await quotas.of(space, "ag_2") == (whole, NO_QUOTA)
    assert [(await quotas.of(each, "")).tenant.weight for each in (space, other)] == [3, 1]
    with pytest.raises(Conflict):
        await quotas.set(space, AGENT, NO_QUOTA, first)
    await quotas.set(space, AGENT, NO_QUOTA, second)
    assert (await quotas.all(space)).value.agents == {}


async def test_agents_with_a_quota_are_bounded(space: TenantSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is read on every run."""
    monkeypatch.setattr("mcp_agents.scaling.quotas.MAX_AGENTS", 1)
    await limit(space, 1, "ag_1")
    with pytest.raises(Exhausted) as refusal:
        await limit(space, 1, "ag_2")
    assert refusal.value.code == "QUOTAS_FULL"


async def test_without_a_limit_nothing_is_read_or_written(space: TenantSpace, store: Counted, clock: TestClock) -> None:
    """Slots are free then, and leave no trace in memory either."""
    (slots,) = processes(clock, 1)
    await Quotas().set(space, "", Allowance(max_queued=5), None)
    assert await taken(slots, space, 1000) == 1000
    await slots.keep()
    for _ in range(1000):
        await slots.give_back(space, AGENT)
    assert (store.asked, store.written) == (0, 0)
    assert slots._held == {}


@pytest.mark.parametrize("agent_id", ["", AGENT])
async def test_no_more_run_than_the_limit_says(space: TenantSpace, clock: TestClock, agent_id: str) -> None:
    """Over two processes, for the tenant and for one agent; what ended makes room."""
    one, two = processes(clock, 2)
    await limit(space, 5, agent_id)
    assert await taken(one, space, 3) + await taken(two, space, 3) == 5
    assert not await one.take(space, AGENT)
    assert await one.take(space, "ag_2") == bool(agent_id)
    clock.advance(0.2)
    await two.give_back(space, AGENT)
    assert await two.take(space, AGENT)


async def test_a_run_needs_a_slot_of_the_tenant_and_of_the_agent(space: TenantSpace, clock: TestClock) -> None:
    """Refused for its agent it keeps no slot of the tenant."""
    (slots,) = processes(clock, 1)
    await limit(space, 2)
    await limit(space, 1, AGENT)
    assert await taken(slots, space, 3) == 1
    assert await taken(slots, space, 3, "ag_2") == 1


async def test_one_run_after_another_asks_only_once(space: TenantSpace, store: Counted, clock: TestClock) -> None:
    """A slot stays with the process that used it last, as long as nobody else wants it."""
    (slots,) = processes(clock, 1)
    await limit(space, 1)
    for _ in range(100):
        assert await slots.take(space, AGENT)
        await slots.give_back(space, AGENT)
    assert store.written == 1


async def test_many_that_ask_at_once_ask_together(space: TenantSpace, store: Counted, clock: TestClock) -> None:
    """Fifty runs at once are a few writes, and as many go on as may."""
    (slots,) = processes(clock, 1)
    await limit(space, 20)
    outcomes: list[bool] = []

    async def one() -> None:
        outcomes.append(await slots.take(space, AGENT))

    async with together() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert outcomes.count(True) == 20
    assert store.written <= 3


async def test_a_slot_that_is_not_needed_goes_to_who_was_refused(space: TenantSpace, clock: TestClock) -> None:
    """An idle slot at the next renewal, a used one as soon as its run ends."""
    one, two = processes(clock, 2)
    await limit(space, 2)
    assert await taken(one, space, 2) == 2
    await one.give_back(space, AGENT)
    assert not await two.take(space, AGENT)
    clock.advance(KEEP_EVERY)
    await one.keep()
    assert await two.take(space, AGENT)
    assert not await two.take(space, AGENT)
    clock.advance(KEEP_EVERY)
    await one.keep()
    await one.give_back(space, AGENT)  # now it knows that somebody waits
    clock.advance(0.2)
    assert await two.take(space, AGENT)


async def test_idle_slots_are_given_back_unasked(space: TenantSpace, store: Counted, clock: TestClock) -> None:
    """After a whole interval without use, and then nothing is renewed any more."""
    (slots,) = processes(clock, 1)
    await limit(space, 2)
    assert await taken(slots, space, 2) == 2
    for _ in range(2):
        await slots.give_back(space, AGENT)
    for _ in range(2):
        clock.advance(KEEP_EVERY)
        await slots.keep()
    written = store.written
    await slots.keep()
    assert (store.written, slots._held) == (written, {})
    assert await taken(*processes(clock, 1), space, 2) == 2


async def test_the_slots_of_a_dead_process_are_free_when_its_lease_ends(space: TenantSpace, clock: TestClock) -> None:
    """Too few run until then, never too many; a process that renews keeps what it has."""
    alive, dead, heir = processes(clock, 3)
    await limit(space, 3)
    assert (await taken(alive, space, 1), await taken(dead, space, 2)) == (1, 2)
    for _ in range(3):
        clock.advance(KEEP_EVERY)
        await alive.keep()
        assert await taken(heir, space, 1) == 0
    clock.advance(LEASE.total_seconds() - 3 * KEEP_EVERY)
    assert await taken(heir, space, 3) == 2


async def test_a_late_process_uses_no_slot_that_may_be_anothers(space: TenantSpace, clock: TestClock) -> None:
    """Its lease is over: it must ask again, although it thinks that it has an idle slot."""
    late, other = processes(clock, 2)
    await limit(space, 1)
    await late.take(space, AGENT)
    await late.give_back(space, AGENT)
    clock.advance(LEASE.total_seconds())
    assert await other.take(space, AGENT)
    assert not await late.take(space, AGENT)


async def test_a_changed_limit_holds_at_once_for_new_runs(space: TenantSpace, clock: TestClock) -> None:
    """Lowered, raised, lifted, and set while runs go that nobody counted."""
    one, two = processes(clock, 2)
    await limit(space, 4)
    assert await taken(one, space, 4) == 4
    await one.give_back(space, AGENT)
    await limit(space, 2)
    assert not await one.take(space, AGENT)  # three go on, and no fourth
    await limit(space, 5)
    assert await taken(two, space, 3) == 2
    await limit(space, None)
    assert await taken(two, space, 10) == 10
    await limit(space, 16)
    for each in (one, two):
        await each.keep()
    assert await running(space, "", clock.now()) == 3 + 12  # four of `one`, of which one has ended
    assert await taken(one, space, 3) == 1


async def test_a_failed_answer_of_the_store_loses_no_slot(space: TenantSpace, store: Counted, clock: TestClock) -> None:
    """The slot that was written and not heard of is there at the next try."""
    (slots,) = processes(clock, 1)
    await limit(space, 1)
    store.failing = [Unavailable("STORE_UNAVAILABLE", "Gone.")]
    with pytest.raises(Unavailable):
        await slots.take(space, AGENT)
    assert await slots.take(space, AGENT)


async def test_running_runs_are_told(space: TenantSpace, clock: TestClock) -> None:
    """By process, when they renew; of the agent and of the tenant."""
    one, two = processes(clock, 2)
    await limit(space, 10)
    await limit(space, 10, AGENT)
    assert await taken(one, space, 3) + await taken(two, space, 2) + await taken(two, space, 1, "ag_2") == 6
    for each in (one, two):
        await each.keep()
    assert await running(space, "", clock.now()) == 6
    assert await running(space, AGENT, clock.now()) == 5
    clock.advance(LEASE.total_seconds())
    assert await running(space, "", clock.now()) == 0


async def test_on_the_real_store_three_processes_never_run_too_many(nats: Endpoint) -> None:
    """Two hundred runs at once over three links: at no moment more than four, and all of them get their turn."""
    tenant = f"t{uuid.uuid4().hex[:12]}"
    most = now = ended = 0
    async with connect(nats, "a") as a, connect(nats, "b") as b, connect(nats, "c") as c:
        spaces = [await space_over(link, tenant) for link in (a, b, c)]
        slots = [Slots(SystemClock(), Quotas()) for _ in spaces]
        await limit(spaces[0], 4)

        async def run(number: int) -> None:
            nonlocal most, now, ended
            mine, space, random = slots[number % 3], spaces[number % 3], Random(number)
            while not await mine.take(space, AGENT):
                await anyio.sleep(random.uniform(0.01, 0.05))
            now += 1
            most = max(most, now)
            await anyio.sleep(random.uniform(0, 0.005))
            now -= 1
            ended += 1
            await mine.give_back(space, AGENT)

        async def keep(mine: Slots) -> None:
            while True:
                await anyio.sleep(KEEP_EVERY)
                await mine.keep()

        with anyio.fail_after(60):
            async with together() as keeping:
                for mine in slots:
                    keeping.start_soon(keep, mine)
                async with together() as tasks:
                    for number in range(200):
                        tasks.start_soon(run, number)
                keeping.cancel_scope.cancel()
    assert (most, ended) == (4, 200)
