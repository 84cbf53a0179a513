"""This process as a place where runs are carried out: its name, its lease, and its free hands.

A process that accepts a run and has a free hand begins it at once, without the queue; the run is then under
the lease of the process, which is kept alive by one small record. When that record is gone, whoever notices
queues its runs again (`recovery`); what the lost process may still write is refused by the fenced log.
Below: the platform's records. Above: the worker, which gives its hands, and the dispatcher, which asks for one.
"""

import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import anyio
from msgspec import Struct

from mcp_agents.execution.recorder import Recorder
from mcp_agents.kernel.errors import AgentsError, WrongRevision
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Tenancy

log = logging.getLogger("mcp_agents.station")

LEASE_SECONDS: Final = 5
_KEEP_SECONDS: Final = 1.5


class _Lease(Struct, frozen=True, kw_only=True):
    host: str
    pid: int
    v: int = 1


class Hand(Protocol):
    """A worker, as the front end of its process sees it."""

    @property
    def free(self) -> bool:
        """Whether it would start a run now, without taking a place that waiting runs have a right to."""
        ...

    def promise(self) -> None:
        """Keeps a place for a run that is about to be begun."""
        ...

    def take_back(self) -> None:
        """The promised run is not begun after all."""
        ...

    def begin(self, recorder: Recorder) -> None:
        """Carries out a run whose log says that this process has begun it; its place was promised."""
        ...

    def holds(self, execution_id: str) -> bool:
        """Whether this run is being carried out now."""
        ...


class Station:
    """One process. Its name is in every `started` of the runs it carries out."""

    def __init__(self, tenancy: Tenancy) -> None:
        self.name: Final = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}".replace(".", "-")
        self._leases = tenancy.platform().records("cb_leases", "_station", kind=_Lease)
        self._hands: list[Hand] = []
        self._kept = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Holds the lease while the block runs; given up on the way out, so that nobody waits for it to end."""
        revision = await self._renew(0)
        async with background() as tasks:
            tasks.start_soon(self._keep, revision)
            try:
                yield
            finally:
                self._kept = False
                tasks.cancel_scope.cancel()
        with anyio.move_on_after(2, shield=True):
            await self._give_up()

    def offer(self, hand: Hand) -> None:
        """A worker of this process is ready."""
        self._hands.append(hand)

    def withdraw(self, hand: Hand) -> None:
        """A worker of this process stops."""
        self._hands.remove(hand)

    def free_hand(self) -> Hand | None:
        """A worker that would begin a run now, with a place promised; None while the lease is not held."""
        hand = next((hand for hand in self._hands if hand.free), None) if self._kept else None
        if hand is not None:
            hand.promise()
        return hand

    def holds(self, execution_id: str) -> bool:
        """Whether a worker of this process is carrying out this run now."""
        return any(hand.holds(execution_id) for hand in self._hands)

    async def living(self) -> frozenset[str]:
        """The names of all stations whose lease has not ended."""
        return frozenset(await self._leases.names())

    async def _keep(self, revision: int) -> None:
        while True:
            await anyio.sleep(_KEEP_SECONDS)
            try:
                revision = await self._renew(revision)
            except AgentsError as error:
                self._kept = False  # nothing new is begun under a lease that may end
                log.debug("the lease of %s could not be renewed: %s", self.name, error)

    async def _renew(self, revision: int) -> int:
        lease = _Lease(host=socket.gethostname(), pid=os.getpid())
        try:
            revision = await self._leases.update(self.name, value=lease, revision=revision, ttl=LEASE_SECONDS)
        except WrongRevision:  # it had ended: its runs are being taken over, and fenced off from us
            revision = await self._leases.create(self.name, value=lease, ttl=LEASE_SECONDS)
        self._kept = True
        return revision

    async def _give_up(self) -> None:
        try:
            if found := await self._leases.get(self.name):
                await self._leases.delete(self.name, revision=found.revision)
        except (AgentsError, WrongRevision) as error:
            log.debug("the lease of %s is left to end: %s", self.name, error)
