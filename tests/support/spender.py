"""A process that spends from one budget, and may be told to die at one of its writes to the ledger.

`python -m tests.support.spender`, with one JSON order on stdin. Every turn that it bought is a line on stdout,
`{run}`, before it is settled; what a turn costs follows from its run alone (`price_of`), so that whoever reads
knows what must have been booked.
"""

import json
import os
import signal
import sys
from typing import Any, cast
from zlib import crc32

import anyio

from mcp_agents.adapters.nats_cached_store import NatsCachedStore
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, connect
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.kernel.clock import SystemClock
from mcp_agents.kernel.errors import Exhausted
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.messages import Spend
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.store import Bucket
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Doors, Tenancy, TenantSpace
from mcp_agents.scaling.budgets import Budgets, Payers

PAYERS = Payers(user="ann", agent="ag_1")
WORST = Spend(10, 10)


def price_of(run: str) -> Spend:
    """What a run's turn really costs: 1 to 10 micro-USD."""
    return Spend(1 + crc32(run.encode()) % WORST.micro_usd, 1)


class DyingStore(NatsStore):
    """Kills the process before or after the `nth` write to the ledger."""

    def __init__(self, link: NatsLink, when: str, nth: int) -> None:
        super().__init__(link)
        self._when, self._nth, self._writes = when, nth, 0

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        self._writes += bucket == "cb_ledger"
        if (self._when, self._nth) == ("before", self._writes):
            os.kill(os.getpid(), signal.SIGKILL)
        written = await super().write(bucket, key, value, revision=revision, ttl=ttl)
        if (self._when, self._nth) == ("after", self._writes):
            os.kill(os.getpid(), signal.SIGKILL)
        return written


async def space_over(link: NatsLink, tenant: str, store: NatsStore | None = None) -> TenantSpace:
    """A tenant's space over a link of its own, with the cache that a house has."""
    cached = NatsCachedStore(link, store or NatsStore(link))
    await cached.open()
    nothing = cast("Any", None)
    doors = Doors(cached, nothing, nothing, nothing, nothing, SystemClock(), NoFaults())
    return Tenancy(doors).of(Principal(tenant=tenant, subject="s", scopes=frozenset()))


class Spender:
    """One process's calls."""

    def __init__(self, space: TenantSpace, patience: float) -> None:
        self.budgets, self._space, self._patience = Budgets(SystemClock()), space, patience
        self.bought: list[str] = []

    async def spend(self, run: str) -> None:
        """Reserves, buys and settles one turn, or is refused."""
        try:
            await self.budgets.reserve(self._space, PAYERS, run, 1, WORST, priced=True, patience=self._patience)
        except Exhausted:
            return
        self.bought.append(run)
        sys.stdout.write(f"{run}\n")
        sys.stdout.flush()
        await anyio.lowlevel.checkpoint()
        await self.budgets.settle(self._space, PAYERS, run, 1, price_of(run))

    async def spend_all(self, runs: list[str]) -> None:
        """All of them at once."""
        async with together() as tasks:
            for run in runs:
                tasks.start_soon(self.spend, run)


async def _live(order: dict[str, Any]) -> None:
    async with connect(Endpoint(**order["endpoint"]), "spender") as link:
        space = await space_over(link, order["tenant"], DyingStore(link, order["when"], order["nth"]))
        await Spender(space, 0).spend_all(order["runs"])


if __name__ == "__main__":
    anyio.run(_live, json.loads(sys.stdin.readline()))
