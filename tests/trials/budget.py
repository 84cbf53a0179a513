"""A crowd of calls against a budget with room for ten, while the processes that reserve are killed.

Two front ends accept and begin runs, three workers take jobs; whoever holds a reservation may be the next to die.
Nobody overspends at any moment, and at rest the books agree: the budget, the ledger, the logs and the provider.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import anyio
import msgspec

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution import ledger
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import Run
from mcp_agents.kernel.tasks import background, together
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling.budgets import Budget, Payers
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.soak.cluster import Cluster
from tests.soak.process import GONE, Ask, Said, lines
from tests.soak.trial import URL, comes_true
from tests.soak.work import caller
from tests.support.nursery import nursery
from tests.support.provider import ScriptedProvider, Step

TENANT: Final = "acme"
ADMITTED: Final = 10
PRICE: Final = 100
"""Micro-USD of one call: its worst case and its cost, since the provider always writes as much as it may."""
LIMIT: Final = ADMITTED * PRICE
_ANSWER_SECONDS: Final = 0.6
_REST_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Books:
    """What was found. Money in micro-USD; `most` is the highest sum of spent and reserved that was ever seen."""

    ends: Counter[str]
    kills: int
    asked: int
    """Requests at the provider: each of them may have been billed."""
    most: int
    settled: int
    reserved: int
    ledger: int
    logs: int
    lost: int
    """Of the settled sum, what stands for calls whose answer was lost with its process."""
    looks: int

    def faults(self) -> list[str]:
        """What must not be; empty when the books are right."""
        wrong = {
            f"{self.most} were spent or reserved of {LIMIT}": self.most > LIMIT,
            f"{self.asked} calls were made where {ADMITTED} were allowed": self.asked > ADMITTED,
            f"{self.reserved} stay reserved": self.reserved != 0,
            f"settled {self.settled}, in the ledger {self.ledger}": self.settled != self.ledger,
            f"settled {self.settled}, in the logs {self.logs}": self.settled != self.logs,
            "nobody reserved anything": self.settled == 0,
        }
        return [said for said, holds in wrong.items() if holds]


async def trial(folder: Path, *, calls: int, kills: int, seed: int) -> Books:
    """Plays it in the folder: so many calls at once, so many deaths of processes that hold a reservation."""
    usage = {"prompt_tokens": 10, "completion_tokens": PRICE, "total_tokens": PRICE + 10}
    answer = Step(times=0, text="Spent.", usage=usage, pause=_ANSWER_SECONDS / 3)
    async with ScriptedProvider([answer]) as provider, nursery("tests.soak.process") as births:
        settings = _settings(folder, provider.api_base)
        async with open_house(Settings.model_validate(settings), URL) as house:
            space = house.tenancy.of(caller(TENANT))
            await _furnish(house, space)
            cluster = Cluster(house, births, folder, settings)
            watch, clients = _Watch(house, space), _Clients(cluster)
            async with background() as watching, cluster.running():
                watching.start_soon(watch.look)
                async with together() as tasks:
                    for number in range(calls):
                        tasks.start_soon(clients.call, f"k{number}", Random(f"{seed}-{number}"))
                    await _kill(cluster, clients, space, provider, kills)
                await comes_true(lambda: _settled(house, space), _REST_SECONDS)
            ends = Counter(clients.ends.values())
            return await _books(house, space, watch, ends, len(cluster.kills), len(provider.requests))


class _Watch:
    """Looks at the budget all the time."""

    def __init__(self, house: House, space: TenantSpace) -> None:
        self._budgets, self._space = house.services.budgets, space
        self.most = self.looks = 0

    async def look(self) -> None:
        """Until cancelled."""
        while True:
            (now,) = await self._budgets.left(self._space, Payers(user="caller", agent=""))
            self.most = max(self.most, now.settled.micro_usd + now.reserved.micro_usd)
            self.looks += 1
            await anyio.sleep(0.005)


class _Clients:
    """Each asks under its key, of any front end, until it is told an end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.told: dict[str, str] = {}
        self.ends: dict[str, str] = {}

    async def call(self, key: str, random: Random) -> None:
        """One call, to its end."""
        order = Order(agent="spender", prompt=key, idempotency_key=key, submitted=random.random() < 0.5)
        ask = Ask(tenant=TENANT, order=msgspec.to_builtins(order), submit=False)
        while key not in self.ends:
            try:
                async with await anyio.connect_unix(random.choice(self._cluster.fronts).socket) as stream:
                    await stream.send(msgspec.json.encode(ask) + b"\n")
                    async for line in lines(stream):
                        said = msgspec.json.decode(line, type=Said)
                        if said.execution_id:
                            self.told[key] = said.execution_id
                        if said.status:
                            self.ends[key] = said.status
            except GONE:
                await anyio.sleep(0.1)


async def _kill(
    cluster: Cluster, clients: _Clients, space: TenantSpace, provider: ScriptedProvider, kills: int
) -> None:
    """Kills whoever has just asked the provider, and so holds a reservation: every seventh call's process."""
    with anyio.move_on_after(_REST_SECONDS):
        seen = 0
        while len(cluster.kills) < kills:
            while len(provider.requests) <= seen:
                await anyio.sleep(0.002)
            key = provider.requests[seen]["messages"][-1]["content"]
            seen += 7
            while key not in clients.told:
                await anyio.sleep(0.002)
            run = Run.folded(clients.told[key], (await space.log(clients.told[key]).read())[1])
            cluster.kill_pid(int(run.worker.rsplit("-", 2)[1]))


async def _settled(house: House, space: TenantSpace) -> bool:
    states = await house.services.budgets.left(space, Payers(user="caller", agent=""))
    return not any(state.reserved.micro_usd for state in states)


async def _books(house: House, space: TenantSpace, watch: _Watch, ends: Counter[str], kills: int, asked: int) -> Books:
    (state,) = await house.services.budgets.left(space, Payers(user="caller", agent=""))
    runs = [
        Run.folded(execution_id, (await space.log(execution_id).read())[1])
        for execution_id in await _every_id(house, space)
    ]
    now = house.services.clock.now()
    counted = await ledger.report(
        house.services.archive, space, since=now.replace(year=2000), until=now.replace(year=2100), by="status"
    )
    return Books(
        ends=ends,
        kills=kills,
        asked=asked,
        most=watch.most,
        settled=state.settled.micro_usd,
        reserved=state.reserved.micro_usd,
        ledger=counted.total.cost_micro_usd,
        logs=sum(run.cost_micro_usd for run in runs),
        lost=sum(run.usage.lost_tokens > 0 for run in runs) * PRICE,
        looks=watch.looks,
    )


async def _every_id(house: House, space: TenantSpace) -> list[str]:
    listed = [line.execution_id async for line in house.services.archive.newest(space)]
    return sorted({*listed, *await space.execution_ids()})


async def _furnish(house: House, space: TenantSpace) -> None:
    draft = AgentDraft.model_validate({"name": "spender", "virtual_model": "scripted", "max_tokens": PRICE})
    await house.services.agents.create(space, draft)
    await house.services.budgets.set(space, Budget(scope="tenant", period="total", limit_micro_usd=LIMIT), None)


def _settings(folder: Path, api_base: str) -> dict[str, Any]:
    model = {
        "name": "scripted",
        "litellm_model": "openai/scripted",
        "api_base": api_base,
        "input_micro_usd_per_mtok": 0,
        "output_micro_usd_per_mtok": 1_000_000,
    }
    return {"server": {"data_dir": str(folder), "workers": 0, "concurrency": 64}, "models": [model]}
