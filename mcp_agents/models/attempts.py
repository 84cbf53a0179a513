"""Where a call goes next after an attempt that failed: one rule over candidates, health and time.

A healthy candidate that was not tried comes first and at once; then a tried one again, after a growing pause
with jitter (tenacity's); then whichever is ready soonest, if that is soon. It makes no calls and sleeps
nowhere. Above it: the router, which does both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tenacity import RetryCallState, wait_exponential_jitter

from mcp_agents.kernel.errors import AgentsError, Unavailable
from mcp_agents.kernel.model import Price
from mcp_agents.models.catalog import ConfiguredModel
from mcp_agents.models.health import Vitals
from mcp_agents.models.reactions import reaction

ATTEMPTS: Final = 4
LONGEST_WAIT: Final = 60.0
"""Seconds that a call waits for a model; what takes longer is the caller's to decide."""
_backoff: Final = wait_exponential_jitter(multiplier=0.5, max=20.0, exp_base=2, jitter=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model that may answer, what it costs, and what was known of it when it was chosen."""

    model: ConfiguredModel
    price: Price | None
    facts: str = ""

    @property
    def name(self) -> str:
        """Our name of the model."""
        return self.model.name

    @property
    def window(self) -> int:
        """Tokens it can read; 0 when nobody said."""
        return (self.price.context_window if self.price else self.model.context_window) or 0


@dataclass(frozen=True, slots=True)
class Move:
    """The candidate to ask, and after how many seconds."""

    candidate: Candidate
    wait: float


class Trail:
    """The attempts of one call: who is left, who was tried."""

    def __init__(self, candidates: Sequence[Candidate], vitals: Callable[[Candidate], Vitals]) -> None:
        self._left = list(candidates)
        self._vitals = vitals
        self._tried: set[str] = set()

    def note(self, candidate: Candidate, error: AgentsError) -> None:
        """Takes out whom an error leaves no chance. Raises it when nobody is left."""
        self._tried.add(candidate.name)
        match reaction(error.code).then:
            case "nowhere":
                raise error
            case "elsewhere":
                self._left = [other for other in self._left if other.name != candidate.name]
            case "larger":
                self._left = [other for other in self._left if candidate.window and other.window > candidate.window]
            case "anywhere":
                pass
        if not self._left:
            raise error

    def move(self, pause: float = 0.0) -> Move:
        """The next candidate; `pause` is how long a tried one is left alone at least."""
        ready = [candidate for candidate in self._left if not self._vitals(candidate).ready_in_ms]
        for candidate in ready:
            if candidate.name not in self._tried:
                return Move(candidate, 0.0)
        if ready:
            return Move(ready[0], pause)
        soonest = min(self._left, key=self._ready_in)
        wait = self._ready_in(soonest)
        return Move(soonest, max(wait, pause) if soonest.name in self._tried else wait)

    def _ready_in(self, candidate: Candidate) -> float:
        return self._vitals(candidate).ready_in_ms / 1000

    def resting(self, wait: float) -> Unavailable:
        """The refusal when everybody left is open or cooling for too long."""
        why = "; ".join(
            f"{candidate.name}: {vitals.last_error or vitals.state}, ready in {vitals.ready_in_ms / 1000:.3g} s"
            for candidate in self._left
            if (vitals := self._vitals(candidate)).ready_in_ms
        )
        return Unavailable(
            "MODELS_RESTING",
            f"No model that fits can be asked now ({why}).",
            "Try again later, or choose another virtual_model or fallback_models.",
            retry_after_ms=round(wait * 1000),
        )


def pause_after(attempt: RetryCallState) -> float:
    """Seconds to leave a model alone after this attempt: half, doubled each time, and up to half of jitter."""
    return _backoff(attempt)
