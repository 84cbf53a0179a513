"""Port: a tenant's own affairs, as an administrator of it sees them: its name, people, invitations, roles, clients.

Every method takes who asks and reaches that caller's tenant alone. Nobody gives away more than they hold, the last
administrator stays, and agents do not administer. Above: the surface; filled by the authorization server, which keeps
the registers. Not the command line's way: that has the data folder, and with it every right.
"""

from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from mcp_agents.kernel.principal import Principal


class TenantView(Struct, frozen=True, kw_only=True):
    """A tenant. `members` and `clients` count those that can sign in."""

    name: str
    title: str
    members: int
    clients: int
    created_at: datetime


class Member(Struct, frozen=True, kw_only=True):
    """A person in a tenant, or one who is invited: then `id` is the invitation's and `expires_at` its end."""

    id: str
    email: str
    roles: tuple[str, ...]
    state: Literal["active", "suspended", "invited"]
    created_at: datetime
    expires_at: datetime | None = None


class Invited(Struct, frozen=True, kw_only=True):
    """An invitation and its link, which is shown this once."""

    invitation: Member
    link: str


class ClientView(Struct, frozen=True, kw_only=True):
    """An OAuth client of a tenant. `scopes` are what it has besides those of its roles."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...]
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    active: bool
    created_at: datetime


class ClientOrder(Struct, frozen=True, kw_only=True):
    """What a new client is to be. With `credentials` it is a program that signs in as itself, with a secret; with
    public `keys` (JWKs) it is one that signs assertions."""

    name: str
    redirect_uris: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    credentials: bool = False
    keys: tuple[dict[str, str], ...] = ()


class Registered(Struct, frozen=True, kw_only=True):
    """A client and its secret ("" where it has none), which is shown this once."""

    client: ClientView
    client_secret: str


class Administration(Protocol):
    """Raises `Denied` (`ADMINISTRATION_NEEDS_PERSON`, `RIGHTS_EXCEEDED`), `NotFound`, `Conflict` (`LAST_ADMIN`)."""

    async def tenant(self, caller: Principal) -> TenantView:
        """The caller's tenant."""
        ...

    async def rename(self, caller: Principal, title: str) -> TenantView:
        """Gives the tenant another title; its name stays."""
        ...

    async def members(self, caller: Principal) -> list[Member]:
        """Members and then open invitations, each oldest first."""
        ...

    async def invite(self, caller: Principal, email: str, roles: frozenset[str]) -> Invited:
        """Invites somebody; the answer does not tell whether the address is known elsewhere.

        An older invitation of the same address ends. Raises `Conflict` (`MEMBER_EXISTS`).
        """
        ...

    async def remove(self, caller: Principal, member_id: str) -> None:
        """Ends a membership, with every grant made in it, or withdraws an invitation."""
        ...

    async def suspend(self, caller: Principal, user_id: str, *, suspended: bool) -> Member:
        """Suspends or resumes a member, in this tenant only; felt within five seconds."""
        ...

    async def give_roles(self, caller: Principal, user_id: str, roles: frozenset[str]) -> Member:
        """Adds roles to a member's."""
        ...

    async def take_roles(self, caller: Principal, user_id: str, roles: frozenset[str]) -> Member:
        """Takes roles from a member, who keeps at least one (`ROLES_EMPTY`)."""
        ...

    async def clients(self, caller: Principal) -> list[ClientView]:
        """The tenant's clients, revoked ones too, oldest first."""
        ...

    async def register_client(self, caller: Principal, order: ClientOrder) -> Registered:
        """A new client with at most the caller's own rights."""
        ...

    async def revoke_client(self, caller: Principal, client_id: str) -> ClientView:
        """Ends a client and, within five seconds, every token it holds."""
        ...
