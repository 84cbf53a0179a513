"""A clock that moves only when a test says so."""

from datetime import UTC, datetime, timedelta

from mcp_agents.kernel.clock import SystemClock


class TestClock:
    """Starts at a fixed moment; `advance` moves both of its times."""

    __test__ = False

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, 12, tzinfo=UTC)
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


class AheadClock(SystemClock):
    """The machine's time, as far ahead of it as a test says: for a house whose store has a clock of its own."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._ahead)

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass at once."""
        self._ahead += seconds
