"""A cluster on one data folder whose processes are killed at random and started again at once.

The process of the trial owns the embedded NATS server and is its supervisor; workers and front ends are born in the
nursery. Which process is killed next, and after how long, follows from the seed alone; what it is doing then
does not.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

import anyio
import psutil

from mcp_agents.kernel.tasks import background
from mcp_agents.server.compose import House
from tests.support.nursery import Nursery

Kind = Literal["worker", "front end", "NATS", "NATS and worker"]
WEIGHTS: Final[dict[Kind, int]] = {"worker": 50, "front end": 30, "NATS": 12, "NATS and worker": 8}

WORKERS: Final = 3
FRONTS: Final = 2
_NOTED: Final = 50


@dataclass
class Place:
    """Where a process stands; another one takes it when that was killed."""

    name: str
    order: dict[str, Any]
    pid: int = 0
    births: int = 0

    @property
    def socket(self) -> str:
        """Where a front end listens."""
        return str(self.order["socket"])


@dataclass(frozen=True)
class Kill:
    """One kill: when, what, and the processes that were carrying runs out (NATS does not)."""

    at: datetime
    kind: Kind
    pids: tuple[int, ...]


@dataclass
class Cluster:
    """The processes, and who was killed so far. `outages` are seconds until NATS stored again."""

    house: House
    nursery: Nursery
    folder: Path
    settings: dict[str, Any]
    starting: bool = False
    """Whether NATS is also killed while it starts; else only once it stores again."""
    kills: list[Kill] = field(default_factory=list)
    outages: list[float] = field(default_factory=list)
    own_ends: int = 0
    """Processes that ended without having been killed."""
    workers: list[Place] = field(default_factory=list)
    fronts: list[Place] = field(default_factory=list)
    _killed: set[int] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The processes are there while the block runs, and are killed at its end."""
        self.workers = [self._place("worker", number) for number in range(WORKERS)]
        self.fronts = [self._place("front", number) for number in range(FRONTS)]
        async with background() as tasks:
            for place in (*self.workers, *self.fronts):
                tasks.start_soon(self._keep, place)
            yield
            tasks.cancel_scope.cancel()
        for place in (*self.workers, *self.fronts):
            self._kill(place.pid)
            await self.nursery.end(place.pid)

    def _place(self, role: str, number: int) -> Place:
        name = f"{role}{number}"
        order = {
            "run": "tests.soak.process:live",
            "role": role,
            "settings": self.settings,
            "url": self.house.public_url,
            "socket": str(self.folder / f"{name}.sock"),
        }
        return Place(name, order)

    async def _keep(self, place: Place) -> None:
        while True:
            with anyio.CancelScope(shield=True):
                place.pid = await self.nursery.bear(place.order)
            place.births += 1
            await self.nursery.end(place.pid)
            self.own_ends += place.pid not in self._killed
            self._killed.discard(place.pid)

    async def kill(self, count: int, seconds: float, random: Random, note: Callable[[str], None]) -> None:
        """So many kills, with so many seconds between two of them on average."""
        async with anyio.create_task_group() as tasks:
            for number in range(1, count + 1):
                await anyio.sleep(min(3 * seconds, random.expovariate(1 / seconds)))
                kind = random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                worker, front = random.choice(self.workers), random.choice(self.fronts)
                place = {"worker": worker, "front end": front, "NATS and worker": worker}.get(kind)
                nats = kind in ("NATS", "NATS and worker")
                if nats and not self.starting:
                    await self.house.tenancy.tenants()  # answered only by a server that has started
                if place is not None:
                    await self._alive(place)
                if nats:
                    await self._kill_nats()
                    tasks.start_soon(self._note_outage)
                pids = (place.pid,) if place else ()
                for pid in pids:
                    self._kill(pid)
                self.kills.append(Kill(datetime.now(UTC), kind, pids))
                if number % _NOTED == 0:
                    note(f"{number} kills")

    def kill_pid(self, pid: int) -> bool:
        """Kills the worker or front end with this process id, if there still is one."""
        for kind, places in (("worker", self.workers), ("front end", self.fronts)):
            if any(place.pid == pid for place in places) and not self.nursery.ended(pid):
                self._kill(pid)
                self.kills.append(Kill(datetime.now(UTC), kind, (pid,)))
                return True
        return False

    async def _alive(self, place: Place) -> None:
        while not place.pid or place.pid in self._killed or self.nursery.ended(place.pid):
            await anyio.sleep(0.005)

    def _kill(self, pid: int) -> None:
        if not self.nursery.ended(pid):
            self._killed.add(pid)
            os.kill(pid, signal.SIGKILL)

    async def _kill_nats(self) -> None:
        while True:
            for child in psutil.Process().children():
                if child.name() == "nats-server" and child.status() != psutil.STATUS_ZOMBIE:
                    child.kill()
                    return
            await anyio.sleep(0.01)

    async def _note_outage(self) -> None:
        began = anyio.current_time()
        await self.house.tenancy.tenants()
        self.outages.append(anyio.current_time() - began)
