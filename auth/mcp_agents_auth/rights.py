"""What is left of a caller's rights while its runs go on; fills the kernel's `Rights`.

Where `standing` says what a token is worth to a new request, this says what a run may still do that was accepted
before. A token or a grant that has merely expired takes nothing away. These end every run of the caller at its next
gate: the grant was revoked (a grant's revocation is kept longer than the grant), the tenant is suspended or gone, the
person is suspended, was removed from the tenant or has a new password, the client was revoked. A role or a scope that
was taken away shrinks what is left. Rights never grow back: what the run was accepted with is the most.
"""

from dataclasses import dataclass, replace
from typing import Final

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, NotFound
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import of_roles
from mcp_agents_auth.clients import Client, Clients
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.tenants import FRESH_SECONDS, Tenants
from mcp_agents_auth.tokens import DIRECT_CLIENT
from mcp_agents_auth.users import Users

_CACHED: Final = 8192
_Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Left:
    """The most that may be used (None: all that was granted), and the roles held now."""

    scopes: frozenset[str] | None
    roles: frozenset[str]


class CallerRights:
    """Answers for callers out of the registers, kept for five seconds by the clock."""

    def __init__(self, *, tenants: Tenants, users: Users, clients: Clients, families: Families, clock: Clock) -> None:
        self._tenants, self._users, self._clients, self._families = tenants, users, clients, families
        self._clock = clock
        self._seen: dict[_Key, tuple[_Left, float]] = {}

    async def now(self, principal: Principal) -> Principal:
        """See the port. A caller without a grant is the local owner, whose rights nobody can take."""
        if not principal.grant:
            return principal
        key = principal.tenant, principal.subject, principal.client, principal.grant
        now = self._clock.monotonic()
        seen = self._seen.get(key)
        if seen is None or seen[1] <= now:
            seen = await self._look(principal), now + FRESH_SECONDS  # a refusal is not kept: it may be lifted
            if len(self._seen) >= _CACHED:
                self._seen.clear()
            self._seen[key] = seen
        left = seen[0]
        scopes = principal.scopes if left.scopes is None else principal.scopes & left.scopes
        return replace(principal, scopes=scopes, roles=left.roles)

    async def _look(self, principal: Principal) -> _Left:
        try:
            await self._tenants.require_active(principal.tenant)
        except NotFound as gone:
            raise _revoked() from gone
        family = await self._families.find(principal.grant)
        if family is not None and family.revoked:
            raise _revoked()
        if family.kind == "direct" if family else principal.client == DIRECT_CLIENT:
            return _Left(None, principal.roles)  # made on the command line, by whoever holds the data folder
        client = await self._client(principal)
        if principal.subject == client.id:
            return _Left(client.allowed(), frozenset(client.roles))
        return await self._of_person(principal, client, family)

    async def _client(self, principal: Principal) -> Client:
        client = await self._clients.find(principal.client)
        if client is None or not client.active or client.tenant not in ("", principal.tenant):
            raise _revoked()
        return client

    async def _of_person(self, principal: Principal, client: Client, family: Family | None) -> _Left:
        try:
            user = await self._users.get(principal.subject)
        except NotFound as gone:
            raise _revoked() from gone
        roles = user.roles(principal.tenant)
        if not roles or (family is not None and user.generation != family.generation):
            raise _revoked()
        return _Left(client.allowed() & of_roles(roles), roles)


def _revoked() -> Denied:
    return Denied(
        "CALLER_REVOKED",
        "The rights of whoever asked for this were taken away.",
        "Sign in again and ask again, or ask an administrator.",
    )
