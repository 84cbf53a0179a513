"""Invitations: somebody may become a member of a tenant with these roles, once, within three days.

The link proves that the inviter meant whoever holds it; that this is who the address belongs to, the inviter has to
know. Whoever has a user already takes it with their password, anybody else chooses one. Above: `administration`, the
pages.
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, NotFound, WrongRevision
from mcp_agents.kernel.scopes import of_roles
from mcp_agents.kernel.tenancy import PlatformSpace, Versioned
from mcp_agents_auth.clients import Clients
from mcp_agents_auth.handles import digest, new_handle, same
from mcp_agents_auth.tenants import Tenants
from mcp_agents_auth.users import User, Users

LIFE: Final = timedelta(hours=72)


class Invitation(Struct, frozen=True, kw_only=True):
    """One invitation; of its link only the digest of the secret half is kept."""

    v: int = 1
    id: str
    tenant: str
    email: str
    roles: list[str]
    invited_by: str
    secret_digest: str
    created_at: datetime
    expires_at: datetime


class Invitations:
    """The register of open invitations."""

    def __init__(self, platform: PlatformSpace, tenants: Tenants, users: Users, clients: Clients, clock: Clock) -> None:
        self._records = platform.records("cb_auth", "invitation", kind=Invitation)
        self._tenants, self._users, self._clients, self._clock = tenants, users, clients, clock

    async def create(self, tenant: str, email: str, roles: frozenset[str], by: str) -> tuple[Invitation, str]:
        """A new invitation and its token; older ones for the same address end. `email` is normalised."""
        for old in await self.list(tenant):
            if old.email == email:
                await self.withdraw(tenant, old.id)
        now, secret = self._clock.now(), new_handle()
        invitation = Invitation(
            id=ids.mint("inv", self._clock),
            tenant=tenant,
            email=email,
            roles=sorted(roles),
            invited_by=by,
            secret_digest=digest(secret),
            created_at=now,
            expires_at=now + LIFE,
        )
        await self._records.create(invitation.id, value=invitation, ttl=int(LIFE.total_seconds()) + 1)
        return invitation, f"{invitation.id}.{secret}"

    async def list(self, tenant: str) -> list[Invitation]:
        """A tenant's open invitations, oldest first."""
        now = self._clock.now()
        every = [found.value for found in await self._records.all()]
        return [each for each in every if each.tenant == tenant and each.expires_at > now]

    async def withdraw(self, tenant: str, invitation_id: str) -> None:
        """Ends an invitation. Raises `NotFound`, for another tenant's too."""
        found = await self._records.get(invitation_id) if ids.is_id(invitation_id, "inv") else None
        if found is None or found.value.tenant != tenant:
            raise NotFound("INVITATION_NOT_FOUND", "There is no such invitation.", "See user_list.")
        await self._burn(found)

    async def withdraw_of(self, tenant: str, user_id: str) -> None:
        """Ends every invitation that this person gave."""
        for each in await self.list(tenant):
            if each.invited_by == user_id:
                await self.withdraw(tenant, each.id)

    async def find(self, token: str) -> tuple[Invitation, User | None]:
        """The invitation behind a link and the user who has its address, if anybody.

        Raises `Denied` (`INVITATION_INVALID`): unknown, used, expired, withdrawn, or of a tenant that is not active.
        """
        invitation = (await self._found(token)).value
        return invitation, await self._users.find(invitation.email)

    async def accept(self, token: str, password: str) -> User:
        """Makes the person a member: one with this address proves itself by its password, else a new one chooses it.

        Raises `Denied`, `Invalid` (a password that is too short; the invitation stays), `Exhausted`.
        """
        found = await self._found(token)
        invitation, roles = found.value, frozenset(found.value.roles)
        user = await self._users.find(invitation.email)
        if user is not None:
            user = await self._users.verify(invitation.email, password)
            if not await self._burn(found):
                raise _invalid()
            return await self._users.change_roles(user.id, invitation.tenant, give=roles)
        self._users.check_password(password)
        if not await self._burn(found):
            raise _invalid()
        return await self._users.create(invitation.email, password, invitation.tenant, roles)

    async def erase(self, tenant: str) -> int:
        """Removes a tenant's invitations; returns how many there were."""
        gone = await self.list(tenant)
        for each in gone:
            await self.withdraw(tenant, each.id)
        return len(gone)

    async def _found(self, token: str) -> Versioned[Invitation]:
        name, _, secret = token.partition(".")
        found = await self._records.get(name) if ids.is_id(name, "inv") else None
        if found is None or not same(digest(secret), found.value.secret_digest):
            raise _invalid()
        if found.value.expires_at <= self._clock.now() or not await self._tenants.active(found.value.tenant):
            raise _invalid()
        if not await self._may_still_give(found.value):
            raise _invalid()
        return found

    async def _may_still_give(self, invitation: Invitation) -> bool:
        """Whether who gave it, a person or a program, could give it now; the command line is not asked again."""
        if ids.is_id(invitation.invited_by, "us"):
            try:
                held = of_roles((await self._users.get(invitation.invited_by)).roles(invitation.tenant))
            except NotFound:
                return False
        elif client := await self._clients.find(invitation.invited_by):
            held = client.allowed() if client.active else frozenset()
        else:
            return True
        return "tenancy:admin" in held and of_roles(frozenset(invitation.roles)) <= held

    async def _burn(self, found: Versioned[Invitation]) -> bool:
        """Uses it up; False when somebody else was faster."""
        try:
            await self._records.delete(found.value.id, revision=found.revision)
        except WrongRevision:
            return False
        return True


def _invalid() -> Denied:
    return Denied(
        "INVITATION_INVALID", "This invitation was used, withdrawn, or is too old.", "Ask for another invitation."
    )
