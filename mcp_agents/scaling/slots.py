"""Slots: no more runs of a tenant or an agent at once than its quota says, over all processes.

A process leases slots from the shared record, uses them for one run after another without asking again, and
gives back what it does not need. A process that dies strands its slots until its lease ends: too few run
then, never too many. Where no limit is set nothing is read or written. Which run gets a slot is the
caller's choice; below stand `quotas` (the limits) and `slices` (the record).
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import anyio

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Unavailable
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import Records, TenantSpace
from mcp_agents.scaling.combiner import Combiner
from mcp_agents.scaling.quotas import Quota, Quotas
from mcp_agents.scaling.slices import LEASE, Claim, Slices, claim

KEEP_EVERY: Final = 1.5
"""Seconds between two calls of `Slots.keep`."""

_MARGIN: Final = timedelta(seconds=1)
"""A slot is not used for a new run in the last moments of its lease: another process's clock may be ahead."""
_FRESH: Final = LEASE - timedelta(seconds=KEEP_EVERY)
_AGAIN_AFTER: Final = 0.1
"""Seconds for which a refusal is repeated without asking again."""
_KEPT_SECONDS: Final = 60
_ALL: Final = "tenant"


@dataclass(slots=True, eq=False)
class _Held:
    """This process's part of one limit. `used` is counted even where there is no limit, as one may be set."""

    space: TenantSpace
    key: str
    used: int = 0
    asking: int = 0
    leased: int = 0
    told: int = 0
    limit: int | None = None
    until: datetime | None = None
    others_wait: bool = False
    spare: int = 0
    refused_at: float = float("-inf")
    lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def idle(self) -> int:
        """Leased slots without a run."""
        return max(0, self.leased - self.used)


class Slots:
    """Slots of any tenant, always through its `TenantSpace`. One for a process."""

    def __init__(self, clock: Clock, quotas: Quotas) -> None:
        self._clock, self.quotas = clock, quotas
        self._process = secrets.token_hex(8)
        self._records: Combiner[Slices] = Combiner(_slices, lambda _: _KEPT_SECONDS)
        self._held: dict[tuple[str, str], _Held] = {}

    async def take(self, space: TenantSpace, agent_id: str) -> bool:
        """Whether one more run of this agent may go on now; if so, `give_back` ends it. Raises `Unavailable`."""
        quota = await self.quotas.of(space, agent_id)
        whole = self._part(space, _ALL)
        if not await self._take(whole, quota.tenant.max_concurrent):
            return False
        taken = False
        try:
            taken = await self._take(self._part(space, agent_id), quota.agent.max_concurrent)
        finally:
            if not taken:
                whole.used -= 1
                await self._return_idle(whole)
        return taken

    async def give_back(self, space: TenantSpace, agent_id: str) -> None:
        """Ends what `take` allowed. Goes on when the caller is cancelled; raises nothing."""
        parts = [self._part(space, key) for key in (_ALL, agent_id)]
        for held in parts:
            held.used -= 1
        for held in parts:
            await self._return_idle(held)

    async def keep(self) -> None:
        """Renews what is leased, gives back what was idle since the last call, and takes in changed limits.

        To be called every `KEEP_EVERY` seconds by one task of the process. Raises `Unavailable`.
        """
        few = anyio.CapacityLimiter(16)

        async def keep_one(held: _Held) -> None:
            async with few:
                await self._keep(held)

        async with together() as tasks:
            for held in list(self._held.values()):
                tasks.start_soon(keep_one, held)

    def _part(self, space: TenantSpace, key: str) -> _Held:
        return self._held.setdefault((space.tenant, key), _Held(space, key))

    async def _take(self, held: _Held, limit: int | None) -> bool:
        if limit is None:
            held.used += 1
            return True
        held.asking += 1
        try:
            async with held.lock:
                if not self._usable(held, limit):
                    if self._clock.monotonic() - held.refused_at < _AGAIN_AFTER and held.limit == limit:
                        return False
                    await self._claim(held, limit, more=held.asking)
                if not held.idle:
                    held.refused_at = self._clock.monotonic()
                    return False
                held.used += 1
                held.spare = min(held.spare, held.idle)
                return True
        finally:
            held.asking -= 1

    def _usable(self, held: _Held, limit: int) -> bool:
        """Whether there is an idle slot that may be used without asking."""
        in_time = held.until is not None and self._clock.now() < held.until - _MARGIN
        return held.idle > 0 and held.limit == limit and in_time

    async def _return_idle(self, held: _Held) -> None:
        """Gives idle slots back at once where others were refused one; else they wait here for the next run."""
        if held.idle and held.others_wait:
            with anyio.CancelScope(shield=True), suppress(Unavailable):  # `keep` will do it
                async with held.lock:
                    if held.idle:
                        await self._claim(held, held.limit, more=0)
        self._forget(held)

    async def _keep(self, held: _Held) -> None:
        async with held.lock:
            if self._held.get((held.space.tenant, held.key)) is not held:
                return  # forgotten while it waited here; what is known now is kept elsewhere
            quota = await self.quotas.of(held.space, held.key)
            limit = _limit(quota, held.key)
            returned = held.idle if held.others_wait else min(held.spare, held.idle)
            kept = held.idle - returned
            held.spare = kept
            if limit is None and not held.leased:
                held.limit = None
            elif returned or self._stale(held, limit):
                await self._claim(held, limit, more=kept if limit == held.limit else 0)
                if held.idle and held.others_wait:  # which it has only now heard
                    await self._claim(held, limit, more=0)
        self._forget(held)

    def _stale(self, held: _Held, limit: int | None) -> bool:
        """Whether the record must be told something: another limit, other runs, or that we are still here."""
        if held.limit != limit or held.told != held.used:
            return True
        return bool(held.leased) and (held.until is None or held.until - self._clock.now() <= _FRESH)

    async def _claim(self, held: _Held, limit: int | None, *, more: int) -> None:
        """Under the part's lock. Nothing is usable until the store has answered."""
        wish, now = Claim(self._process, limit, held.used, more), self._clock.now()
        held.until = None
        if limit != held.limit:
            held.refused_at = float("-inf")
        share = await self._records.change(held.space, ("slots", held.key), partial(claim, wish=wish, now=now))
        held.leased, held.others_wait, held.limit = share.leased, share.others_wait, limit
        held.told, held.until = wish.used, now + LEASE

    def _forget(self, held: _Held) -> None:
        if not (held.used or held.leased or held.asking or held.lock.statistics().locked):
            self._held.pop((held.space.tenant, held.key), None)


async def running(space: TenantSpace, agent_id: str, now: datetime) -> int:
    """How many runs hold a slot, of an agent, or of the tenant where `agent_id` is empty; told every few seconds."""
    found = await _slices(space).get("slots", agent_id or _ALL)
    return found.value.used(now) if found else 0


def _limit(quota: Quota, key: str) -> int | None:
    return quota.tenant.max_concurrent if key == _ALL else quota.agent.max_concurrent


def _slices(space: TenantSpace) -> Records[Slices]:
    return space.records("cb_ledger", Slices)
