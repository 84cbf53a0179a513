"""Rates: together and over all processes never more than the limit of a minute, and a handful of writes for it."""

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_agents.kernel.errors import Exhausted
from mcp_agents.kernel.store import Bucket
from mcp_agents.scaling.rates import WINDOW, SharedRates
from tests.auth.desk import YieldingStore, platform
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


class CountingStore(YieldingStore):
    """Counts what is written."""

    writes = 0

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        self.writes += 1
        return await super().write(bucket, key, value, revision=revision, ttl=ttl)


def processes(store: YieldingStore, clock: TestClock, number: int, limit: int) -> list[SharedRates]:
    """Several that share a store."""
    return [SharedRates(platform(store, clock), {"calls_per_tenant": limit}, clock) for _ in range(number)]


async def burst(rates: list[SharedRates], calls: int, who: str = "acme") -> int:
    """How many of so many calls at once get through."""
    through = 0

    async def one(number: int) -> None:
        nonlocal through
        try:
            await rates[number % len(rates)].take("calls_per_tenant", who)
            through += 1
        except Exhausted:
            return

    async with anyio.create_task_group() as crowd:
        for number in range(calls):
            crowd.start_soon(one, number)
    return through


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 200),
    number=st.integers(1, 5),
    bursts=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    at=st.floats(0, 59),
)
async def test_together_never_more_than_the_limit(limit: int, number: int, bursts: list[int], at: float) -> None:
    """Whatever the processes and however the calls come; and all of it where one process takes everything."""
    clock = TestClock()
    clock.advance(at - clock.now().timestamp() % WINDOW + WINDOW)
    rates = processes(YieldingStore(clock), clock, number, limit)
    through = sum([await burst(rates, calls) for calls in bursts])
    assert through <= limit
    if number == 1:
        assert through == min(limit, sum(bursts))
    clock.advance(WINDOW)
    assert await burst(rates[:1], limit + 10) == limit


async def test_nobody_elses_calls_count_and_a_dead_process_strands_only_its_slice() -> None:
    """Less is let through for the rest of the minute, never more."""
    clock = TestClock()
    dying, living = processes(YieldingStore(clock), clock, 2, 160)
    assert await burst([dying], 1) == 1
    assert await burst([living], 500) == 150
    assert await burst([living], 200, "other") == 160


async def test_it_says_when_to_come_again() -> None:
    """At the end of the minute."""
    clock = TestClock()
    clock.advance(15)
    (rates,) = processes(YieldingStore(clock), clock, 1, 1)
    await rates.take("calls_per_tenant", "acme")
    with pytest.raises(Exhausted) as refused:
        await rates.take("calls_per_tenant", "acme")
    assert refused.value.code == "RATE_LIMITED"
    assert refused.value.retry_after_ms == 45_000
    clock.advance(45)
    await rates.take("calls_per_tenant", "acme")


async def test_ten_thousand_calls_cost_a_handful_of_writes() -> None:
    """And a kind that is off costs none."""
    clock = TestClock()
    store = CountingStore(clock)
    rates = processes(store, clock, 4, 16_000)
    assert await burst(rates, 10_000) == 10_000
    assert store.writes <= 60  # races between the four included
    before = store.writes
    for _ in range(100):
        await rates[0].take("calls_per_client", "off")
    assert store.writes == before


async def test_many_addresses_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; what they had taken stays taken."""
    monkeypatch.setattr("mcp_agents.scaling.rates._KEPT", 100)
    clock = TestClock()
    (rates,) = processes(YieldingStore(clock), clock, 1, 2)
    for number in range(1_000):
        await rates.take("calls_per_tenant", f"address {number}")
    assert len(rates._parts) == 100
    assert await burst([rates], 5, "address 0") == 1
