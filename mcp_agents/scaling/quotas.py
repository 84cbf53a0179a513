"""Quotas: how many runs of a tenant or an agent go at once, how many may wait, and how heavy its turns weigh.

Definitions only, one record of `cb_capacity` for each tenant, so that asking is free. `slots` keeps to the
number that run at once; who queues and who takes turns asks for the rest.
"""

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from mcp_agents.kernel.errors import Exhausted, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.scaling.changing import moved_on

MAX_AGENTS: Final = 1000
"""Agents of one tenant with a quota of their own."""

_RECORD: Final = "quotas"


class Allowance(Struct, frozen=True, kw_only=True):
    """What one tenant or one agent may have. None does not limit; `weight` is its share of the turns."""

    max_concurrent: int | None = None
    max_queued: int | None = None
    weight: int = 1


NO_QUOTA: Final = Allowance()


class Quota(NamedTuple):
    """What holds for a run: its tenant's allowance and its agent's. Both are kept to."""

    tenant: Allowance
    agent: Allowance


class TenantQuotas(Struct, frozen=True, kw_only=True):
    """The stored record: the tenant's allowance, and those of its agents by id."""

    tenant: Allowance = NO_QUOTA
    agents: dict[str, Allowance] = {}
    v: int = 1


class Quotas:
    """Quotas of any tenant, always through its `TenantSpace`."""

    async def of(self, space: TenantSpace, agent_id: str) -> Quota:
        """What holds for runs of this agent."""
        found = await _quotas(space).get(_RECORD)
        if found is None:
            return Quota(NO_QUOTA, NO_QUOTA)
        return Quota(found.value.tenant, found.value.agents.get(agent_id, NO_QUOTA))

    async def all(self, space: TenantSpace) -> Versioned[TenantQuotas]:
        """Every quota of the tenant; revision 0 where none was ever set."""
        return await _quotas(space).get(_RECORD) or Versioned(TenantQuotas(), 0)

    async def set(self, space: TenantSpace, agent_id: str, allowance: Allowance, expected_revision: int | None) -> int:
        """Sets the allowance of an agent, or of the tenant where `agent_id` is empty; returns the new revision.

        An agent's allowance that limits nothing is forgotten. Raises `Conflict` (`REVISION_CONFLICT`), `Exhausted`
        (`QUOTAS_FULL`).
        """
        while True:
            found = await self.all(space)
            if expected_revision not in (None, found.revision):
                raise moved_on()
            value = _with(found.value, agent_id, allowance)
            if len(value.agents) > MAX_AGENTS:
                raise Exhausted(
                    "QUOTAS_FULL", f"At most {MAX_AGENTS} agents have a quota of their own.", "Remove some of them."
                )
            try:
                return await _quotas(space).update(_RECORD, value=value, revision=found.revision)
            except WrongRevision as cause:
                if expected_revision is not None:
                    raise moved_on() from cause


def _with(quotas: TenantQuotas, agent_id: str, allowance: Allowance) -> TenantQuotas:
    if not agent_id:
        return msgspec.structs.replace(quotas, tenant=allowance)
    agents = {known: other for known, other in quotas.agents.items() if known != agent_id}
    if allowance != NO_QUOTA:
        agents[agent_id] = allowance
    return msgspec.structs.replace(quotas, agents=agents)


def _quotas(space: TenantSpace) -> Records[TenantQuotas]:
    return space.records("cb_capacity", TenantQuotas)
