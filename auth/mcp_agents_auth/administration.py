"""Fills the kernel's `Administration` out of the registers: what administrators of a tenant may do to it.

Here it is decided who may give what to whom; the registers only store it. Not audited here: the door writes down every
tool that needs an administrator's right before it runs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlencode

from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.administration import ClientOrder, ClientView, Invited, Member, Registered, TenantView
from mcp_agents.kernel.errors import Conflict, Denied, Invalid, NotFound, Unavailable, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import of_roles
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.client_keys import check_keys
from mcp_agents_auth.clients import USER_GRANTS, Client, Clients, GrantType
from mcp_agents_auth.families import Families
from mcp_agents_auth.invitations import Invitation, Invitations
from mcp_agents_auth.standing import Standings
from mcp_agents_auth.tenants import Tenants
from mcp_agents_auth.users import User, Users, normalised

_MACHINE: Final = frozenset[GrantType]({"client_credentials"})
_LOCK_SECONDS: Final = 10
_RIGHT: Final = "tenancy:admin"


class Lock(Struct, frozen=True, kw_only=True):
    """That somebody is just changing who administers a tenant."""

    v: int = 1
    leaving: str


class TenantAdministration:
    """See the port."""

    def __init__(
        self,
        platform: PlatformSpace,
        *,
        tenants: Tenants,
        users: Users,
        clients: Clients,
        families: Families,
        invitations: Invitations,
        standings: Standings,
        issuer: str,
    ) -> None:
        self._locks = platform.records("cb_auth", "administering", kind=Lock)
        self._tenants, self._users, self._clients, self._families = tenants, users, clients, families
        self._invitations, self._standings = invitations, standings
        self._issuer = issuer

    async def tenant(self, caller: Principal) -> TenantView:
        """See the port."""
        tenant = await self._tenants.get(caller.tenant)
        members = [user for user in await self._users.list(tenant.name) if user.roles(tenant.name)]
        clients = [client for client in await self._clients.list(tenant.name) if client.active]
        return TenantView(
            name=tenant.name,
            title=tenant.title,
            members=len(members),
            clients=len(clients),
            created_at=tenant.created_at,
        )

    async def rename(self, caller: Principal, title: str) -> TenantView:
        """See the port."""
        await self._require(caller)
        await self._tenants.rename(caller.tenant, title)
        return await self.tenant(caller)

    async def members(self, caller: Principal) -> list[Member]:
        """See the port."""
        members = [_member(user, caller.tenant) for user in await self._users.list(caller.tenant)]
        return members + [_invited(each) for each in await self._invitations.list(caller.tenant)]

    async def invite(self, caller: Principal, email: str, roles: frozenset[str]) -> Invited:
        """See the port."""
        await self._require(caller, gives=of_roles(roles))
        email = normalised(email)
        if any(user.email == email for user in await self._users.list(caller.tenant)):
            raise Conflict("MEMBER_EXISTS", "This address is a member already.", "Change its roles with role_assign.")
        invitation, token = await self._invitations.create(caller.tenant, email, roles, caller.subject)
        return Invited(
            invitation=_invited(invitation), link=f"{self._issuer}/oauth/invitation?{urlencode({'token': token})}"
        )

    async def remove(self, caller: Principal, member_id: str) -> None:
        """See the port."""
        await self._require(caller)
        if ids.is_id(member_id, "inv"):
            await self._invitations.withdraw(caller.tenant, member_id)
            return
        async with self._leaving_an_admin(caller.tenant, member_id):
            await self._invitations.withdraw_of(caller.tenant, member_id)
            await self._users.leave(member_id, caller.tenant)
        await self._families.revoke_of(caller.tenant, member_id)

    async def suspend(self, caller: Principal, user_id: str, *, suspended: bool) -> Member:
        """See the port."""
        await self._require(caller)
        if not suspended:
            await self._member(caller.tenant, user_id)
            return _member(await self._users.set_suspended(user_id, caller.tenant, suspended=False), caller.tenant)
        async with self._leaving_an_admin(caller.tenant, user_id):
            await self._invitations.withdraw_of(caller.tenant, user_id)
            return _member(await self._users.set_suspended(user_id, caller.tenant, suspended=True), caller.tenant)

    async def give_roles(self, caller: Principal, user_id: str, roles: frozenset[str]) -> Member:
        """See the port."""
        await self._require(caller, gives=of_roles(roles))
        await self._member(caller.tenant, user_id)
        return _member(await self._users.change_roles(user_id, caller.tenant, give=roles), caller.tenant)

    async def take_roles(self, caller: Principal, user_id: str, roles: frozenset[str]) -> Member:
        """See the port."""
        await self._require(caller)
        member = await self._member(caller.tenant, user_id)
        if not frozenset(member.memberships[caller.tenant]) - roles:
            raise Invalid("ROLES_EMPTY", "A member has at least one role.", "Remove the member with user_remove.")
        if "admin" not in roles:
            return _member(await self._users.change_roles(user_id, caller.tenant, take=roles), caller.tenant)
        async with self._leaving_an_admin(caller.tenant, user_id):
            return _member(await self._users.change_roles(user_id, caller.tenant, take=roles), caller.tenant)

    async def clients(self, caller: Principal) -> list[ClientView]:
        """See the port."""
        return [_client(each) for each in await self._clients.list(caller.tenant)]

    async def register_client(self, caller: Principal, order: ClientOrder) -> Registered:
        """See the port."""
        roles, scopes = frozenset(order.roles), frozenset(order.scopes)
        await self._require(caller, gives=of_roles(roles) | scopes)
        credentials = order.credentials or bool(order.keys)
        if order.keys:
            check_keys(list(order.keys))  # before anything is made
        client, secret = await self._clients.register(
            caller.tenant,
            order.name,
            redirect_uris=order.redirect_uris,
            grant_types=(USER_GRANTS if order.redirect_uris or not credentials else frozenset())
            | (_MACHINE if credentials else frozenset()),
            scopes=scopes,
            roles=roles,
            confidential=credentials,
        )
        if order.keys:
            client, secret = await self._clients.set_keys(caller.tenant, client.id, list(order.keys)), None
        return Registered(client=_client(client), client_secret=secret or "")

    async def revoke_client(self, caller: Principal, client_id: str) -> ClientView:
        """See the port."""
        await self._require(caller)
        return _client(await self._clients.revoke(caller.tenant, client_id))

    async def _require(self, caller: Principal, *, gives: frozenset[str] = frozenset()) -> None:
        """Raises `Denied` unless this person may administer, and give these rights, at this moment: whoever was put out
        a second ago makes no client to come back with."""
        require_person(caller)
        held = caller.scopes
        if caller.grant:
            standing = await self._standings.now(caller.grant)
            held &= standing.scopes if standing else frozenset()
        if missing := {_RIGHT, *gives} - held:
            raise Denied(
                "RIGHTS_EXCEEDED",
                "Nobody can give more rights than they hold.",
                "Sign in again with these scopes, or give a smaller role.",
                details={"required_scopes": sorted(missing)},
            )

    async def _member(self, tenant: str, user_id: str) -> User:
        """A member of this tenant. Raises `NotFound`, for everybody else too."""
        with suppress(NotFound):
            user = await self._users.get(user_id)
            if tenant in user.memberships:
                return user
        raise NotFound("MEMBER_NOT_FOUND", "There is no such member.", "See user_list.")

    @asynccontextmanager
    async def _leaving_an_admin(self, tenant: str, user_id: str) -> AsyncIterator[None]:
        """While the context is open nobody else changes who administers; somebody else than this member does."""
        await self._member(tenant, user_id)
        try:
            held = await self._locks.create(tenant, value=Lock(leaving=user_id), ttl=_LOCK_SECONDS)
        except WrongRevision as other:
            raise Unavailable(
                "BUSY", "Somebody else is changing who administers.", "Try again.", retry_after_ms=1000
            ) from other
        try:
            if not any("admin" in user.roles(tenant) for user in await self._users.list(tenant) if user.id != user_id):
                raise Conflict(
                    "LAST_ADMIN",
                    "The last administrator of a tenant stays.",
                    "Give somebody else the role admin first.",
                )
            yield
        finally:
            with suppress(WrongRevision):
                await self._locks.delete(tenant, revision=held)


def require_person(caller: Principal) -> None:
    """Raises `Denied` for whoever acts for somebody else."""
    if caller.actors:
        raise Denied(
            "ADMINISTRATION_NEEDS_PERSON", "Whoever acts for somebody cannot do this.", "Ask an administrator to do it."
        )


def _member(user: User, tenant: str) -> Member:
    return Member(
        id=user.id,
        email=user.email,
        roles=tuple(sorted(user.memberships.get(tenant, ()))),
        state="active" if user.roles(tenant) else "suspended",
        created_at=user.created_at,
    )


def _invited(invitation: Invitation) -> Member:
    return Member(
        id=invitation.id,
        email=invitation.email,
        roles=tuple(invitation.roles),
        state="invited",
        created_at=invitation.created_at,
        expires_at=invitation.expires_at,
    )


def _client(client: Client) -> ClientView:
    return ClientView(
        id=client.id,
        name=client.name,
        redirect_uris=tuple(client.redirect_uris),
        grant_types=tuple(client.grant_types),
        roles=tuple(client.roles),
        scopes=tuple(client.scopes),
        active=client.active,
        created_at=client.created_at,
    )
