"""Which models may answer, best first: a pure function of what they cost, how they do, and what is wished.

It reads no clock, no store and no settings, so the same inputs always give the same order, ties by the
configured one. In this order it counts: whether a model can be asked now, whether it holds the wished task,
the wished providers, the strategy, the configured place. Limits leave models out; nothing else does.

| strategy | first is |
| --- | --- |
| `cost_optimized` | the lowest blended price; unknown prices last |
| `performance_first` | the lowest measured latency; a model nobody has measured is tried when it is idle |
| `balanced` | the cheapest of those that answer in time and seldom fail |
| `reliability_first` | the highest measured success; unknown counts as 99 % |
| `task_specific` | the configured order, those that hold the task first |
| `load_balanced` | the fewest calls in flight, then the fewest recent calls |
| `failover_chain` | the order of the name |
| `model_specific` | the first of the name, and no other but its fallbacks |

Above it: the router, which brings the snapshot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.model import Price
from mcp_agents.kernel.routing import Routing, Strategy
from mcp_agents.models.health import Vitals
from mcp_agents.models.pricing import blended_per_1k

BALANCED_LATENCY_MS: Final = 30_000
BALANCED_SUCCESS: Final = 0.9
_UNKNOWN_SUCCESS: Final = 0.99
_SHOWN: Final = 4
"""A reason describes so many models that follow the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A model as it is weighed."""

    name: str
    provider: str = ""
    tasks: tuple[str, ...] = ()
    price: Price | None = None
    vitals: Vitals = field(default_factory=Vitals)

    @property
    def blended(self) -> float | None:
        """Micro-USD per 1,000 tokens; None when no price is known."""
        return blended_per_1k(self.price) if self.price else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """`order`, best first and never empty; `left_out`: a model and the limit that it does not keep."""

    order: tuple[Option, ...]
    left_out: tuple[tuple[str, str], ...]
    strategy: Strategy
    reason: str


def rank(
    pool: Sequence[Option], fallbacks: Sequence[Option], strategy: Strategy, task: str, routing: Routing
) -> Ranking:
    """The models of a name in order, with the fallbacks right behind the first.

    `pool` stands in the name's own order; `fallbacks` may repeat models of it. A `strategy` or `task_type` of
    `routing` goes before the name's. Raises `Invalid` (MODEL_NONE_FITS) when the limits leave nothing.
    """
    strategy, task = routing.strategy or strategy, routing.task_type or task
    if strategy == "model_specific":
        pool = pool[:1]
    everything = list({option.name: option for option in (*pool, *fallbacks)}.values())
    left_out = tuple((option.name, why) for option in everything if (why := _objection(option, routing)))
    outside = {name for name, _ in left_out}
    ranked = sorted(
        (option for option in pool if option.name not in outside), key=lambda each: _key(each, strategy, task, routing)
    )
    spare = [option for option in fallbacks if option.name not in outside]
    order = list({option.name: option for option in (*ranked[:1], *spare, *ranked[1:])}.values())
    if not order:
        raise _none_fits(left_out)
    order.sort(key=lambda option: option.vitals.ready_in_ms)  # stable: those that can be asked now keep their order
    return Ranking(
        order=tuple(order), left_out=left_out, strategy=strategy, reason=_reason(order, left_out, strategy, task)
    )


def facts(option: Option) -> str:
    """What is known of a model, in words: price, latency, success, load, and why it cannot be asked now."""
    vitals = option.vitals
    parts = [
        "price unknown" if option.blended is None else f"{option.blended:g} micro-USD per 1k tokens",
        "latency unknown" if vitals.latency_ms is None else f"{vitals.latency_ms:.0f} ms",
        "success unknown" if vitals.success is None else f"{vitals.success:.1%} success",
    ]
    if vitals.in_flight:
        parts.append(f"{vitals.in_flight} in flight")
    if vitals.ready_in_ms:
        because = f" after {vitals.last_error}" if vitals.last_error else ""
        parts.append(f"{vitals.state}{because}, ready in {vitals.ready_in_ms / 1000:.3g} s")
    return ", ".join(parts)


def _objection(option: Option, routing: Routing) -> str:
    """The limit that a model does not keep, or "". An unmeasured latency keeps every limit, an unknown price none."""
    limit = routing.max_cost_per_1k_tokens
    if limit is not None and option.blended is None:
        return f"its price is not known, and max_cost_per_1k_tokens is {limit}"
    if limit is not None and option.blended is not None and option.blended > limit:
        return f"it costs {option.blended:g} micro-USD per 1k tokens, and max_cost_per_1k_tokens is {limit}"
    latency, longest = option.vitals.latency_ms, routing.max_latency_ms
    if latency is not None and longest is not None and latency > longest:
        return f"it answers in {latency:.0f} ms, and max_latency_ms is {longest}"
    return ""


def _key(option: Option, strategy: Strategy, task: str, routing: Routing) -> tuple[float, ...]:
    preferred = routing.preferred_providers
    place = preferred.index(option.provider) if option.provider in preferred else len(preferred)
    lacks_task = bool(task) and task not in option.tasks
    return (option.vitals.ready_in_ms > 0, lacks_task, place, *_MEASURES[strategy](option))


def _cost(option: Option) -> tuple[float, ...]:
    return (inf if option.blended is None else option.blended,)


def _speed(option: Option) -> tuple[float, ...]:
    latency = option.vitals.latency_ms
    if latency is None:
        return (2 if option.vitals.in_flight else 0, 0.0)
    return (1, latency)


def _balance(option: Option) -> tuple[float, ...]:
    vitals = option.vitals
    slow = vitals.latency_ms is not None and vitals.latency_ms > BALANCED_LATENCY_MS
    weak = vitals.success is not None and vitals.success < BALANCED_SUCCESS
    return (slow or weak, *_cost(option))


def _reliability(option: Option) -> tuple[float, ...]:
    success = option.vitals.success
    return (-(_UNKNOWN_SUCCESS if success is None else success),)


def _load(option: Option) -> tuple[float, ...]:
    return (option.vitals.in_flight, option.vitals.recent)


def _configured(option: Option) -> tuple[float, ...]:
    return ()


_MEASURES: Final[dict[Strategy, Callable[[Option], tuple[float, ...]]]] = {
    "cost_optimized": _cost,
    "performance_first": _speed,
    "balanced": _balance,
    "reliability_first": _reliability,
    "task_specific": _configured,
    "load_balanced": _load,
    "failover_chain": _configured,
    "model_specific": _configured,
}


def _reason(order: list[Option], left_out: tuple[tuple[str, str], ...], strategy: Strategy, task: str) -> str:
    first, *rest = order
    said = f"{strategy}{f' for {task}' if task else ''}: {first.name} ({facts(first)})"
    if rest:
        said += "; then " + ", ".join(f"{option.name} ({facts(option)})" for option in rest[:_SHOWN])
    if len(rest) > _SHOWN:
        said += f" and {len(rest) - _SHOWN} more"
    if left_out:
        said += "; left out: " + ", ".join(f"{name} ({why})" for name, why in left_out)
    return said + "."


def _none_fits(left_out: tuple[tuple[str, str], ...]) -> Invalid:
    excluded = [f"{name}: {why}" for name, why in left_out]
    return Invalid(
        "MODEL_NONE_FITS",
        f"No model keeps the limits: {'; '.join(excluded)}.",
        "Raise the limit, or choose another virtual_model.",
        details={"excluded": excluded},
    )
