"""Budgets: how much a tenant, user, agent, session or workflow may spend in a period, and never more.

Before a model call its worst case is reserved in every budget that applies, or in none; afterwards what it
really cost is settled. A reservation that nobody ends keeps its room: it is found by `open_turns` when the
run is taken over. All definitions of a tenant are one record of `cb_capacity`, so that a tenant without
budgets costs nothing; what is spent stands in `cb_ledger`, one record for each budget's window (`window`).

Above: the execution loop, and the surface, which sets and shows budgets. It knows no prices and stops no run.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import uniform
from typing import Final, Literal, NamedTuple

import anyio
import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Exhausted, Invalid, WrongRevision
from mcp_agents.kernel.messages import Spend
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.scaling import window as windows
from mcp_agents.scaling.changing import check_subject, moved_on
from mcp_agents.scaling.combiner import Combiner
from mcp_agents.scaling.periods import Period, Span, span
from mcp_agents.scaling.window import Ceiling, Verdict, Window

MEASURES: Final[tuple[Literal["micro_usd", "tokens"], ...]] = ("micro_usd", "tokens")
Scope = Literal["tenant", "user", "agent", "session", "workflow"]

MAX_BUDGETS: Final = 500
"""Budgets of one tenant; all of them are read as one record."""

_DEFINITIONS: Final = "budgets"
_HISTORY: Final = timedelta(days=40)
"""How long a window is kept after its end, for runs that still have something reserved in it."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_REMEMBERED: Final = 20_000
_BUSY_RETRY_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Payers:
    """Who pays for a call: ids, and the caller's subject. The tenant always does."""

    user: str
    agent: str
    session: str = ""
    workflow: str = ""


class Budget(Struct, frozen=True, kw_only=True):
    """A definition. `subject` is empty for the tenant; `warn_at` are parts of the limit, from above 0 to 1.

    `ledger` names where it is counted: a budget that was removed and set again counts from zero.
    """

    scope: Scope
    subject: str = ""
    period: Period
    limit_micro_usd: int | None = None
    limit_tokens: int | None = None
    warn_at: tuple[float, ...] = (0.8, 0.95)
    ledger: str = ""

    @property
    def ceiling(self) -> Ceiling:
        """Both limits."""
        return Ceiling(self.limit_micro_usd, self.limit_tokens)

    @property
    def place(self) -> tuple[str, str, str]:
        """What there is one budget of."""
        return self.scope, self.subject, self.period

    def binds(self, payers: Payers) -> bool:
        """Whether a call of these payers counts."""
        return self.scope == "tenant" or getattr(payers, self.scope) == self.subject


class BudgetState(NamedTuple):
    """A budget in its present window. A part of `left` is None where it has no such limit."""

    budget: Budget
    span: Span
    settled: Spend
    reserved: Spend
    left: Ceiling
    warnings: tuple[float, ...]


class Reserved(NamedTuple):
    """What is held for a turn, and by which budgets: (scope, subject, period)."""

    worst: Spend
    budgets: tuple[tuple[str, str, str], ...]


class Warned(NamedTuple):
    """A part of a limit that a settlement reached. `settled` and `limit` are micro-USD or tokens, as `measure` says."""

    scope: str
    subject: str
    period: str
    measure: Literal["micro_usd", "tokens"]
    threshold: float
    settled: int
    limit: int


class Definitions(Struct, frozen=True, kw_only=True):
    """The stored record: a tenant's budgets in the order of their places."""

    budgets: tuple[Budget, ...] = ()
    v: int = 1


class _Place(NamedTuple):
    """A budget as it was when a call was held in one of its windows."""

    budget: Budget
    span_name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.budget.ledger, self.span_name


class _Refused(NamedTuple):
    budget: Budget
    span: Span
    verdict: Verdict


_Turn = tuple[str, str, int]


class Budgets:
    """Budgets of any tenant, always through its `TenantSpace`. One for a process, so that its calls combine."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: Combiner[Window] = Combiner(_windows, self._lifetime)
        self._held: OrderedDict[_Turn, tuple[_Place, ...]] = OrderedDict()
        self._bells: dict[tuple[str, str], anyio.Event] = {}

    # What is allowed.

    async def set(self, space: TenantSpace, wanted: Budget, expected_revision: int | None) -> int:
        """Sets the budget of `wanted.place`, or removes it where both limits are None; returns the new revision.

        What was spent in the present window counts against changed limits; `wanted.ledger` is ignored. Raises
        `Conflict` (`REVISION_CONFLICT`), `Exhausted` (`BUDGETS_FULL`), `Invalid` (`SUBJECT_INVALID`).
        """
        check_subject(wanted.scope, wanted.subject)
        removal = wanted.ceiling == Ceiling()
        while True:
            known, revision = await self.definitions(space)
            if expected_revision not in (None, revision):
                raise moved_on()
            earlier = next((budget for budget in known.budgets if budget.place == wanted.place), None)
            others = tuple(budget for budget in known.budgets if budget is not earlier)
            kept = others if removal else (*others, _in_ledger(wanted, earlier))
            if len(kept) > MAX_BUDGETS:
                raise Exhausted("BUDGETS_FULL", f"A tenant has at most {MAX_BUDGETS} budgets.", "Remove some of them.")
            value = Definitions(budgets=tuple(sorted(kept, key=lambda budget: budget.place)))
            try:
                revision = await _definitions(space).update(_DEFINITIONS, value=value, revision=revision)
            except WrongRevision as cause:
                if expected_revision is not None:
                    raise moved_on() from cause
                continue
            if removal and earlier:
                await self._forget_ledger(space, earlier.ledger)
            return revision

    async def definitions(self, space: TenantSpace) -> Versioned[Definitions]:
        """Every budget of the tenant, and the revision to expect when setting one; 0 where there never was any."""
        return await _definitions(space).get(_DEFINITIONS) or Versioned(Definitions(), 0)

    async def states(self, space: TenantSpace, budgets: Sequence[Budget]) -> list[BudgetState]:
        """These budgets in their present windows, in the same order."""
        now = self._clock.now()
        states: dict[int, BudgetState] = {}
        few = anyio.CapacityLimiter(16)

        async def look(number: int, budget: Budget) -> None:
            current = span(budget.period, now)
            async with few:
                found = await _windows(space).get(budget.ledger, current.name)
            states[number] = _state(budget, current, found.value if found else Window(span=current.name))

        async with together() as tasks:
            for number, budget in enumerate(budgets):
                tasks.start_soon(look, number, budget)
        return [states[number] for number in range(len(budgets))]

    async def left(self, space: TenantSpace, payers: Payers) -> list[BudgetState]:
        """The budgets that a call of these payers would need, as they stand."""
        return await self.states(space, await self._binding(space, payers))

    # What is spent.

    async def reserve(
        self,
        space: TenantSpace,
        payers: Payers,
        execution_id: str,
        turn: int,
        worst: Spend,
        *,
        priced: bool,
        patience: float,
    ) -> Reserved | None:
        """Holds `worst` for one turn in every budget that applies; None when none does.

        Where only other calls' holds are in the way it waits for them, up to `patience` seconds. The same turn
        again replaces what it held. Raises `Exhausted` (`BUDGET_EXHAUSTED`), `Invalid` (`BUDGET_NEEDS_PRICE`) when
        a budget limits money and no price is known, `Unavailable`. Nothing is held then, unless the store
        did not answer: then `open_turns` tells.
        """
        patient_until, pause = anyio.current_time() + patience, _FIRST_PAUSE
        while True:
            binding = await self._binding(space, payers)
            if not binding:
                return None
            if not priced:
                _need_no_price(binding)
            refused, bell = await self._hold_in_all(space, binding, (execution_id, turn), worst)
            if refused is None:
                return Reserved(worst, tuple(budget.place for budget in binding))
            left = patient_until - anyio.current_time()
            if refused.verdict == "over" or left <= 0:
                raise self._exhausted(refused)
            with anyio.move_on_after(min(left, pause * uniform(0.5, 1.5))):  # noqa: S311  # only spreads retries
                await bell.wait()
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def settle(
        self, space: TenantSpace, payers: Payers, execution_id: str, turn: int, spent: Spend
    ) -> tuple[Warned, ...]:
        """Books what a turn really cost and ends its holds; returns the warnings that this reached.

        Once, however often it is called: without a hold nothing is booked. Goes on when the caller is cancelled.
        """
        warned: list[Warned] = []
        with anyio.CancelScope(shield=True):
            for place in await self._places(space, payers, execution_id, turn):
                booking = partial(windows.settle, hold=_hold(execution_id, turn), spent=spent)
                sums = await self._windows.change(space, place.key, booking)
                self._ring(space, place.budget)
                warned += _crossed(place.budget, *sums) if sums else ()
            self._held.pop((space.tenant, execution_id, turn), None)
        return tuple(warned)

    async def release(self, space: TenantSpace, payers: Payers, execution_id: str, turn: int) -> None:
        """Ends the holds of a turn for which nothing was bought. Goes on when the caller is cancelled.

        Not for a worker that lost its run: what is held under this turn is its successor's by now.
        """
        with anyio.CancelScope(shield=True):
            await self._release(space, await self._places(space, payers, execution_id, turn), execution_id, turn)
            self._held.pop((space.tenant, execution_id, turn), None)

    async def open_turns(self, space: TenantSpace, payers: Payers, execution_id: str) -> dict[int, Spend]:
        """What is still held for a run, by turn, in any window: what a worker that died has left.

        Settle such a turn with what is returned here, as its call may have been paid; release it only when it
        was certainly not sent.
        """
        turns: dict[int, Spend] = {}
        for _, window in await self._stored(space, payers):
            for hold, worst in window.holds.items():
                owner, _, turn = hold.rpartition("/")
                if owner != execution_id:
                    continue
                known = turns.get(int(turn), Spend())
                turns[int(turn)] = Spend(max(known.micro_usd, worst.micro_usd), max(known.tokens, worst.tokens))
        return dict(sorted(turns.items()))

    # How.

    async def _binding(self, space: TenantSpace, payers: Payers) -> list[Budget]:
        """The budgets that apply, in an order that is the same for everyone, so that no two calls block each other."""
        known, _ = await self.definitions(space)
        return [budget for budget in known.budgets if budget.binds(payers)]

    async def _hold_in_all(
        self, space: TenantSpace, binding: list[Budget], turn: tuple[str, int], worst: Spend
    ) -> tuple[_Refused | None, anyio.Event]:
        """Holds in all or in none. Returns who refused, and the bell that rings when that one has more room."""
        now, hold = self._clock.now(), _hold(*turn)
        tried: list[_Place] = []
        bell, refused, decided = anyio.Event(), None, False
        try:
            for budget in binding:
                current = span(budget.period, now)
                tried.append(_Place(budget, current.name))
                # Taken before looking, so that no settlement in between goes unheard.
                bell = self._bells.setdefault((space.tenant, budget.ledger), anyio.Event())
                verdict = await self._windows.change(space, tried[-1].key, _reserving(budget, current, hold, worst))
                if verdict != "held":
                    refused = _Refused(budget, current, verdict)
                    break
            decided = True
        finally:
            if refused or not decided:
                with anyio.CancelScope(shield=True):
                    await self._release(space, tried[:-1] if refused else tried, *turn)
        if refused is None:
            self._held[space.tenant, *turn] = tuple(tried)
            if len(self._held) > _REMEMBERED:
                self._held.popitem(last=False)
        return refused, bell

    async def _release(self, space: TenantSpace, places: Iterable[_Place], execution_id: str, turn: int) -> None:
        hold = _hold(execution_id, turn)
        for place in places:
            await self._windows.change(space, place.key, partial(windows.release, hold=hold))
            self._ring(space, place.budget)

    async def _places(self, space: TenantSpace, payers: Payers, execution_id: str, turn: int) -> tuple[_Place, ...]:
        """Where a turn is held: remembered by the process that reserved, looked up by any other."""
        if known := self._held.get((space.tenant, execution_id, turn)):
            return known
        hold = _hold(execution_id, turn)
        return tuple(place for place, window in await self._stored(space, payers) if hold in window.holds)

    async def _stored(self, space: TenantSpace, payers: Payers) -> list[tuple[_Place, Window]]:
        """Every window that there is of the budgets that apply."""
        return [
            (_Place(budget, found.value.span), found.value)
            for budget in await self._binding(space, payers)
            for found in await _windows(space).all(budget.ledger)
        ]

    async def _forget_ledger(self, space: TenantSpace, ledger: str) -> None:
        for found in await _windows(space).all(ledger):
            await self._windows.change(space, (ledger, found.value.span), lambda _: (None, None))

    def _ring(self, space: TenantSpace, budget: Budget) -> None:
        if bell := self._bells.pop((space.tenant, budget.ledger), None):
            bell.set()

    def _lifetime(self, window: Window) -> int:
        if window.ends is None:
            return 0
        return int((max(window.ends, self._clock.now()) + _HISTORY - self._clock.now()).total_seconds())

    def _exhausted(self, refused: _Refused) -> Exhausted:
        budget, ends = refused.budget, refused.span.end
        whose = f"of the {budget.scope} {budget.subject}".rstrip()
        details: dict[str, str | list[str]] = {
            name: str(value)
            for name in ("scope", "subject", "period", "limit_micro_usd", "limit_tokens")
            if (value := getattr(budget, name)) not in (None, "")
        }
        if ends:
            details["window_ends_at"] = ends.isoformat()
        if refused.verdict == "busy":
            return Exhausted(
                "BUDGET_EXHAUSTED",
                f"Calls under way have reserved what is left of the budget {whose} ({budget.period}).",
                "Try again when they have ended.",
                retry_after_ms=_BUSY_RETRY_MS,
                details=details,
            )
        return Exhausted(
            "BUDGET_EXHAUSTED",
            f"The budget {whose} ({budget.period}) has no room for the worst case of this call.",
            "Wait for the end of the window, lower max_tokens, or raise the budget with budget_set.",
            retry_after_ms=int((ends - self._clock.now()).total_seconds() * 1000) if ends else None,
            details=details,
        )


def _definitions(space: TenantSpace) -> Records[Definitions]:
    return space.records("cb_capacity", Definitions)


def _windows(space: TenantSpace) -> Records[Window]:
    return space.records("cb_ledger", Window)


def _hold(execution_id: str, turn: int) -> str:
    return f"{execution_id}/{turn}"


def _reserving(
    budget: Budget, current: Span, hold: str, worst: Spend
) -> Callable[[Window | None], tuple[Window | None, Verdict]]:
    def step(found: Window | None) -> tuple[Window | None, Verdict]:
        window = found or Window(span=current.name, ends=current.end)
        after, verdict = windows.reserve(window, hold, worst, budget.ceiling)
        return (after if verdict == "held" else found), verdict

    return step


def _state(budget: Budget, current: Span, window: Window) -> BudgetState:
    used = window.spent + window.held
    left = Ceiling(
        *(
            None if limit is None else max(0, limit - part)
            for limit, part in zip(budget.ceiling, (used.micro_usd, used.tokens), strict=True)
        )
    )
    warnings = tuple(part for part in budget.warn_at if _crossed(budget, Spend(), window.spent, (part,)))
    return BudgetState(budget, current, window.spent, window.held, left, warnings)


def _crossed(budget: Budget, before: Spend, after: Spend, parts: tuple[float, ...] | None = None) -> list[Warned]:
    """The parts of a limit that lie above `before` and not above `after`."""
    return [
        Warned(*budget.place, measure, part, getattr(after, measure), limit)
        for measure in MEASURES
        if (limit := getattr(budget.ceiling, measure)) is not None
        for part in parts or budget.warn_at
        if getattr(before, measure) < part * limit <= getattr(after, measure)
    ]


def _need_no_price(binding: list[Budget]) -> None:
    """For a call whose price is unknown: no budget may limit money."""
    for budget in binding:
        if budget.limit_micro_usd is not None:
            raise Invalid(
                "BUDGET_NEEDS_PRICE",
                f"The {budget.scope}'s budget ({budget.period}) limits money, and this model has no known price.",
                "Set the model's prices in its [[models]] entry, or limit tokens instead.",
                details={"scope": budget.scope, "period": budget.period},
            )


def _in_ledger(wanted: Budget, earlier: Budget | None) -> Budget:
    return msgspec.structs.replace(wanted, ledger=earlier.ledger if earlier else secrets.token_hex(8))
