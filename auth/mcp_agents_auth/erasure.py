"""The end of a tenant: first it is suspended for good, then everything it had is removed, then its name is free.

Processes that hold a run of it, or an answer about it not older than a few seconds, may still write. So the sweep is
repeated until one finds nothing, and not before those answers are too old. Any process takes up what another one left:
the tenant's record says that it is being erased until the very end. Backups keep what they hold; see docs/tenants.md.
"""

import logging
from datetime import timedelta
from typing import Final

import anyio

from mcp_agents.kernel.audit import Audit, Deed, audited
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, NotFound
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Tenancy
from mcp_agents.security.audit import AuditTrail
from mcp_agents_auth.clients import Clients
from mcp_agents_auth.families import Families
from mcp_agents_auth.invitations import Invitations
from mcp_agents_auth.tenants import FRESH_SECONDS, Tenants
from mcp_agents_auth.users import Users

log = logging.getLogger("mcp_agents.erasure")

SETTLED: Final = timedelta(seconds=2 * FRESH_SECONDS)
"""After so long nobody takes the tenant for active any more."""
_AGAIN_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 60.0
_SWEEPER: Final = Principal(tenant=PLATFORM, subject="erasure", scopes=frozenset())


class Erasure:
    """Erases tenants."""

    def __init__(
        self,
        tenancy: Tenancy,
        trail: AuditTrail,
        *,
        tenants: Tenants,
        users: Users,
        clients: Clients,
        families: Families,
        invitations: Invitations,
        clock: Clock,
    ) -> None:
        self._tenancy, self._trail, self._clock = tenancy, trail, clock
        self._tenants, self._users, self._clients = tenants, users, clients
        self._families, self._invitations = families, invitations

    async def begin(self, name: str, who: Principal) -> None:
        """From now on the tenant is closed, and every sweep takes more of it. Raises `NotFound`."""
        await self._tenants.get(name)
        audit: Audit = self._trail
        async with audited(audit, PLATFORM, Deed(who, "tenant_delete", name)):
            await self._tenants.begin_erasure(name)

    async def sweep(self, name: str) -> bool:
        """Removes what there is now; True when the tenant is gone. Can be repeated, and broken off anywhere."""
        try:
            since = (await self._tenants.get(name)).erased_since
        except NotFound:
            return True  # another process was faster
        if since is None:
            return False
        erased = await self._tenancy.erase(name)
        erased += await self._invitations.erase(name)
        erased += await self._families.erase(name)
        erased += await self._clients.erase(name)
        members = await self._users.list(name)
        for user in members:
            await self._users.leave(user.id, name)
        await self._trail.erase(
            name
        )  # each time: a writer that was late may have noted the end of a chain that is gone
        if erased or members or self._clock.now() - since < SETTLED:
            return False
        await self._trail.note(PLATFORM, Deed(_SWEEPER, "tenant_erased", name), "done")
        await self._tenants.forget(name)
        return True

    async def finish(self, name: str) -> None:
        """Sweeps until the tenant is gone; takes ten seconds at least."""
        while not await self.sweep(name):
            await anyio.sleep(_AGAIN_SECONDS)

    async def keep(self) -> None:
        """Finishes whatever erasures others began and left; until cancelled."""
        while True:
            try:
                for tenant in await self._tenants.list():
                    if tenant.erased_since is not None and self._clock.now() - tenant.erased_since > SETTLED:
                        await self.sweep(tenant.name)
            except AgentsError as error:
                log.warning("an erasure goes on later: %s", error)
            await anyio.sleep(_LOOK_SECONDS)
