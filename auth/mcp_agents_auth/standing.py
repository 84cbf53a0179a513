"""What a grant is worth now: the family, its tenant, its client and its user, looked at again.

A token says what was granted; this says what is left of it. Asked on every request, answered from the store at
most every five seconds per family. A missing record is a refusal.
"""

from dataclasses import dataclass
from typing import Final

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, NotFound
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, TENANT_SCOPES, of_roles
from mcp_agents_auth.clients import Client, Clients
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.tenants import FRESH_SECONDS, Tenants
from mcp_agents_auth.users import User, Users

_CACHED: Final = 8192


@dataclass(frozen=True, slots=True)
class Standing:
    """The scopes that may be used under a family at most, and the roles its holder has now."""

    family: Family
    scopes: frozenset[str]
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Seen:
    standing: Standing | None
    until: float


class Standings:
    """Answers for families, cached for five seconds by the clock."""

    def __init__(self, *, tenants: Tenants, users: Users, clients: Clients, families: Families, clock: Clock) -> None:
        self._tenants, self._users, self._clients, self._families = tenants, users, clients, families
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    async def of(self, sid: str) -> Standing | None:
        """The family's standing, at most five seconds old; None when nothing of it may be used."""
        now = self._clock.monotonic()
        seen = self._seen.get(sid)
        if seen is None or seen.until <= now:
            family = await self._families.get(sid)
            seen = _Seen(await self.look(family) if family else None, now + FRESH_SECONDS)
            if len(self._seen) >= _CACHED:
                self._seen.clear()
            self._seen[sid] = seen
        return seen.standing

    async def now(self, sid: str) -> Standing | None:
        """The family's standing as of this moment; for what stays open for long."""
        family = await self._families.get(sid)
        there = family is not None and await self._tenants.active(family.tenant)
        standing = await self.look(family) if family and there else None
        self._seen[sid] = _Seen(standing, self._clock.monotonic() + FRESH_SECONDS)
        return standing

    def forget(self, sid: str) -> None:
        """Looks at the store the next time; for whoever revoked in this process."""
        self._seen.pop(sid, None)

    async def look(self, family: Family) -> Standing | None:
        """The standing as of the store, not cached but for the tenant's."""
        try:
            await self._tenants.require_active(family.tenant)
        except (NotFound, Denied):
            return None
        if family.kind == "direct":
            return Standing(family, frozenset(family.scopes), frozenset())
        client = await self._clients.find(family.client_id)
        if client is None or not client.active or client.tenant not in ("", family.tenant):
            return None
        if family.kind == "client":
            return Standing(family, frozenset(family.scopes) & client.allowed(), frozenset(client.roles))
        try:
            user = await self._users.get(family.subject)
        except NotFound:
            return None
        if user.generation != family.generation:
            return None
        scopes = frozenset(family.scopes) & grantable(client, user, family.tenant)
        return Standing(family, scopes, user.roles(family.tenant)) if scopes else None


def grantable(client: Client, user: User, tenant: str) -> frozenset[str]:
    """What this client can be granted by this user in this tenant. Never `platform:admin`."""
    if client.tenant not in ("", tenant):
        return frozenset()
    return client.allowed() & of_roles(user.roles(tenant)) & TENANT_SCOPES


def narrowed(requested: frozenset[str] | None, possible: frozenset[str]) -> frozenset[str]:
    """What to grant: all of it when nothing was asked for, but `platform:admin` only when it was named."""
    return possible - {PLATFORM_ADMIN} if requested is None else possible & requested
