"""Whole runs against a provider of whose answers one in twenty goes wrong: how many of them succeed.

Each run is two model turns with one call of a built-in tool between them, accepted, recorded and followed as any.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import Run
from mcp_agents.kernel.tasks import background, together
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.soak.trial import URL
from tests.soak.work import caller
from tests.trials.faulty import Weather, serving

PART: Final = 0.05
_WIDTH: Final = 32
_Z: Final = 1.959964  # two-sided, 95 %


@dataclass(frozen=True)
class Tally:
    """How the runs ended, by status and code; what the provider did; how often an attempt was made again."""

    ends: Counter[str]
    requests: int
    met: Counter[str]
    again: int
    seconds: float

    @property
    def runs(self) -> int:
        """All of them."""
        return self.ends.total()

    @property
    def succeeded(self) -> float:
        """The part that completed."""
        return self.ends["completed"] / self.runs

    @property
    def at_least(self) -> float:
        """The lower end of the 95 % Wilson interval of that part."""
        return wilson(self.ends["completed"], self.runs)


def wilson(good: int, of: int) -> float:
    """The lower end of the 95 % Wilson score interval for `good` of `of`."""
    part, square = good / of, _Z * _Z
    middle = part + square / (2 * of)
    spread = _Z * math.sqrt(part * (1 - part) / of + square / (4 * of * of))
    return (middle - spread) / (1 + square / of)


async def trial(folder: Path, *, runs: int, seed: int) -> Tally:
    """So many runs, `_WIDTH` at a time."""
    weather = Weather(PART, seed)
    server, api_base = await serving(weather)
    async with server, open_house(_settings(folder, api_base), URL) as house, background() as working:
        working.start_soon(house.crew.work, 2)
        space = house.tenancy.of(caller("acme"))
        draft = AgentDraft.model_validate({"name": "worker", "virtual_model": "auto", "tools": ["builtin/state_get"]})
        await house.services.agents.create(space, draft)
        ends, left, began = Counter[str](), iter(range(runs)), perf_counter()

        async def lane() -> None:
            for number in left:
                run = await _run(house, number)
                ends[f"failed {run.problem.code}" if run.problem else run.status] += 1

        async with together() as tasks:
            for _ in range(_WIDTH):
                tasks.start_soon(lane)
        return Tally(ends, weather.requests, weather.met, weather.requests - 2 * runs, perf_counter() - began)


async def _run(house: House, number: int) -> Run:
    """One run; every other one is submitted, so that it goes through the queue."""
    principal = caller("acme")
    space, dispatcher = house.tenancy.of(principal), house.services.dispatcher
    order = Order(agent="worker", prompt=f"Work, {number}.", stream=False, submitted=number % 2 == 0)
    async with dispatcher.execute(space, principal, order, deltas=False) as (execution_id, updates):
        entries = [entry async for update in updates if isinstance(update, list) for entry in update]
    return Run.folded(execution_id, entries)


def _settings(folder: Path, api_base: str) -> Settings:
    """Two deployments of one provider, as who wants to be served well has them."""
    model: dict[str, Any] = {"litellm_model": "openai/scripted", "api_base": api_base}
    free = {"input_micro_usd_per_mtok": 0, "output_micro_usd_per_mtok": 0}
    return Settings.model_validate(
        {
            "server": {"data_dir": str(folder), "concurrency": 4 * _WIDTH},
            "nats": {"sync": "interval"},
            "models": [{"name": name, **model, **free} for name in ("one", "two")],
        }
    )
