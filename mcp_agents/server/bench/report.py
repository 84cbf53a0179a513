"""What a benchmark found: ways of running side by side, and the targets they are held to."""

from collections.abc import Iterable
from statistics import median
from typing import Literal

from msgspec import Struct
from rich.table import Table

from mcp_agents.server.bench.load import Rates


class Figures(Struct, frozen=True, kw_only=True):
    """One way of running. Milliseconds, runs a second, kilobytes; None where it was not measured.

    `cpu_ms` is the processor time of the measured process for one run, so that 1000 / `cpu_ms` is what one core
    can do when nothing else keeps it. `of_echo` is the part of the bare SDK's rate, from the same rounds.
    """

    name: str
    runs_per_second: float
    cpu_ms: float | None = None
    of_echo: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    writes: float | None = None
    kb_in_flight: float | None = None

    @staticmethod
    def of(name: str, rates: Rates, echo: Rates | None = None) -> "Figures":
        """The medians over the rounds."""
        return Figures(
            name=name,
            runs_per_second=median(rates.per_second),
            cpu_ms=median(rates.cpu_ms),
            of_echo=ratio(rates.per_second, echo.per_second) if echo else None,
        )


class Target(Struct, frozen=True, kw_only=True):
    """One figure that was promised, what was found, and the floor it stands beside, where it has one."""

    figure: str
    found: float
    unit: str
    bound: float
    sense: Literal["at least", "at most"]
    floor: str = ""

    @property
    def met(self) -> bool:
        """Whether it was kept."""
        return self.found >= self.bound if self.sense == "at least" else self.found <= self.bound


class Report(Struct, frozen=True, kw_only=True):
    """One report; everything in it was measured in one go on one machine."""

    what: str
    figures: tuple[Figures, ...]
    targets: tuple[Target, ...]

    @property
    def missed(self) -> tuple[Target, ...]:
        """The targets that were not met."""
        return tuple(target for target in self.targets if not target.met)


def at_least(figure: str, found: float, bound: float, unit: str = "", floor: str = "") -> Target:
    """A target that more is better for."""
    return Target(figure=figure, found=found, unit=unit, bound=bound, sense="at least", floor=floor)


def at_most(figure: str, found: float, bound: float, unit: str = "", floor: str = "") -> Target:
    """A target that less is better for."""
    return Target(figure=figure, found=found, unit=unit, bound=bound, sense="at most", floor=floor)


def ratio(over: Iterable[float], under: Iterable[float]) -> float:
    """The median of the rounds' ratios: what disturbed a round disturbed both of its halves."""
    return median(one / other for one, other in zip(over, under, strict=True))


def tables(report: Report) -> tuple[Table, Table]:
    """The ways and the targets, for a person."""
    ways = Table(title=report.what)
    columns = ("", "runs/s", "CPU ms", "of echo", "p50 ms", "p99 ms", "writes/run", "KB in flight")
    for column in columns:
        ways.add_column(column, justify="left" if not column else "right")
    for each in report.figures:
        values = (each.cpu_ms, each.of_echo, each.p50_ms, each.p99_ms, each.writes, each.kb_in_flight)
        ways.add_row(each.name, f"{each.runs_per_second:.0f}", *map(_shown, values))
    targets = Table(title="targets")
    for column in ("", "found", "target", "", "floor"):
        targets.add_column(column, justify="right" if column in ("found", "target") else "left")
    for target in report.targets:
        sign = "≥" if target.sense == "at least" else "≤"
        verdict = "met" if target.met else "missed"
        found = f"{_shown(target.found)} {target.unit}".strip()
        targets.add_row(target.figure, found, f"{sign} {target.bound:g} {target.unit}".strip(), verdict, target.floor)
    return ways, targets


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"
