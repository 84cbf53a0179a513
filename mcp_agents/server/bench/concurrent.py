"""`bench concurrent`: many runs in flight at once in one process, against a provider that takes its time.

Each crowd is one burst of whole runs, two model turns with one call of a built-in tool between them. All of
them finish, or there is no figure.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import msgspec

from mcp_agents.kernel.errors import Exhausted
from mcp_agents.server.bench.machine import child, many_files
from mcp_agents.server.bench.report import Figures, Report, Target, at_least, at_most

_MOST_THROUGH_LITELLM = 1000
"""Beyond it, it is litellm's clients that are measured."""
_MOST = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Crowds in flight at once, against answers that each take `latency` seconds."""

    crowds: tuple[int, ...] = (1, 32, 1000, _MOST)
    latency: float = 1.0
    litellm: bool = True

    @staticmethod
    def quick(*, litellm: bool) -> "Plan":
        """Enough to see that everything runs; its figures are not to be quoted."""
        return Plan(crowds=(1, 8), latency=0.05, litellm=litellm)

    def bursts(self) -> Iterator[tuple[str, str, int]]:
        """Every client, way to sync and crowd that is measured."""
        for model, sync, crowd in product(("direct", "litellm"), ("always", "interval"), self.crowds):
            if model == "direct" or (self.litellm and crowd <= _MOST_THROUGH_LITELLM):
                yield model, sync, crowd


async def measure(plan: Plan) -> Report:
    """Measures every crowd with every client and both ways to sync. Raises `Fault` when a run fails."""
    most = max(plan.crowds)
    if many_files() < most + 1000:
        raise Exhausted(
            "BENCH_FILES", f"{most} runs at once need as many open files.", f"Raise the limit: ulimit -n {most * 2}."
        )
    figures: dict[tuple[str, str, int], Figures] = {}
    with tempfile.TemporaryDirectory(prefix="mcp-agents-bench-") as scratch:
        async with child("mcp_agents.server.bench.provider", "--latency", str(plan.latency)) as provider:
            for model, sync, crowd in plan.bursts():
                arguments = (f"{scratch}/{model}-{sync}-{crowd}", provider.line, model, sync, str(crowd))
                async with child("mcp_agents.server.bench.burst", *arguments) as burst:
                    figures[model, sync, crowd] = msgspec.json.decode(burst.line, type=Figures)
    return Report(
        what=f"concurrent: bursts against a provider that takes {plan.latency:g} s for each of two answers",
        figures=tuple(figures.values()),
        targets=tuple(_targets(figures["direct", "interval", most], most)),
    )


def _targets(largest: Figures, crowd: int) -> list[Target]:
    return [
        at_least("runs in flight at once, all finished", crowd, _MOST),
        at_least(f"runs/s with {crowd:,} in flight, interval", largest.runs_per_second, 400),
        at_most(f"memory of a run with {crowd:,} in flight, interval", largest.kb_in_flight or 0, 40, "KB"),
    ]
