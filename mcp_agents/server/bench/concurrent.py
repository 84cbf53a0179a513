"""`bench concurrent`: many runs in flight at once in one process, against a provider that takes its time.

Each crowd is one burst of whole runs, two model turns with one call of a built-in tool between them. All of
them finish, or there is no figure.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mcp_agents.kernel.errors import Exhausted
from mcp_agents.server.bench.inside import Inside, Sync, inside
from mcp_agents.server.bench.load import drive
from mcp_agents.server.bench.machine import child, cpu_seconds, growth, many_files
from mcp_agents.server.bench.report import Figures, Report, Target, at_least, at_most

_SYNCS: tuple[Sync, ...] = ("always", "interval")
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


async def measure(plan: Plan) -> Report:
    """Measures every crowd with every client and both ways to sync. Raises `Fault` when a run fails."""
    most = max(plan.crowds)
    if many_files() < most + 1000:
        raise Exhausted(
            "BENCH_FILES", f"{most} runs at once need as many open files.", f"Raise the limit: ulimit -n {most * 2}."
        )
    figures: dict[tuple[str, Sync, int], Figures] = {}
    with tempfile.TemporaryDirectory(prefix="mcp-agents-bench-") as scratch:
        async with child("mcp_agents.server.bench.provider", "--latency", str(plan.latency)) as provider:
            for model in ("direct", "litellm") if plan.litellm else ("direct",):
                for sync in _SYNCS:
                    for crowd in plan.crowds:
                        if model == "litellm" and crowd > _MOST_THROUGH_LITELLM:
                            continue
                        folder = Path(scratch) / f"{model}-{sync}-{crowd}"
                        async with inside(folder, provider.line, sync=sync, width=crowd) as house:
                            figures[model, sync, crowd] = await _burst(house, model, sync, crowd)
    return Report(
        what=f"concurrent: bursts against a provider that takes {plan.latency:g} s for each of two answers",
        figures=tuple(figures.values()),
        targets=tuple(_targets(figures["direct", "interval", most], most)),
    )


async def _burst(house: Inside, model: str, sync: Sync, crowd: int) -> Figures:
    """So many runs at once, from nothing to the last one's end."""
    pid = os.getpid()
    await drive(1, 1, lambda: house.run(model))
    used = cpu_seconds(pid)
    async with growth(pid) as grown:
        sample = await drive(crowd, crowd, lambda: house.run(model))
    return Figures(
        name=f"{crowd:,} in flight, {model}, {sync}",
        runs_per_second=sample.rate,
        cpu_ms=(cpu_seconds(pid) - used) / crowd * 1000,
        p50_ms=sample.percentile(50),
        p99_ms=sample.percentile(99),
        kb_in_flight=grown.kb / crowd,
    )


def _targets(largest: Figures, crowd: int) -> list[Target]:
    return [
        at_least("runs in flight at once, all finished", crowd, _MOST),
        at_least(f"runs/s with {crowd:,} in flight, interval", largest.runs_per_second, 400),
        at_most(f"memory of a run with {crowd:,} in flight, interval", largest.kb_in_flight or 0, 40, "KB"),
    ]
