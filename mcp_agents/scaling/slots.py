"""Runs at once: exact limits over all processes, where a quota sets one; free where none does.

The places of a limit are one record. A process leases places from it, one by one as its runs need them, gives
back those it no longer uses, and renews the rest; the places of a lost process come free when its lease ends.
So a limit may be under-used for some seconds, and is never exceeded. Above: the dispatcher and the worker.
Below: `quotas`, the tenant's records.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling.combining import CombinedRecords
from mcp_agents.scaling.quotas import Quotas

log = logging.getLogger("mcp_agents.slots")

LEASE_SECONDS: Final = 5.0
_TIDY_SECONDS: Final = 0.5
_RENEW_EVERY: Final = 3


class _Lease(Struct, frozen=True, array_like=True):
    places: int
    until: float


class _Sheet(Struct, frozen=True, kw_only=True):
    """The places of one limit: who has leased how many, until when (seconds since the epoch)."""

    leases: dict[str, _Lease] = {}
    v: int = 1


@dataclass(frozen=True, slots=True)
class _Limited:
    """One limit of one tenant, by the key of its sheet."""

    space: TenantSpace
    key: tuple[str, ...]


class Slots:
    """The places that this process has leased, and how many of them are in use."""

    def __init__(self, quotas: Quotas, clock: Clock) -> None:
        self._quotas, self._clock = quotas, clock
        self._owner: Final = secrets.token_hex(8)
        self._sheets = CombinedRecords(_Sheet())
        self._spaces: dict[tuple[str, ...], _Limited] = {}
        self._leased: Counter[tuple[str, ...]] = Counter()
        self._used: Counter[tuple[str, ...]] = Counter()

    async def take(self, space: TenantSpace, agent_id: str) -> bool:
        """A place for one more run, in the tenant's limit and in the agent's; False when one of them is full."""
        tenant, agent = await self._quotas.of(space, agent_id)
        taken: list[tuple[str, ...]] = []
        for key, limit in self._limits(space, agent_id, tenant.max_concurrent, agent.max_concurrent):
            if not await self._take(space, key, limit):
                for other in taken:
                    self._used[other] -= 1
                return False
            taken.append(key)
        return True

    async def give_back(self, space: TenantSpace, agent_id: str) -> None:
        """The run has ended, or waits for somebody else."""
        for key in (_key(space), _key(space, agent_id)):
            if self._used[key]:  # a limit that was set meanwhile has nothing to give back
                self._used[key] -= 1

    async def work(self) -> None:
        """Gives back places that are not used, and renews the lease of those that are, until cancelled."""
        turn = 0
        while True:
            await anyio.sleep(_TIDY_SECONDS)
            turn += 1
            for key, limited in list(self._spaces.items()):
                idle = self._leased[key] - self._used[key]
                if idle > 0 or (self._leased[key] and turn % _RENEW_EVERY == 0):
                    await self._tidy(key, limited)

    def _limits(
        self, space: TenantSpace, agent_id: str, tenant: int | None, agent: int | None
    ) -> list[tuple[tuple[str, ...], int]]:
        limits = [(_key(space), tenant), (_key(space, agent_id), agent)]
        return [(key, limit) for key, limit in limits if limit is not None]

    async def _take(self, space: TenantSpace, key: tuple[str, ...], limit: int) -> bool:
        self._spaces[key] = _Limited(space, key[1:])
        self._used[key] += 1
        if self._used[key] <= self._leased[key]:
            return True
        try:
            granted = await self._sheets.of(space, *key[1:]).change(self._granting(limit))
        except BaseException:
            self._used[key] -= 1
            raise
        if granted:
            self._leased[key] += 1
            return True
        self._used[key] -= 1
        return False

    def _granting(self, limit: int) -> "Callable[[_Sheet], tuple[_Sheet, bool]]":
        now = self._clock.now().timestamp()

        def grant(sheet: _Sheet) -> tuple[_Sheet, bool]:
            live = {owner: lease for owner, lease in sheet.leases.items() if lease.until > now or owner == self._owner}
            if sum(lease.places for lease in live.values()) >= limit:
                return sheet, False
            mine = live[self._owner].places if self._owner in live else 0
            leases = {**live, self._owner: _Lease(mine + 1, now + LEASE_SECONDS)}
            return msgspec.structs.replace(sheet, leases=leases), True

        return grant

    async def _tidy(self, key: tuple[str, ...], limited: _Limited) -> None:
        idle = max(0, self._leased[key] - self._used[key])
        now = self._clock.now().timestamp()

        def keep(sheet: _Sheet) -> tuple[_Sheet, None]:
            held = sheet.leases.get(self._owner)
            places = max(0, held.places - idle) if held else 0
            others = {owner: lease for owner, lease in sheet.leases.items() if owner != self._owner}
            mine = {self._owner: _Lease(places, now + LEASE_SECONDS)} if places else {}
            return msgspec.structs.replace(sheet, leases={**others, **mine}), None

        self._leased[key] -= idle
        try:
            await self._sheets.of(limited.space, *limited.key).change(keep)
        except AgentsError as error:
            log.debug("places are given back later: %s", error)
            self._leased[key] += idle


def _key(space: TenantSpace, agent_id: str = "") -> tuple[str, ...]:
    """Where the sheet lies: the tenant, then the parts of the key."""
    return (space.tenant, "slots", "agent", agent_id) if agent_id else (space.tenant, "slots", "tenant", "all")
