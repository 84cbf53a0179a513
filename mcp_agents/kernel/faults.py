"""Fault points: named places where a test may let the process die. Production fills in nothing.

Every boundary between deciding, sending, receiving and recording calls `reach` once, so that a crash
test can hit each of them exactly once and deterministically.
"""

from typing import Protocol


class Faults(Protocol):
    """Told when execution reaches a named point."""

    def reach(self, point: str) -> None:
        """May not return at all. `point` reads like `append:Started:before`."""
        ...


class NoFaults:
    """The production answer: nothing happens."""

    def reach(self, point: str) -> None:
        return None
