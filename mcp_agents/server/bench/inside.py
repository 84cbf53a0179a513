"""Whole runs inside the benchmark's own process: accepted, recorded, carried out, followed; no HTTP, no MCP.

One run is two model turns over the HTTP provider with one call of a built-in tool between them.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.events import Entry, Requested, Started
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from mcp_agents.server.memory import settle_memory

Sync = Literal["always", "interval"]

PROMPT = "Please call state_get"
_TOOL = "builtin/state_get"
_CALLER = Principal(tenant="bench", subject="bench", scopes=TENANT_SCOPES, client="bench")
_WORKERS = 2
"""A worker begins runs itself only in half of its places, so that two of them can fill one's."""


@dataclass(frozen=True, slots=True)
class Inside:
    """An open house with its workers, and agents named after the models that they use."""

    house: House

    async def run(self, agent: str) -> None:
        """One run from its order to its end. Raises `Fault` unless it completed with the tool's result."""
        space = self.house.tenancy.of(_CALLER)
        order = Order(agent=agent, prompt=PROMPT, stream=False)
        async with self.house.services.dispatcher.execute(space, _CALLER, order, deltas=False) as (number, updates):
            entries = [entry async for update in updates if isinstance(update, list) for entry in update]
        run = Run.folded(number, entries)
        if run.status != "completed" or run.tool_call_count() != 1:
            raise Fault("BENCH_RUN", f"A run ended {run.status}: {run.problem.public if run.problem else run.text}")

    async def picked_up(self) -> float:
        """Seconds from the acceptance of a submitted run to its start by an idle worker."""
        space = self.house.tenancy.of(_CALLER)
        order = Order(agent="rule-based", prompt=PROMPT, stream=False, submitted=True)
        number = await self.house.services.dispatcher.submit(space, _CALLER, order)
        seen: list[Entry] = []
        async with self.house.services.dispatcher.follow(space, number, deltas=False) as updates:
            async for update in updates:
                seen += update if isinstance(update, list) else []
        began = next(entry.at for entry in seen if isinstance(entry.event, Started))
        return (began - next(entry.at for entry in seen if isinstance(entry.event, Requested))).total_seconds()


@asynccontextmanager
async def inside(
    folder: Path, provider: str, *, sync: Sync = "always", width: int = 256, record: bool = True
) -> AsyncIterator[Inside]:
    """A house in this process on a folder of its own, with room for `width` runs at once.

    `record`: False keeps the runs' logs in memory only, to see what their durability costs.
    """
    remote = {"litellm_model": "openai/bench", "api_base": provider}
    free = {"input_micro_usd_per_mtok": 0, "output_micro_usd_per_mtok": 0}
    settings = Settings.model_validate(
        {
            "server": {"data_dir": str(folder), "concurrency": max(256, width)},
            "nats": {"sync": sync, "max_queued_per_agent": 100_000},
            "models": [
                {"name": "rule-based", "litellm_model": "rule-based"},
                {"name": "direct", "wire": "openai", **remote, **free},
                {"name": "litellm", "wire": "litellm", **remote, **free},
            ],
        }
    )
    async with open_house(settings, "http://127.0.0.1:8765", record=record) as house, background() as tasks:
        tasks.start_soon(house.crew.work, _WORKERS)
        space = house.tenancy.of(_CALLER)
        for model in ("rule-based", "direct", "litellm"):
            draft = AgentDraft.model_validate({"name": model, "virtual_model": model, "tools": [_TOOL]})
            await house.services.agents.create(space, draft)
        while house.crew.station.free_hand() is None:
            await anyio.sleep(0.01)
        settle_memory()
        yield Inside(house)


async def written(house: House) -> int:
    """Messages that all streams together have stored so far."""
    answer = await house.link.api("STREAM.LIST")
    return sum(
        int(stream["state"]["last_seq"]) for stream in answer["streams"] if stream["config"]["name"] != "CB_CANARY"
    )
