"""A budget's window: what was settled in it, and what is reserved. Pure; `budgets` stores it.

A reservation is a hold under the id of its call. It is taken back, or settled at what the call cost; a call
that is settled twice, or settled after it was taken back, changes nothing.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from mcp_agents.kernel.messages import Spend

Period = Literal["day", "week", "month", "year", "total"]
Verdict = Literal["held", "in the way", "exhausted"]
"""Of a reservation: made; others' reservations are in the way and may yet cost less; the budget is used up."""


class Window(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One window of one budget. `holds` by call id; `warned`: the thresholds that were passed."""

    settled: Spend = Spend()
    holds: dict[str, Spend] = {}
    warned: tuple[float, ...] = ()
    v: int = 1

    @property
    def held(self) -> Spend:
        """What is reserved, in all."""
        return sum(self.holds.values(), Spend())


class Limit(NamedTuple):
    """A budget's limits; None: not limited. Money in micro-USD."""

    micro_usd: int | None
    tokens: int | None

    def admits(self, spend: Spend) -> bool:
        """Whether so much is within the limits."""
        return (self.micro_usd is None or spend.micro_usd <= self.micro_usd) and (
            self.tokens is None or spend.tokens <= self.tokens
        )

    def share(self, spend: Spend) -> float:
        """The larger of the fractions of the limits that this is."""
        money = _fraction(spend.micro_usd, self.micro_usd)
        return max(money, _fraction(spend.tokens, self.tokens))


def reserve(window: Window, call: str, worst: Spend, limit: Limit) -> tuple[Window, Verdict]:
    """Sets the worst case of a call aside if settled and reserved amounts leave room for it."""
    if call in window.holds:
        return window, "held"
    if not limit.admits(window.settled + worst):
        return window, "exhausted"
    if not limit.admits(window.settled + window.held + worst):
        return window, "in the way"
    return msgspec.structs.replace(window, holds={**window.holds, call: worst}), "held"


def release(window: Window, call: str) -> tuple[Window, bool]:
    """Takes a reservation back; whether there was one."""
    if call not in window.holds:
        return window, False
    return msgspec.structs.replace(window, holds=_without(window.holds, call)), True


def settle(
    window: Window, call: str, spent: Spend, limit: Limit, warn_at: tuple[float, ...]
) -> tuple[Window, tuple[float, ...] | None]:
    """Puts what a call cost in the place of its reservation: the thresholds it passed, None without a reservation."""
    if call not in window.holds:
        return window, None
    settled = window.settled + spent
    passed = tuple(each for each in warn_at if each not in window.warned and limit.share(settled) >= each)
    after = msgspec.structs.replace(
        window, settled=settled, holds=_without(window.holds, call), warned=(*window.warned, *passed)
    )
    return after, passed


class Span(NamedTuple):
    """When a window begins and ends (UTC); None for one without end. `name` is its place in a key."""

    name: str
    start: datetime | None
    end: datetime | None


def span(period: Period, moment: datetime) -> Span:
    """The window of a period that holds this moment: calendar day, week from Monday, month, year, in UTC."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case "total":
            return Span("total", None, None)
        case "day":
            start, end = day, day + timedelta(days=1)
        case "week":
            start = day - timedelta(days=day.weekday())
            end = start + timedelta(days=7)
        case "month":
            start = day.replace(day=1)
            end = (start + timedelta(days=32)).replace(day=1)
        case "year":
            start = day.replace(month=1, day=1)
            end = start.replace(year=start.year + 1)
    return Span(start.strftime("%Y%m%d"), start, end)


def _without(holds: dict[str, Spend], call: str) -> dict[str, Spend]:
    return {known: held for known, held in holds.items() if known != call}


def _fraction(used: int, limit: int | None) -> float:
    if limit is None:
        return 0.0
    return used / limit if limit else float(used > 0)
