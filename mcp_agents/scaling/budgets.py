"""Budgets over many runs: the worst case of each model call is reserved before it is made, and settled after.

A budget cannot be overrun by concurrency: each reservation is a change of one record by compare-and-set, over
all processes (`combining`). It is set aside in every budget that applies or in none. What a lost worker left
reserved is found by its run's id and settled by whoever takes the run over. A tenant without budgets costs a
look into a cached record.

Above: execution, which asks by run and call, and the surface, which defines budgets. Below: the tenant's records.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal

import anyio
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Exhausted, Invalid, WrongRevision
from mcp_agents.kernel.messages import Spend
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling import windows
from mcp_agents.scaling.combining import Combined, CombinedRecords
from mcp_agents.scaling.windows import Limit, Period, Span, Window

Scope = Literal["tenant", "user", "agent", "session", "workflow"]
_PLACE: Final = "budgets"
_MOST: Final = 1000
_POLL_SECONDS: Final = 0.2


class Budget(Struct, frozen=True, kw_only=True):
    """A definition. Money in micro-USD, tokens of input and output together; None: not limited.

    `subject` is a user's subject, an agent's, session's or workflow's id, and empty for the tenant.
    """

    scope: Scope
    subject: str
    period: Period
    limit_micro_usd: int | None
    limit_tokens: int | None
    warn_at: tuple[float, ...] = (0.8, 0.95)

    @property
    def limit(self) -> Limit:
        """Both limits."""
        return Limit(self.limit_micro_usd, self.limit_tokens)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What there is one budget for."""
        return self.scope, self.subject, self.period


class _Budgets(Struct, frozen=True, kw_only=True):
    budgets: tuple[Budget, ...] = ()
    v: int = 1


class BudgetState(Struct, frozen=True, kw_only=True):
    """A budget and its present window. `left` is what can still be reserved; None where nothing is limited."""

    scope: Scope
    subject: str
    period: Period
    limit_micro_usd: int | None
    limit_tokens: int | None
    warn_at: tuple[float, ...]
    settled_micro_usd: int
    settled_tokens: int
    reserved_micro_usd: int
    reserved_tokens: int
    left_micro_usd: int | None
    left_tokens: int | None
    warned: tuple[float, ...]
    window_start: datetime | None
    window_end: datetime | None


class Warned(Struct, frozen=True, kw_only=True):
    """A threshold that a settlement passed."""

    scope: Scope
    subject: str
    period: Period
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Payers:
    """Whose budgets a run counts against, besides its tenant's."""

    user: str
    agent: str
    session: str = ""
    workflow: str = ""


class Budgets:
    """Budgets of any tenant, always through its `TenantSpace`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows = CombinedRecords(Window())

    # ---- definitions ----

    async def define(self, space: TenantSpace, budget: Budget, *, expected_revision: int | None) -> int:
        """Sets a budget in place of the one for the same scope, subject and period; without a limit it is removed.

        Returns the revision of the tenant's budgets. Raises `Conflict` (`REVISION_CONFLICT`) and `Exhausted`
        (`BUDGETS_TOO_MANY`).
        """
        records = space.records("cb_capacity", _Budgets)
        while True:
            found = await records.get(_PLACE)
            if expected_revision is not None and expected_revision != (found.revision if found else 0):
                raise _moved_on()
            others = [each for each in (found.value.budgets if found else ()) if each.identity != budget.identity]
            limited = budget.limit_micro_usd is not None or budget.limit_tokens is not None
            fresh = _Budgets(budgets=tuple([*others, budget] if limited else others))
            if len(fresh.budgets) > _MOST:
                raise Exhausted("BUDGETS_TOO_MANY", f"A tenant has at most {_MOST} budgets.", "Remove one first.")
            try:
                return await records.update(_PLACE, value=fresh, revision=found.revision if found else 0)
            except WrongRevision:
                continue  # another budget was set in the same moment

    async def all(self, space: TenantSpace) -> tuple[list[BudgetState], int]:
        """Every budget with its present window, and the revision of the definitions."""
        found = await space.records("cb_capacity", _Budgets).get(_PLACE)
        budgets = found.value.budgets if found else ()
        return [await self._state(space, each) for each in budgets], found.revision if found else 0

    async def left(self, space: TenantSpace, payers: Payers) -> list[BudgetState]:
        """The budgets that a run of these payers counts against."""
        return [await self._state(space, each) for each in await self._applicable(space, payers)]

    # ---- reservations; a call is known by its run and its number there ----

    async def reserve(
        self,
        space: TenantSpace,
        payers: Payers,
        execution_id: str,
        number: int,
        worst: Spend,
        *,
        priced: bool,
        patience: float,
    ) -> bool:
        """Sets the worst case of a call aside in every budget that applies; False when none does.

        Waits up to `patience` seconds where only other calls' reservations are in the way. Raises `Exhausted`
        (`BUDGET_EXHAUSTED`), and `Invalid` (`BUDGET_NEEDS_PRICE`) where money is limited and the price unknown.
        """
        budgets = await self._applicable(space, payers)
        if not budgets:
            return False
        if not priced and any(budget.limit_micro_usd is not None for budget in budgets):
            raise _needs_price()
        call, made = _call(execution_id, number), list[Combined[Window]]()
        try:
            for budget in budgets:
                made.append(await self._reserve_in(space, budget, call, worst, patience))
        except BaseException:
            with anyio.CancelScope(shield=True):
                for window in made:
                    await window.change(lambda state: windows.release(state, call))
            raise
        return True

    async def settle(
        self, space: TenantSpace, payers: Payers, execution_id: str, number: int, spent: Spend
    ) -> tuple[Warned, ...]:
        """Puts what a call cost in the place of its reservation, once; the thresholds that this passed."""
        passed: list[Warned] = []
        call = _call(execution_id, number)
        for budget in await self._applicable(space, payers):
            for at in self._spans(budget):
                change = _settling(budget, call, spent)
                thresholds: tuple[float, ...] | None = await self._window(space, budget, at).change(change)
                if thresholds is not None:
                    passed += [
                        Warned(scope=budget.scope, subject=budget.subject, period=budget.period, threshold=each)
                        for each in thresholds
                    ]
                    break
        return tuple(passed)

    async def release(self, space: TenantSpace, payers: Payers, execution_id: str, number: int) -> None:
        """Takes a reservation back: nothing was bought."""
        call = _call(execution_id, number)
        for budget in await self._applicable(space, payers):
            for at in self._spans(budget):
                if await self._window(space, budget, at).change(lambda state: windows.release(state, call)):
                    break

    async def open_calls(self, space: TenantSpace, payers: Payers, execution_id: str) -> dict[int, Spend]:
        """What is reserved for a run, by the number of the call."""
        found: dict[int, Spend] = {}
        for budget in await self._applicable(space, payers):
            for at in self._spans(budget):
                window = await self._window(space, budget, at).read()
                for call, held in window.holds.items():
                    of, _, number = call.partition("/")
                    if of == execution_id:
                        found[int(number)] = held
        return found

    async def _reserve_in(
        self, space: TenantSpace, budget: Budget, call: str, worst: Spend, patience: float
    ) -> Combined[Window]:
        until = self._clock.monotonic() + patience
        while True:
            at = self._spans(budget)[0]
            window = self._window(space, budget, at)
            changed = window.changed
            verdict = await window.change(lambda state: windows.reserve(state, call, worst, budget.limit))
            if verdict == "held":
                return window
            left = until - self._clock.monotonic()
            if verdict == "exhausted" or left <= 0:
                raise self._exhausted(budget, at)
            with anyio.move_on_after(min(left, _POLL_SECONDS * (0.5 + random.random()))):  # noqa: S311  # jitter
                await changed.wait()

    async def _applicable(self, space: TenantSpace, payers: Payers) -> list[Budget]:
        found = await space.records("cb_capacity", _Budgets).get(_PLACE)
        if found is None:
            return []
        subjects = {
            "tenant": "",
            "user": payers.user,
            "agent": payers.agent,
            "session": payers.session,
            "workflow": payers.workflow,
        }
        # Always in the same order, so that two calls never hold what the other one waits for.
        budgets = [budget for budget in found.value.budgets if subjects[budget.scope] == budget.subject]
        return sorted(budgets, key=lambda budget: budget.identity)

    def _spans(self, budget: Budget) -> list[Span]:
        """The present window and the one before, in which a call may have been reserved."""
        now = windows.span(budget.period, self._clock.now())
        if now.start is None:
            return [now]
        return [now, windows.span(budget.period, now.start - timedelta(seconds=1))]

    def _window(self, space: TenantSpace, budget: Budget, at: Span) -> Combined[Window]:
        subject = sha256(budget.subject.encode()).hexdigest()[:32] if budget.subject else "all"
        return self._windows.of(space, "budget", budget.scope, subject, budget.period, at.name)

    async def _state(self, space: TenantSpace, budget: Budget) -> BudgetState:
        at = self._spans(budget)[0]
        window = await self._window(space, budget, at).read()
        used = window.settled + window.held
        money, tokens = budget.limit_micro_usd, budget.limit_tokens
        return BudgetState(
            scope=budget.scope,
            subject=budget.subject,
            period=budget.period,
            limit_micro_usd=money,
            limit_tokens=tokens,
            warn_at=budget.warn_at,
            settled_micro_usd=window.settled.micro_usd,
            settled_tokens=window.settled.tokens,
            reserved_micro_usd=window.held.micro_usd,
            reserved_tokens=window.held.tokens,
            left_micro_usd=None if money is None else max(0, money - used.micro_usd),
            left_tokens=None if tokens is None else max(0, tokens - used.tokens),
            warned=window.warned,
            window_start=at.start,
            window_end=at.end,
        )

    def _exhausted(self, budget: Budget, at: Span) -> Exhausted:
        whose = f"{budget.scope} {budget.subject}".strip()
        until = f" until {at.end:%Y-%m-%d %H:%M} UTC" if at.end else ""
        wait = round((at.end - self._clock.now()).total_seconds() * 1000) if at.end else None
        return Exhausted(
            "BUDGET_EXHAUSTED",
            f"The {budget.period} budget of the {whose} does not allow another model call{until}.",
            "Raise it with budget_set, wait for its next window, or ask for less with max_tokens.",
            retry_after_ms=wait,
        )


def _settling(budget: Budget, call: str, spent: Spend) -> Any:
    return lambda state: windows.settle(state, call, spent, budget.limit, budget.warn_at)


def _call(execution_id: str, number: int) -> str:
    return f"{execution_id}/{number}"


def _needs_price() -> Invalid:
    return Invalid(
        "BUDGET_NEEDS_PRICE",
        "A budget limits money, and the price of a model that may be asked is not known.",
        "Give the model its prices in the settings, or limit tokens instead.",
    )


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")
