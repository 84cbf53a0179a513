"""One trial from an empty folder to its evidence: a cluster under load, its kills, and rest.

Rest is reached when every client was told its ends and nothing is queued or live; then the processes are
killed too, and what they held has to end with their leases.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import anyio

from mcp_agents.adapters import nats_topology
from mcp_agents.execution.run import FINAL, Run
from mcp_agents.execution.station import LEASE_SECONDS
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling import slots
from mcp_agents.scaling.budgets import Payers
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.soak.clients import Clients
from tests.soak.cluster import Cluster
from tests.soak.verdict import Evidence, Log
from tests.soak.work import PLACE, TENANTS, asked_by, caller, furnish, steps
from tests.support.counted_tools import CountedTools
from tests.support.nursery import nursery
from tests.support.provider import ScriptedProvider

URL: Final = "http://127.0.0.1:1"
"""What the houses call themselves; nobody calls them there."""
REST_SECONDS: Final = 180.0
STDERR: Final = "stderr.log"
_CONCURRENCY: Final = 16


@dataclass(frozen=True)
class Plan:
    """How long and how hard: so many kills, `seconds` between two on average, so many clients, `pause` between
    two runs of each; `starting` as in `Cluster`."""

    kills: int
    seconds: float
    seed: int
    clients: int = 10
    pause: float = 0.6
    starting: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was found, and what happened on the way. `took` is the seconds of load and kills."""

    evidence: Evidence
    clients: Clients
    cluster: Cluster
    took: float


async def trial(plan: Plan, folder: Path, note: Callable[[str], None]) -> Outcome:
    """Plays the plan in the folder; `note` is told how far it has come."""
    async with (
        ScriptedProvider(steps()) as provider,
        CountedTools() as tools,
        nursery("tests.soak.process", stderr=folder / STDERR) as births,
    ):
        settings = _settings(folder, provider.api_base)
        async with open_house(Settings.model_validate(settings), URL) as house:
            await furnish(house, tools.url)
            cluster = Cluster(house, births, folder, settings, plan.starting)
            began = anyio.current_time()
            async with cluster.running():
                clients = Clients(cluster.fronts, plan.seed)
                left = await _load(plan, house, cluster, clients, note)
            took = anyio.current_time() - began
            note("the processes are gone; waiting for what they held to end")
            lost = await _lost_streams(house)
            left += lost or await _held_at_last(house)
            logs = await _logs(house, clients, sealed=not lost)
            evidence = Evidence(
                logs=logs,
                told=clients.told,
                ends=clients.ends,
                effects=tools.effects(PLACE),
                asked=Counter(asked_by(request) for request in provider.requests),
                kills=cluster.kills,
                left=left,
            )
            return Outcome(evidence, clients, cluster, took)


async def _load(plan: Plan, house: House, cluster: Cluster, clients: Clients, note: Callable[[str], None]) -> list[str]:
    """The kills under load, and then the rest; what was not at rest in time."""
    left: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clients.ask, plan.clients, plan.pause)
        await cluster.kill(plan.kills, plan.seconds, Random(plan.seed), note)
        clients.close()
        note("no more kills; waiting for the last runs")
        if not await comes_true(lambda: _all_told(clients), REST_SECONDS):
            left += [f"the client of {key} still waits" for key in clients.tenants if not clients.ends[key]]
            tasks.cancel_scope.cancel()
    left += await _unrest(house) if not await comes_true(lambda: _at_rest(house), REST_SECONDS) else []
    return left


async def _all_told(clients: Clients) -> bool:
    return clients.idle


async def _at_rest(house: House) -> bool:
    return not await _unrest(house)


async def _unrest(house: House) -> list[str]:
    """Jobs in the queue, and runs without an end."""
    found = [
        f"{each.waiting} jobs wait and {each.running} run in {each[:3]}" for each in await house.tenancy.queue_depths()
    ]
    if not found:
        for space, execution_id in await house.tenancy.live_logs():
            _, entries = await space.log(execution_id).read()
            status = Run.folded(execution_id, entries).status if entries else "completed"
            if status not in FINAL:
                found.append(f"the run {execution_id} is {status}")
    return found


async def _lost_streams(house: House) -> list[str]:
    """Streams that the server no longer has."""
    there = await nats_topology.existing(house.link)
    return [f"no stream {each['name']}" for each in nats_topology.streams(1) if each["name"] not in there]


async def _held_at_last(house: House) -> list[str]:
    """Leases, slots and reservations that are still there when every lease must have ended."""

    async def nothing() -> bool:
        return not await _held(house)

    await comes_true(nothing, 6 * LEASE_SECONDS)
    return await _held(house)


async def _held(house: House) -> list[str]:
    found = [f"the lease of {name}" for name in sorted(await house.crew.station.living())]
    now = datetime.now(UTC)
    for tenant in TENANTS:
        space = house.tenancy.of(caller(tenant))
        if used := await slots.running(space, "", now):
            found.append(f"{used} slots of {tenant}")
        payers = Payers(user="caller", agent="")
        states = await house.services.budgets.left(space, payers)
        found += [f"a reservation of {state.reserved.tokens} tokens" for state in states if state.reserved.tokens]
    return found


async def comes_true(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    with anyio.move_on_after(seconds):
        while not await condition():
            await anyio.sleep(0.25)
        return True
    return False


async def _logs(house: House, clients: Clients, *, sealed: bool) -> list[Log]:
    """The log of every run that a client was told of or that the store knows; live only where `sealed` is False."""
    found: list[Log] = []
    for tenant in TENANTS:
        space = house.tenancy.of(caller(tenant))
        told = {each for key, ids in clients.told.items() if clients.tenants[key] == tenant for each in ids}
        live = set(await space.execution_ids())
        for execution_id in sorted({*told, *live, *await _listed(house, space)} if sealed else live):
            _, entries = await space.log(execution_id).read()
            if entries:
                found.append(Log(tenant, execution_id, entries))
    return found


async def _listed(house: House, space: TenantSpace) -> list[str]:
    return [line.execution_id async for line in house.services.archive.newest(space)]


def _settings(folder: Path, api_base: str) -> dict[str, Any]:
    """Of every house of the cluster."""
    return {
        "server": {"data_dir": str(folder), "workers": 0, "concurrency": _CONCURRENCY},
        "models": [{"name": "scripted", "litellm_model": "openai/scripted", "api_base": api_base}],
    }
