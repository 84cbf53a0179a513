"""Time as a port, so that tests own it. UTC only."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the house asks of time."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
