"""How the models do: measured latency and success, calls in flight, and a breaker for each.

In this process only, and forgetting: a measurement weighs half as much after five minutes, and what weighs too
little is unknown again. A lane is a model under one key: what a tenant's own key meets never counts against
the model of everybody else.

The breaker: closed → open after five failures in a row, or when half of at least ten recent calls failed → after
a while half open: one call is let through, and its end closes the breaker or opens it for twice as long. A
refused key, a used-up quota and an unknown model open it at once. A model that says it takes no more requests
cools for as long as it says; that is no failure. Which error does what stands in `reactions`.

Above it: the router. Below: the kernel's clock.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.models.reactions import reaction

FAILURES_IN_A_ROW: Final = 5
RATIO: Final = 0.5
RATIO_CALLS: Final = 10
OPEN_SECONDS: Final = 15.0
OPEN_LONGEST: Final = 300.0
PROBE_WAIT_MS: Final = 1000
"""After this time those who wait for somebody else's probe look again."""
FAIR_SECONDS: Final = 30.0
"""A call that was given less time than this is not held against the model when it runs out of it."""

_HALF_LIFE: Final = 300.0
_KNOWN: Final = 0.5
_JUDGED: Final = 2.5
"""A share of successes takes about three recent calls; one failure alone says little."""
_MEMORY: Final = 20.0
"""A new measurement weighs at least a twenty-first."""
_LANES: Final = 10_000

State = Literal["closed", "open", "half_open", "cooling"]


class Lane(NamedTuple):
    """A model by name, and whose key it is asked with; "" for the operator's."""

    model: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """A lane at one moment; None is unknown.

    `ready_in_ms` is 0 when it may be asked now. `recent` is the decayed number of calls that were begun.
    """

    state: State = "closed"
    ready_in_ms: int = 0
    latency_ms: float | None = None
    first_token_ms: float | None = None
    success: float | None = None
    in_flight: int = 0
    recent: float = 0.0
    last_error: str = ""


def _decayed(weight: float, seconds: float) -> float:
    return weight * math.pow(2, -max(0.0, seconds) / _HALF_LIFE)


@dataclass(slots=True)
class _Average:
    """An exponentially weighted average whose weight decays with time."""

    value: float = 0.0
    weight: float = 0.0
    at: float = 0.0

    def now(self, moment: float) -> float:
        """What it weighs at a moment."""
        return _decayed(self.weight, moment - self.at)

    def add(self, value: float, moment: float) -> None:
        weight = min(_MEMORY, self.now(moment))
        self.value = (self.value * weight + value) / (weight + 1)
        self.weight, self.at = weight + 1, moment

    def known(self, moment: float, least: float = _KNOWN) -> float | None:
        """The average, or None when less than `least` of what it was made of still counts."""
        return self.value if self.now(moment) >= least else None


@dataclass(slots=True)
class _Count:
    """A number that decays with time."""

    weight: float = 0.0
    at: float = 0.0

    def now(self, moment: float) -> float:
        return _decayed(self.weight, moment - self.at)

    def add(self, moment: float) -> None:
        self.weight, self.at = self.now(moment) + 1, moment


@dataclass(slots=True)
class _State:
    """What is known of one lane. `open_until` is None while the breaker is closed."""

    latency: _Average = field(default_factory=_Average)
    first_token: _Average = field(default_factory=_Average)
    success: _Average = field(default_factory=_Average)
    outcomes: _Average = field(default_factory=_Average)
    begun: _Count = field(default_factory=_Count)
    in_flight: int = 0
    in_a_row: int = 0
    opened: int = 0
    open_until: float | None = None
    probing: bool = False
    cool_until: float = 0.0
    last_error: str = ""

    def state(self, moment: float) -> State:
        if self.open_until is not None:
            return "open" if self.open_until > moment else "half_open"
        return "cooling" if self.cool_until > moment else "closed"

    def ready_in_ms(self, moment: float) -> int:
        left = max(self.open_until or 0.0, self.cool_until) - moment
        if left > 0:
            return max(1, round(left * 1000))
        return PROBE_WAIT_MS if self.probing else 0

    def open(self, moment: float, seconds: float) -> None:
        self.opened += 1
        longer = min(OPEN_LONGEST, OPEN_SECONDS * 2 ** min(self.opened - 1, 10))
        self.open_until = moment + max(seconds, longer)

    def close(self) -> None:
        self.open_until, self.opened, self.in_a_row = None, 0, 0
        self.outcomes, self.last_error = _Average(), ""


class Attempt:
    """One call under way. Exactly one of its ends is noted: answered, failed, or neither when it was given up."""

    def __init__(self, state: _State, clock: Clock, *, fair: bool) -> None:
        self._state, self._clock, self._fair = state, clock, fair
        self._began = clock.monotonic()
        self._first: float | None = None
        self._probe = state.state(self._began) == "half_open" and not state.probing
        state.probing = state.probing or self._probe
        state.in_flight += 1
        state.begun.add(self._began)

    def spoke(self) -> None:
        """A piece of text came."""
        if self._first is None:
            self._first = self._clock.monotonic()

    def answered(self) -> None:
        """The whole answer came."""
        state, now = self._state, self._clock.monotonic()
        state.latency.add((now - self._began) * 1000, now)
        state.first_token.add(((self._first or now) - self._began) * 1000, now)
        state.success.add(1.0, now)
        state.outcomes.add(1.0, now)
        state.in_a_row = 0
        if self._probe:
            state.close()

    def failed(self, error: AgentsError) -> None:
        """It ended with this error."""
        row = reaction(error.code)
        state, now = self._state, self._clock.monotonic()
        if row.effect == "none" or (error.code == "MODEL_TIMEOUT" and not self._fair):
            return
        state.last_error = error.code
        if row.effect == "cooling":
            said = row.rest_seconds if error.retry_after_ms is None else error.retry_after_ms / 1000
            state.cool_until = max(state.cool_until, now + said)
            if self._probe:  # it answers, so it is there again
                state.close()
            return
        state.success.add(0.0, now)
        state.outcomes.add(0.0, now)
        state.in_a_row += 1
        if state.open_until is None or self._probe:
            self._judge(row.rest_seconds, now)

    def _judge(self, rest: float, now: float) -> None:
        outcomes = self._state.outcomes
        many = outcomes.weight >= RATIO_CALLS and outcomes.value <= RATIO
        if self._probe or rest or many or self._state.in_a_row >= FAILURES_IN_A_ROW:
            self._state.open(now, rest)

    def over(self) -> None:
        """Whatever its end was."""
        self._state.in_flight -= 1
        if self._probe:
            self._state.probing = False


class HealthBoard:
    """The lanes of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: OrderedDict[Lane, _State] = OrderedDict()

    def vitals(self, lane: Lane) -> Vitals:
        """The lane as it is now; a lane that nobody asked yet is closed and unknown."""
        state = self._lanes.get(lane)
        if state is None:
            return Vitals()
        now = self._clock.monotonic()
        return Vitals(
            state=state.state(now),
            ready_in_ms=state.ready_in_ms(now),
            latency_ms=state.latency.known(now),
            first_token_ms=state.first_token.known(now),
            success=state.success.known(now, _JUDGED),
            in_flight=state.in_flight,
            recent=state.begun.now(now),
            last_error=state.last_error,
        )

    @contextmanager
    def attempt(self, lane: Lane, seconds: float) -> Iterator[Attempt]:
        """Measures one call that is given `seconds`. An error of the house that leaves the block is its failure."""
        attempt = Attempt(self._lane(lane), self._clock, fair=seconds >= FAIR_SECONDS)
        try:
            yield attempt
        except AgentsError as error:
            attempt.failed(error)
            raise
        finally:
            attempt.over()

    def _lane(self, lane: Lane) -> _State:
        state = self._lanes.setdefault(lane, _State())
        self._lanes.move_to_end(lane)
        if len(self._lanes) > _LANES:
            self._lanes.popitem(last=False)
        return state
