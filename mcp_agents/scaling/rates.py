"""Fills the kernel's `Rates`: minutes by the clock, each with a counter in the store that processes take slices of.

A process counts down its slice without asking, and takes another when it is used up: a sixteenth of the limit each
time, so that a limit costs a handful of writes a minute, however many calls it counts. A process that dies strands what
it had taken for the rest of the minute: less is let through then, never more. Over the border of two minutes as much as
both allow can come at once.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Exhausted, Unavailable, WrongRevision
from mcp_agents.kernel.rates import Kind
from mcp_agents.kernel.tenancy import PlatformSpace

WINDOW: Final = 60
_SLICES: Final = 16
_KEPT: Final = 20_000
_TRIES: Final = 64


class Taken(Struct, frozen=True, kw_only=True):
    """How much of a minute's limit processes have taken."""

    v: int = 1
    count: int


@dataclass(slots=True)
class _Part:
    """What this process has left of one limit in one minute; `dry`: there is no more to take."""

    window: int
    left: int = 0
    dry: bool = False
    taking: anyio.Lock = field(default_factory=anyio.Lock)


class SharedRates:
    """Limits per minute by kind; one that is 0 or not named is off, and costs nothing."""

    def __init__(self, platform: PlatformSpace, limits: Mapping[Kind, int], clock: Clock) -> None:
        self._counters = platform.records("cb_leases", "_rate", kind=Taken)
        self._limits, self._clock = dict(limits), clock
        self._parts: OrderedDict[tuple[Kind, str], _Part] = OrderedDict()

    async def take(self, kind: Kind, who: str) -> None:
        """See the port."""
        limit = self._limits.get(kind, 0)
        if not limit:
            return
        now = self._clock.now().timestamp()
        part = self._part(kind, who, int(now // WINDOW))
        if not part.left and not part.dry:
            async with part.taking:
                if not part.left and not part.dry:
                    part.left = await self._slice(kind, who, part.window, limit)
                    part.dry = not part.left
        if not part.left:
            raise _limited(now)
        part.left -= 1

    def _part(self, kind: Kind, who: str, window: int) -> _Part:
        part = self._parts.get((kind, who))
        if part is None or part.window != window:
            part = self._parts[kind, who] = _Part(window)
            if len(self._parts) > _KEPT:
                self._parts.popitem(last=False)
        self._parts.move_to_end((kind, who))
        return part

    async def _slice(self, kind: Kind, who: str, window: int, limit: int) -> int:
        """Takes a slice of what is left in the store, or 0 when nothing is."""
        key = kind, hashlib.sha256(who.encode()).hexdigest()[:32], str(window)
        for _ in range(_TRIES):
            found = await self._counters.get(*key)
            count = found.value.count if found else 0
            size = min(max(1, limit // _SLICES), limit - count)
            if size <= 0:
                return 0
            try:
                await self._counters.update(
                    *key, value=Taken(count=count + size), revision=found.revision if found else 0, ttl=2 * WINDOW
                )
            except WrongRevision:
                continue
            return size
        raise Unavailable("BUSY", "Too many requests at once.", "Try again.")


def _limited(now: float) -> Exhausted:
    wait = WINDOW - now % WINDOW
    return Exhausted(
        "RATE_LIMITED",
        "Too many requests in this minute.",
        "Wait as long as Retry-After says; the operator sets the limits in [limits].",
        retry_after_ms=max(1, int(wait * 1000)),
    )
