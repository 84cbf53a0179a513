"""One window of one budget as a value: what was spent, and what running calls may still spend.

Pure: every function takes a window and returns the next one with an answer, and may be called again on
another window when a write was lost. A settled hold leaves no trace but its sum, so settling twice does
nothing. `budgets` keeps these in the store; limits are given with each question and not kept here.
"""

from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from mcp_agents.kernel.messages import Spend

MAX_HOLDS: Final = 4000
"""Calls that can be under way in one window; further ones wait. Keeps the record well below the store's limit."""

Verdict = Literal["held", "busy", "over"]
"""`over`: what is spent leaves too little room. `busy`: only other calls' holds are in the way."""


class Ceiling(NamedTuple):
    """The most that may be spent; None does not limit."""

    micro_usd: int | None = None
    tokens: int | None = None

    def admits(self, total: Spend) -> bool:
        """Whether a total stays within both."""
        return all(
            limit is None or part <= limit for part, limit in zip((total.micro_usd, total.tokens), self, strict=True)
        )


class Window(Struct, frozen=True, kw_only=True):
    """The stored record. `held` is the sum of `holds`, which are keyed `{execution_id}/{turn}`."""

    span: str
    ends: datetime | None = None
    spent: Spend = Spend()
    held: Spend = Spend()
    holds: dict[str, Spend] = {}
    v: int = 1


def reserve(window: Window, hold: str, worst: Spend, ceiling: Ceiling) -> tuple[Window, Verdict]:
    """Holds `worst` for a call, where it fits. The same call again replaces what it held."""
    earlier = window.holds.get(hold)
    if earlier == worst:
        return window, "held"
    if not ceiling.admits(window.spent + worst):
        return window, "over"
    others = window.held - (earlier or Spend())
    full = earlier is None and len(window.holds) >= MAX_HOLDS
    if full or not ceiling.admits(window.spent + others + worst):
        return window, "busy"
    return msgspec.structs.replace(window, held=others + worst, holds={**window.holds, hold: worst}), "held"


def settle(window: Window | None, hold: str, spent: Spend) -> tuple[Window | None, tuple[Spend, Spend] | None]:
    """Ends a hold and books what was really spent; answers with the sums before and after, or None: no such hold."""
    if window is None or hold not in window.holds:
        return window, None
    after = msgspec.structs.replace(_without(window, hold), spent=window.spent + spent)
    return after, (window.spent, after.spent)


def release(window: Window | None, hold: str) -> tuple[Window | None, bool]:
    """Ends a hold for which nothing was bought; answers whether there was one."""
    if window is None or hold not in window.holds:
        return window, False
    return _without(window, hold), True


def _without(window: Window, hold: str) -> Window:
    holds = {name: worst for name, worst in window.holds.items() if name != hold}
    return msgspec.structs.replace(window, held=window.held - window.holds[hold], holds=holds)
