"""Budgets over a store in memory: who pays, all or none, waiting, windows, warnings, crashes."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_agents.kernel.errors import Conflict, Exhausted, Invalid, Unavailable
from mcp_agents.kernel.messages import Spend
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling.budgets import MAX_BUDGETS, Budget, Budgets, BudgetState, Payers, Reserved, Warned
from tests.scaling.conftest import Counted
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio

ME = Payers(user="ann", agent="ag_1", session="se_1", workflow="wf_1")
DAY = 24 * 3600


@pytest.fixture
def budgets(clock: TestClock) -> Budgets:
    """One process."""
    return Budgets(clock)


async def limit(
    budgets: Budgets, space: TenantSpace, scope: Any = "tenant", subject: str = "", period: Any = "day", **limits: Any
) -> int:
    """Sets a budget."""
    return await budgets.set(space, Budget(scope=scope, subject=subject, period=period, **limits), None)


async def hold(
    budgets: Budgets, space: TenantSpace, run: str, amount: int, turn: int = 1, patience: float = 0, **more: Any
) -> Reserved | None:
    """Reserves micro-USD for a turn."""
    more = {"payers": ME, "priced": True, **more}
    payers = more.pop("payers")
    return await budgets.reserve(space, payers, run, turn, Spend(amount, amount), patience=patience, **more)


async def state(budgets: Budgets, space: TenantSpace, payers: Payers = ME) -> BudgetState:
    """The only budget that applies."""
    (only,) = await budgets.left(space, payers)
    return only


async def test_a_tenant_without_budgets_costs_nothing(budgets: Budgets, space: TenantSpace, store: Counted) -> None:
    """Nothing is read or written for a call, and its end is no business of the ledger either."""
    assert await hold(budgets, space, "ex_1", 10**9, priced=False) is None
    assert await budgets.settle(space, ME, "ex_1", 1, Spend(5, 5)) == ()
    await budgets.release(space, ME, "ex_1", 1)
    assert await budgets.open_turns(space, ME, "ex_1") == {}
    assert (store.asked, store.written) == (0, 0)


async def test_what_is_reserved_is_settled_once(budgets: Budgets, space: TenantSpace) -> None:
    """Reserved, then settled; a second settlement, or one that was never reserved, books nothing."""
    await limit(budgets, space, limit_micro_usd=100)
    reserved = await hold(budgets, space, "ex_1", 60)
    assert reserved == Reserved(Spend(60, 60), (("tenant", "", "day"),))
    now = await state(budgets, space)
    assert (now.settled, now.reserved, now.left) == (Spend(), Spend(60, 60), (40, None))
    for _ in range(2):
        await budgets.settle(space, ME, "ex_1", 1, Spend(25, 9))
    await budgets.settle(space, ME, "ex_2", 1, Spend(25, 9))
    now = await state(budgets, space)
    assert (now.settled, now.reserved, now.left) == (Spend(25, 9), Spend(), (75, None))


async def test_a_released_turn_costs_nothing(budgets: Budgets, space: TenantSpace) -> None:
    """Nothing was bought."""
    await limit(budgets, space, limit_micro_usd=100)
    await hold(budgets, space, "ex_1", 100)
    await budgets.release(space, ME, "ex_1", 1)
    now = await state(budgets, space)
    assert (now.settled, now.reserved) == (Spend(), Spend())


async def test_a_worst_case_that_does_not_fit_is_refused_at_once(
    budgets: Budgets, space: TenantSpace, clock: TestClock
) -> None:
    """However patient the caller is: what is spent stays spent until the window ends, and the refusal says when."""
    await limit(budgets, space, limit_micro_usd=100, limit_tokens=1000)
    await hold(budgets, space, "ex_1", 60)
    await budgets.settle(space, ME, "ex_1", 1, Spend(60, 60))
    with pytest.raises(Exhausted) as refusal, anyio.fail_after(5):
        await hold(budgets, space, "ex_2", 41, patience=3600)
    assert refusal.value.code == "BUDGET_EXHAUSTED"
    assert refusal.value.retry_after_ms == DAY // 2 * 1000  # the clock stands at noon
    assert refusal.value.details == {
        "scope": "tenant",
        "period": "day",
        "limit_micro_usd": "100",
        "limit_tokens": "1000",
        "window_ends_at": "2026-01-02T00:00:00+00:00",
    }
    assert await hold(budgets, space, "ex_2", 40) is not None


async def test_tokens_are_limited_like_money(budgets: Budgets, space: TenantSpace) -> None:
    """A token budget needs no price, and a total says no time after which to try again."""
    await limit(budgets, space, period="total", limit_tokens=10)
    assert await hold(budgets, space, "ex_1", 10, priced=False)
    await budgets.settle(space, ME, "ex_1", 1, Spend(0, 10))
    with pytest.raises(Exhausted) as refusal:
        await hold(budgets, space, "ex_2", 1)
    assert refusal.value.retry_after_ms is None


async def test_money_cannot_be_limited_without_a_price(budgets: Budgets, space: TenantSpace) -> None:
    """A model of unknown price would slip through."""
    await limit(budgets, space, limit_micro_usd=100)
    with pytest.raises(Invalid) as refusal:
        await hold(budgets, space, "ex_1", 0, priced=False)
    assert refusal.value.code == "BUDGET_NEEDS_PRICE"


@pytest.mark.parametrize("scope", ["tenant", "user", "agent", "session", "workflow"])
async def test_each_scope_counts_its_own(budgets: Budgets, space: TenantSpace, scope: str) -> None:
    """Another's calls do not count, and are not limited."""
    subject = "" if scope == "tenant" else getattr(ME, scope)
    await limit(budgets, space, scope, subject, limit_micro_usd=10)
    stranger = Payers(user="bob", agent="ag_2", session="se_2", workflow="wf_2")
    await hold(budgets, space, "ex_1", 10)
    if scope == "tenant":
        with pytest.raises(Exhausted):
            await hold(budgets, space, "ex_2", 1, payers=stranger)
    else:
        assert await hold(budgets, space, "ex_2", 1, payers=stranger) is None
    with pytest.raises(Exhausted):
        await hold(budgets, space, "ex_3", 1)


async def test_tenants_do_not_pay_for_each_other(budgets: Budgets, space: TenantSpace, other: TenantSpace) -> None:
    """The same run id in another tenant is another run."""
    for each in (space, other):
        await limit(budgets, each, limit_micro_usd=10)
        assert await hold(budgets, each, "ex_1", 10)
    await budgets.settle(other, ME, "ex_1", 1, Spend(3, 3))
    assert (await state(budgets, space)).reserved == Spend(10, 10)
    assert (await state(budgets, other)).settled == Spend(3, 3)


async def test_a_call_is_held_in_every_budget_or_in_none(budgets: Budgets, space: TenantSpace) -> None:
    """The last of several refuses: the ones before have nothing reserved."""
    await limit(budgets, space, "agent", ME.agent, limit_micro_usd=100)
    await limit(budgets, space, "session", ME.session, limit_micro_usd=100)
    await limit(budgets, space, "workflow", ME.workflow, limit_micro_usd=5)
    with pytest.raises(Exhausted) as refusal:
        await hold(budgets, space, "ex_1", 6)
    assert refusal.value.details["scope"] == "workflow"
    assert [each.reserved for each in await budgets.left(space, ME)] == [Spend()] * 3
    assert await hold(budgets, space, "ex_1", 5)
    assert [each.reserved for each in await budgets.left(space, ME)] == [Spend(5, 5)] * 3


async def test_a_call_waits_for_those_that_are_in_its_way(budgets: Budgets, space: TenantSpace) -> None:
    """It goes on as soon as one of them has settled for less than it held."""
    await limit(budgets, space, limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 10)
    order: list[str] = []

    async def wait() -> None:
        await hold(budgets, space, "ex_2", 5, patience=30)
        order.append("admitted")

    with anyio.fail_after(10):
        async with together() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            order.append("settling")
            await budgets.settle(space, ME, "ex_1", 1, Spend(5, 5))
    assert order == ["settling", "admitted"]


async def test_a_call_hears_of_another_process_that_settled(
    budgets: Budgets, space: TenantSpace, clock: TestClock
) -> None:
    """What no bell of this process tells is found by looking again."""
    elsewhere = Budgets(clock)
    await limit(budgets, space, limit_micro_usd=10)
    await hold(elsewhere, space, "ex_1", 10)
    with anyio.fail_after(10):
        async with together() as tasks:
            tasks.start_soon(hold, budgets, space, "ex_2", 5, 1, 30)
            await anyio.wait_all_tasks_blocked()
            await elsewhere.release(space, ME, "ex_1", 1)
    assert (await state(budgets, space)).reserved == Spend(5, 5)


async def test_patience_ends(budgets: Budgets, space: TenantSpace) -> None:
    """Nobody settles: the call is refused, told to try soon, and holds nothing."""
    await limit(budgets, space, limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 10)
    with pytest.raises(Exhausted) as refusal, anyio.fail_after(10):
        await hold(budgets, space, "ex_2", 5, patience=0.1)
    assert refusal.value.retry_after_ms == 1000
    assert (await state(budgets, space)).reserved == Spend(10, 10)


async def test_a_cancelled_wait_leaves_nothing_behind(budgets: Budgets, space: TenantSpace) -> None:
    """A run that ends while it waits for one budget holds nothing in another."""
    await limit(budgets, space, "agent", ME.agent, limit_micro_usd=100)
    await limit(budgets, space, limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 10)
    async with together() as tasks:
        tasks.start_soon(hold, budgets, space, "ex_2", 5, 1, 30)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert [each.reserved for each in await budgets.left(space, ME)] == [Spend(10, 10)] * 2


async def test_the_same_turn_again_is_held_once(budgets: Budgets, space: TenantSpace) -> None:
    """A reservation belongs to its turn; another amount replaces the first."""
    await limit(budgets, space, limit_micro_usd=10)
    for amount in (6, 6, 9):
        await hold(budgets, space, "ex_1", amount)
        assert (await state(budgets, space)).reserved == Spend(amount, amount)
    await hold(budgets, space, "ex_1", 1, turn=2)
    assert await budgets.open_turns(space, ME, "ex_1") == {1: Spend(9, 9), 2: Spend(1, 1)}


async def test_a_new_window_begins_empty_and_what_was_held_is_settled_in_the_old_one(
    budgets: Budgets, space: TenantSpace, clock: TestClock
) -> None:
    """Over midnight, by the process that reserved and by one that took over."""
    await limit(budgets, space, limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 5)
    await hold(budgets, space, "ex_2", 5)
    clock.advance(DAY / 2)
    assert (await state(budgets, space)).left == (10, None)
    assert await hold(budgets, space, "ex_3", 10)
    await budgets.settle(space, ME, "ex_1", 1, Spend(4, 4))
    successor = Budgets(clock)
    assert await successor.open_turns(space, ME, "ex_2") == {1: Spend(5, 5)}
    await successor.settle(space, ME, "ex_2", 1, Spend(5, 5))
    assert await successor.open_turns(space, ME, "ex_2") == {}
    assert (await state(budgets, space)).settled == Spend()
    clock.advance(-DAY / 2)
    now = await state(budgets, space)
    assert (now.settled, now.reserved) == (Spend(9, 9), Spend())


async def test_a_warning_is_given_once_when_its_part_is_reached(budgets: Budgets, space: TenantSpace) -> None:
    """By the settlement that reached it and by no other; several at once where it jumps over several."""
    await limit(budgets, space, limit_micro_usd=100, limit_tokens=1000, warn_at=(0.5, 0.8, 1.0))
    told = []
    for turn, spent in enumerate((49, 1, 10, 40, 0)):
        await hold(budgets, space, "ex_1", spent, turn)
        told.append(await budgets.settle(space, ME, "ex_1", turn, Spend(spent, spent)))
    assert told[0] == told[2] == told[4] == ()
    assert told[1] == (Warned("tenant", "", "day", "micro_usd", 0.5, 50, 100),)
    assert [(warned.threshold, warned.settled) for warned in told[3]] == [(0.8, 100), (1.0, 100)]
    assert (await state(budgets, space)).warnings == (0.5, 0.8, 1.0)


async def test_what_a_dead_worker_held_is_found_and_booked(
    budgets: Budgets, space: TenantSpace, clock: TestClock
) -> None:
    """The successor knows nothing of the reservation but what the ledger says."""
    await limit(budgets, space, limit_micro_usd=10)
    await limit(budgets, space, "user", ME.user, "total", limit_tokens=100)
    await hold(budgets, space, "ex_1", 7)
    successor = Budgets(clock)
    for turn, worst in (await successor.open_turns(space, ME, "ex_1")).items():
        assert (turn, worst) == (1, Spend(7, 7))
        await successor.settle(space, ME, "ex_1", turn, worst)
    assert [(each.settled, each.reserved) for each in await successor.left(space, ME)] == [(Spend(7, 7), Spend())] * 2
    await budgets.settle(space, ME, "ex_1", 1, Spend(1, 1))  # the late worker finds no hold
    assert (await state(budgets, space, Payers(user="bob", agent="ag_2"))).settled == Spend(7, 7)


async def test_a_reservation_whose_answer_was_lost_is_undone(
    budgets: Budgets, space: TenantSpace, store: Counted
) -> None:
    """The write landed and the store then failed: the caller is told so, and nothing stays held."""
    await limit(budgets, space, limit_micro_usd=10)
    store.failing = [Unavailable("STORE_UNAVAILABLE", "Gone.")]
    with pytest.raises(Unavailable):
        await hold(budgets, space, "ex_1", 7)
    assert (await state(budgets, space)).reserved == Spend()


async def test_when_even_the_undoing_fails_the_turn_is_found_open(
    budgets: Budgets, space: TenantSpace, store: Counted
) -> None:
    """It keeps its room until somebody takes the run over: too little is admitted, never too much."""
    await limit(budgets, space, limit_micro_usd=10)
    gone = Unavailable("STORE_UNAVAILABLE", "Gone.")
    real = store.write
    writes = 0

    async def one_lands(*args: Any, **more: Any) -> int:
        nonlocal writes
        writes += 1
        if writes == 1:
            await real(*args, **more)
        raise gone

    store.write = one_lands  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await hold(budgets, space, "ex_1", 7)
    store.write = real  # type: ignore[method-assign]
    assert await budgets.open_turns(space, ME, "ex_1") == {1: Spend(7, 7)}
    with pytest.raises(Exhausted):
        await hold(budgets, space, "ex_2", 7)


async def test_many_callers_of_one_process_share_their_writes(
    budgets: Budgets, space: TenantSpace, store: Counted
) -> None:
    """A hundred reservations at once are a few compare-and-sets, and no more than fit are admitted."""
    await limit(budgets, space, limit_micro_usd=10)
    admitted: list[str] = []

    async def one(run: str) -> None:
        try:
            await hold(budgets, space, run, 1)
            admitted.append(run)
        except Exhausted:
            return

    async with together() as tasks:
        for number in range(100):
            tasks.start_soon(one, f"ex_{number}")
    assert len(admitted) == 10
    assert store.written <= 10
    assert (await state(budgets, space)).reserved == Spend(10, 10)


async def test_a_budget_is_set_changed_and_removed(budgets: Budgets, space: TenantSpace, store: Counted) -> None:
    """A changed limit keeps what was spent; removed and set again it counts from zero, and the ledger is empty."""
    first = await limit(budgets, space, limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 10)
    await budgets.settle(space, ME, "ex_1", 1, Spend(10, 10))
    second = await limit(budgets, space, limit_micro_usd=30)
    assert second > first
    assert (await state(budgets, space)).left == (20, None)
    await limit(budgets, space)
    assert (await budgets.definitions(space)).value.budgets == ()
    assert [record async for record in store.scan("cb_ledger", ">")] == []
    await limit(budgets, space, limit_micro_usd=10)
    assert (await state(budgets, space)).settled == Spend()


async def test_what_was_held_in_a_removed_budget_ends_quietly(budgets: Budgets, space: TenantSpace) -> None:
    """Its settlement writes no ghost of the ledger."""
    await limit(budgets, space, limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 10)
    await limit(budgets, space)
    assert await budgets.settle(space, ME, "ex_1", 1, Spend(10, 10)) == ()
    await limit(budgets, space, limit_micro_usd=10)
    assert (await state(budgets, space)).left == (10, None)


async def test_a_stale_change_of_a_budget_is_refused(budgets: Budgets, space: TenantSpace) -> None:
    """Of two that read the same revision the second is told; without a revision both are kept."""
    revision = await limit(budgets, space, limit_micro_usd=10)
    await limit(budgets, space, "user", "ann", limit_micro_usd=10)
    for stale in (0, revision):
        with pytest.raises(Conflict):
            await budgets.set(space, Budget(scope="tenant", period="day", limit_tokens=1), stale)
    async with together() as tasks:
        for number in range(20):
            wanted = Budget(scope="user", subject=f"u{number}", period="day", limit_tokens=1)
            tasks.start_soon(budgets.set, space, wanted, None)
    assert len((await budgets.definitions(space)).value.budgets) == 22


async def test_budgets_that_make_no_sense_are_refused(
    budgets: Budgets, space: TenantSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subject where none belongs, none where one does, and more budgets than are read at once."""
    for scope, subject in (("tenant", "ann"), ("user", "")):
        with pytest.raises(Invalid) as refusal:
            await limit(budgets, space, scope, subject, limit_tokens=1)
        assert refusal.value.code == "SUBJECT_INVALID"
    monkeypatch.setattr("mcp_agents.scaling.budgets.MAX_BUDGETS", 1)
    assert MAX_BUDGETS == 500
    await limit(budgets, space, limit_tokens=1)
    with pytest.raises(Exhausted) as full:
        await limit(budgets, space, "user", "ann", limit_tokens=1)
    assert full.value.code == "BUDGETS_FULL"


async def test_a_closed_window_is_forgotten_after_a_while(
    budgets: Budgets, space: TenantSpace, store: Counted, clock: TestClock
) -> None:
    """The ledger does not grow for ever: a day's record goes some weeks after the day, a total's never."""
    await limit(budgets, space, limit_micro_usd=10)
    await limit(budgets, space, period="total", limit_micro_usd=10)
    await hold(budgets, space, "ex_1", 1)
    clock.advance(39 * DAY)
    assert len([record async for record in store.scan("cb_ledger", ">")]) == 2
    clock.advance(3 * DAY)
    (left,) = [record.key async for record in store.scan("cb_ledger", ">")]
    assert left.endswith(".all")
