"""Quotas of a tenant and of its agents: how many runs at once, how many waiting, and the tenant's weight.

Definitions only: who is counted and refused is `slots`, the queue and the dispatcher. All of a tenant's quotas
are one cached record, so that asking costs nothing.
"""

from typing import Final, Literal

from msgspec import Struct

from mcp_agents.kernel.errors import Conflict, Exhausted, WrongRevision
from mcp_agents.kernel.tenancy import TenantSpace

Scope = Literal["tenant", "agent"]
_PLACE: Final = "quotas"
_MOST: Final = 10_000
_REMEMBERED: Final = 10_000


class Quota(Struct, frozen=True, kw_only=True):
    """One quota; None: not limited. `subject` is an agent's id, and empty for the tenant.

    `max_queued` and `weight` are the tenant's: a tenant of weight 2 is due twice the places of one of weight 1.
    """

    scope: Scope
    subject: str = ""
    max_concurrent: int | None = None
    max_queued: int | None = None
    weight: int = 1


class _Quotas(Struct, frozen=True, kw_only=True):
    quotas: tuple[Quota, ...] = ()
    v: int = 1


class Quotas:
    """Quotas of any tenant, always through its `TenantSpace`."""

    def __init__(self) -> None:
        self._weights: dict[str, int] = {}

    async def define(self, space: TenantSpace, quota: Quota, *, expected_revision: int | None) -> int:
        """Sets a quota in place of the one for the same scope and subject; one that limits nothing is removed.

        Returns the revision of the tenant's quotas. Raises `Conflict` (`REVISION_CONFLICT`) and `Exhausted`
        (`QUOTAS_TOO_MANY`).
        """
        records = space.records("cb_capacity", _Quotas)
        while True:
            found = await records.get(_PLACE)
            if expected_revision is not None and expected_revision != (found.revision if found else 0):
                raise Conflict(
                    "REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change."
                )
            known = found.value.quotas if found else ()
            quotas = [each for each in known if (each.scope, each.subject) != (quota.scope, quota.subject)]
            if quota != Quota(scope=quota.scope, subject=quota.subject):
                quotas.append(quota)
            if len(quotas) > _MOST:
                raise Exhausted("QUOTAS_TOO_MANY", f"A tenant has at most {_MOST} quotas.", "Remove one first.")
            try:
                fresh = _Quotas(quotas=tuple(quotas))
                return await records.update(_PLACE, value=fresh, revision=found.revision if found else 0)
            except WrongRevision:
                continue  # another quota was set in the same moment

    async def all(self, space: TenantSpace) -> tuple[tuple[Quota, ...], int]:
        """Every quota of the tenant, and the revision to expect when changing one."""
        found = await space.records("cb_capacity", _Quotas).get(_PLACE)
        return (found.value.quotas, found.revision) if found else ((), 0)

    async def of(self, space: TenantSpace, agent_id: str) -> tuple[Quota, Quota]:
        """The tenant's quota and the agent's; unlimited ones where none is set."""
        tenant, agent = Quota(scope="tenant"), Quota(scope="agent", subject=agent_id)
        for quota in (await self.all(space))[0]:
            if quota.scope == "tenant":
                tenant = quota
            elif quota.subject == agent_id:
                agent = quota
        if tenant.weight != self._weights.get(space.tenant, 1):
            if len(self._weights) > _REMEMBERED:
                self._weights.clear()
            self._weights[space.tenant] = tenant.weight
        return tenant, agent

    def weight(self, tenant: str) -> int:
        """The tenant's weight as last seen by this process."""
        return self._weights.get(tenant, 1)
