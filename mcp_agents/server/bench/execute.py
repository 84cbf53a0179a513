"""`bench execute`: whole runs beside their floors, in process and over HTTP, MCP and OAuth, with full sync.

All figures of one report are measured in one go on one machine, in rounds that take turns; only their ratios
say something elsewhere.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from mcp_agents.kernel.model import Model
from mcp_agents.server.bench.floors import TOKENS, bare_loop, streamed, streamed_bare
from mcp_agents.server.bench.inside import Inside, Sync, inside, written
from mcp_agents.server.bench.load import Rates, RawClient, Sample, Way, drive, interleaved
from mcp_agents.server.bench.machine import child
from mcp_agents.server.bench.report import Figures, Report, Target, at_least, at_most, ratio
from mcp_agents.server.bench.served import Start, pool, served
from mcp_agents.server.compose import bare_models

_PROVIDER = "mcp_agents.server.bench.provider"
_ECHO = "echo on the bare SDK"
_SDK_LOOP = "bare loop behind the bare SDK"
_BARE = {"rule-based": "bare loop, rule-based", "direct": "bare loop, direct client", "litellm": "bare loop, litellm"}
_SERVED = {
    "rule": "served, rule-based",
    "builtin": "served, rule-based, built-in tool",
    "direct": "served, direct client",
    "litellm": "served, litellm",
}
_UNRECORDED = "in process, direct, no record"
_STREAM = {"bare": "stream, bare aiohttp", "direct": "stream, direct client", "litellm": "stream, litellm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: rounds of so many seconds, `width` calls at once, a crowd held in memory.

    `litellm`: its import alone takes seconds.
    """

    rounds: int = 3
    seconds: float = 4.0
    width: int = 32
    crowd: int = 200
    pickups: int = 200
    litellm: bool = True

    @staticmethod
    def quick(*, litellm: bool) -> "Plan":
        """Enough to see that everything runs; its figures are not to be quoted."""
        return Plan(rounds=1, seconds=0.2, width=8, crowd=10, pickups=5, litellm=litellm)

    def without(self, name: str) -> bool:
        """Whether this way is left out."""
        return "litellm" in name and not self.litellm


async def measure(plan: Plan) -> Report:
    """Measures everything once. Raises `Fault` when a call fails: a figure with errors in it is none."""
    with tempfile.TemporaryDirectory(prefix="mcp-agents-bench-") as scratch:
        folder = Path(scratch)
        async with child(_PROVIDER) as provider, bare_models(provider.line) as models:
            served_figures, served_targets = await _served(plan, folder / "served", provider.line)
            inside_figures, inside_targets = await _inside(plan, folder, provider.line, models)
        stream_figures, stream_targets = await _streams(plan)
    return Report(
        what=f"execute: {plan.rounds} rounds of {plan.seconds:g} s, {plan.width} wide; served with sync always",
        figures=(*served_figures, *inside_figures, *stream_figures),
        targets=(*served_targets, *inside_targets, *stream_targets),
    )


async def _served(plan: Plan, folder: Path, provider: str) -> tuple[list[Figures], list[Target]]:
    """The server beside an echo, and beside the bare loop, behind the bare SDK."""
    async with (
        served(folder, provider, "always") as (server, start),
        child("mcp_agents.server.bench.echo", provider) as sdk,
        pool() as http,
    ):
        bare = RawClient(http, sdk.line)
        ways = [
            Way(_ECHO, lambda: bare.call("echo", {"text": "hello"}), sdk.pid),
            Way(_SDK_LOOP, lambda: bare.call("loop", {}), sdk.pid),
            *(server.way(name, agent) for agent, name in _SERVED.items() if not plan.without(agent)),
        ]
        rates = await interleaved(ways, rounds=plan.rounds, seconds=plan.seconds, width=plan.width)
        own = await server.own("rule", plan.seconds * plan.rounds)
        alone = Figures(
            name="served, rule-based, own time, one at a time",
            runs_per_second=own.rate,
            p50_ms=own.percentile(50),
            p99_ms=own.percentile(99),
            writes=await server.writes("rule", plan.width * 4),
            kb_in_flight=await server.held(plan.crowd),
        )
    figures = [Figures.of(name, found, rates[_ECHO]) for name, found in rates.items()]
    return [*figures, alone], [*_held_to(rates), *_alone(alone, own, start)]


def _held_to(rates: dict[str, Rates]) -> list[Target]:
    rule, direct = rates[_SERVED["rule"]], rates[_SERVED["direct"]]
    return [
        at_least("runs/s over HTTP, MCP and OAuth, direct client", median(direct.per_second), 300),
        at_least(
            "the same against the bare loop behind the SDK",
            ratio(direct.per_second, rates[_SDK_LOOP].per_second),
            0.4,
            floor=f"{median(rates[_SDK_LOOP].per_second):.0f}/s",
        ),
        at_least(
            "agent_execute against the echo",
            ratio(rule.per_second, rates[_ECHO].per_second),
            0.30,
            floor=f"{median(rates[_ECHO].per_second):.0f}/s",
        ),
    ]


def _alone(figures: Figures, own: Sample, start: Start) -> list[Target]:
    return [
        at_most("own time, p50", own.percentile(50), 8, "ms"),
        at_most("own time, p99", own.percentile(99), 25, "ms"),
        at_most("memory of a run in flight, served", figures.kb_in_flight or 0, 40, "KB"),
        at_most("start of serve to its first answer, warm", start.seconds, 2, "s"),
        at_most("memory of serve after it", start.kb / 1024, 120, "MB"),
    ]


async def _inside(
    plan: Plan, folder: Path, provider: str, models: dict[str, Model]
) -> tuple[list[Figures], list[Target]]:
    """Durable runs in this process, beside the bare loop and beside themselves without a record."""
    async with _houses(folder, provider, plan.width) as houses:
        ways = [Way(name, partial(bare_loop, models[key]), os.getpid()) for key, name in _BARE.items()]
        ways += [Way(_named(key), partial(house.run, "direct"), os.getpid()) for key, house in houses.items()]
        ways.append(Way("in process, litellm, interval", partial(houses["interval"].run, "litellm"), os.getpid()))
        ways = [way for way in ways if not plan.without(way.name)]
        rates = await interleaved(ways, rounds=plan.rounds, seconds=plan.seconds, width=plan.width)
        runs = plan.width * 4
        before = await written(houses["always"].house)
        await drive(runs, plan.width, lambda: houses["always"].run("direct"))
        writes = (await written(houses["always"].house) - before) / runs
        waits = Sample(1, [await houses["always"].picked_up() for _ in range(plan.pickups)])
    figures = [Figures.of(name, found) for name, found in rates.items()]
    figures.append(
        Figures(
            name="a submitted run's pick-up by an idle worker",
            runs_per_second=0,
            p50_ms=waits.percentile(50),
            p99_ms=waits.percentile(99),
            writes=writes,
        )
    )
    targets = [
        at_least(
            f"runs/s in process, direct client, {sync}",
            median(rates[_named(sync)].per_second),
            bound,
            floor=f"bare {median(rates[_BARE['direct']].per_second):.0f}/s",
        )
        for sync, bound in (("interval", 500), ("always", 250))
    ]
    price = ratio(rates[_named("always")].cpu_ms, rates[_UNRECORDED].cpu_ms)
    targets.append(at_most("price of durability in CPU", price, 1.5, "times", f"{rates[_UNRECORDED].cpu_ms[0]:.1f} ms"))
    if plan.litellm:
        bare, own = rates[_BARE["litellm"]], rates["in process, litellm, interval"]
        through = ratio(own.per_second, bare.per_second)
        floor = f"{median(bare.per_second):.0f}/s"
        targets.append(at_least("runs/s through litellm against the bare litellm loop", through, 0.85, floor=floor))
    return figures, [*targets, at_most("pick-up by an idle worker, p99", waits.percentile(99), 10, "ms")]


@asynccontextmanager
async def _houses(folder: Path, provider: str, width: int) -> AsyncIterator[dict[str, Inside]]:
    """The same house three times: full sync, sync at an interval, and no record at all."""
    kinds: dict[str, tuple[Sync, bool]] = {
        "always": ("always", True),
        "interval": ("interval", True),
        "unrecorded": ("interval", False),
    }
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(
                inside(folder / name, provider, sync=sync, width=width * 2, record=record)
            )
            for name, (sync, record) in kinds.items()
        }


def _named(key: str) -> str:
    return _UNRECORDED if key == "unrecorded" else f"in process, direct, {key}"


async def _streams(plan: Plan) -> tuple[list[Figures], list[Target]]:
    """Answers of many tokens, each sent on its own, with every delta delivered."""
    tokens = str(TOKENS)
    async with (
        child(_PROVIDER, "--tokens", tokens, "--apart") as provider,
        bare_models(provider.line) as models,
        pool() as http,
    ):
        ways = [Way(_STREAM["bare"], lambda: streamed_bare(http, provider.line), os.getpid())]
        ways += [
            Way(_STREAM[key], partial(streamed, models[key]), os.getpid())
            for key in ("direct", "litellm")
            if not plan.without(key)
        ]
        rates = await interleaved(ways, rounds=plan.rounds, seconds=plan.seconds / 2, width=plan.width)
    # A provider that sends every token alone is slower than the client: what a core can do is in its CPU time.
    per_core = {name: [TOKENS * 1000 / ms for ms in found.cpu_ms] for name, found in rates.items()}
    direct, bare = per_core[_STREAM["direct"]], per_core[_STREAM["bare"]]
    floor = f"{median(bare):.0f}/s"
    targets = [at_least("streamed tokens/s per core against bare aiohttp", ratio(direct, bare), 0.3, floor=floor)]
    if plan.litellm:
        litellm = per_core[_STREAM["litellm"]]
        floor = f"{median(litellm):.0f}/s"
        targets.append(
            at_least("streamed tokens/s per core against litellm", ratio(direct, litellm), 50, "times", floor=floor)
        )
    return [Figures.of(name, found) for name, found in rates.items()], targets
