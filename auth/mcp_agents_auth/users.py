"""People: who they are, how they prove it, and which roles they hold in which tenant.

A user is a member of one or more tenants. Proof is a password or a one-time sign-in link. Not here: what a
role may do (`kernel.scopes`), browser sessions (`sessions`), grants to clients (`families`).
"""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.audit import Audit, Deed
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Denied, Exhausted, Invalid, NotFound, Unavailable, WrongRevision
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import ROLES
from mcp_agents.kernel.tenancy import PlatformSpace, Versioned
from mcp_agents_auth.changes import change
from mcp_agents_auth.handles import digest, new_handle
from mcp_agents_auth.passwords import Passwords

TICKET_SECONDS: Final = 24 * 3600
ATTEMPTS: Final = 10
ATTEMPT_WINDOW_SECONDS: Final = 15 * 60

_EMAIL: Final = re.compile(r"[^\s@<>\"'\x00-\x1f]{1,128}@[A-Za-z0-9.-]{1,120}")


class User(Struct, frozen=True, kw_only=True):
    """One person. `generation` grows with every new password and suspension: what was built on it ends."""

    v: int = 1
    id: str
    email: str
    password: str = ""
    memberships: dict[str, list[str]]
    suspended_in: list[str] = []
    active: bool = True
    generation: int = 0
    created_at: datetime
    identities: dict[str, dict[str, str]] = {}
    """By tenant and identity provider: the digest of the subject there that is this member."""

    def roles(self, tenant: str) -> frozenset[str]:
        """The roles held in a tenant; none when not a member or suspended."""
        here = self.active and tenant not in self.suspended_in
        return frozenset(self.memberships.get(tenant, ())) if here else frozenset()

    def could_be(self, tenant: str, issuer: str, subject: str) -> bool:
        """Whether a subject of an identity provider is this member, or nobody there is yet."""
        return self.identities.get(tenant, {}).get(issuer, digest(subject)) == digest(subject)


class EmailRef(Struct, frozen=True, kw_only=True):
    """Which user has an address; its key is the digest of the address."""

    v: int = 1
    user_id: str


class Ticket(Struct, frozen=True, kw_only=True):
    """A one-time sign-in link, stored under the digest of what was given out."""

    v: int = 1
    user_id: str
    expires_at: datetime


class Attempts(Struct, frozen=True, kw_only=True):
    """Sign-ins tried on one address since `since`, whether or not such a user exists."""

    v: int = 1
    count: int
    since: datetime


class Users:
    """The register of people."""

    def __init__(self, platform: PlatformSpace, clock: Clock, audit: Audit, passwords: Passwords | None = None) -> None:
        self._users = platform.records("cb_auth", "user", kind=User)
        self._emails = platform.records("cb_auth", "email", kind=EmailRef)
        self._tickets = platform.records("cb_auth", "ticket", kind=Ticket)
        self._attempts = platform.records("cb_auth", "attempts", kind=Attempts)
        self._clock, self._audit = clock, audit
        self._passwords = passwords or Passwords()

    async def create(self, email: str, password: str | None, tenant: str, roles: frozenset[str]) -> User:
        """A new person, member of `tenant`. Without a password only a one-time link lets them in.

        Raises `Invalid` for a malformed address, role or password, `Conflict` when the address is taken.
        """
        email = normalised(email)
        _check_roles(roles)
        encoded = await self._passwords.hash(password) if password is not None else ""
        user = User(
            id=ids.mint("us", self._clock),
            email=email,
            password=encoded,
            memberships={tenant: sorted(roles)},
            created_at=self._clock.now(),
        )
        await self._take_email(email, user.id)
        await self._users.create(user.id, value=user)
        return user

    async def get(self, user_id: str) -> User:
        """The user with this id. Raises `NotFound`."""
        found = await self._users.get(user_id) if ids.is_id(user_id, "us") else None
        if found is None:
            raise _unknown()
        return found.value

    async def find(self, email: str) -> User | None:
        """The user with this address, or None."""
        ref = await self._emails.get(digest(email.strip().casefold()))
        found = await self._users.get(ref.value.user_id) if ref else None
        return found.value if found else None

    async def list(self, tenant: str | None = None) -> list[User]:
        """Everybody, or the members of one tenant, oldest first."""
        users = [found.value for found in await self._users.all()]
        return [user for user in users if tenant is None or tenant in user.memberships]

    async def set_roles(self, user_id: str, tenant: str, roles: frozenset[str]) -> User:
        """Gives exactly these roles in a tenant; none ends the membership. Raises `NotFound`, `Invalid`."""
        _check_roles(roles, may_be_empty=True)

        return await self._change(user_id, lambda old: _with_roles(old, tenant, roles))

    async def change_roles(
        self, user_id: str, tenant: str, *, give: frozenset[str] = frozenset(), take: frozenset[str] = frozenset()
    ) -> User:
        """Adds roles to those of a member, or takes some. Raises `NotFound`, `Invalid`."""
        _check_roles(give | take)
        return await self._change(
            user_id, lambda old: _with_roles(old, tenant, (frozenset(old.memberships.get(tenant, ())) | give) - take)
        )

    async def set_suspended(self, user_id: str, tenant: str, *, suspended: bool) -> User:
        """Suspends or resumes a membership; other tenants of this person notice nothing. Raises `NotFound`."""

        def to(old: User) -> User:
            others = [name for name in old.suspended_in if name != tenant]
            return msgspec.structs.replace(old, suspended_in=[*others, tenant] if suspended else others)

        return await self._change(user_id, to)

    async def tie(self, user: User, tenant: str, issuer: str, subject: str) -> bool:
        """Makes a subject of an identity provider this member, unless another is: that one stays for as long as the
        membership. Returns whether it is; of somebody who is gone, that it is not."""
        if issuer in user.identities.get(tenant, {}):
            return user.could_be(tenant, issuer, subject)
        who = Principal(tenant=tenant, subject=user.id, scopes=frozenset())
        await self._audit.note(tenant, Deed(who, "identity_tie", user.id), "begun")

        def to(old: User) -> User:
            here = old.identities.get(tenant, {})
            if tenant not in old.memberships or issuer in here:
                return old
            return msgspec.structs.replace(old, identities=old.identities | {tenant: here | {issuer: digest(subject)}})

        tied = await change(self._users, user.id, to=to)
        return tied is not None and tied.identities.get(tenant, {}).get(issuer) == digest(subject)

    async def leave(self, user_id: str, tenant: str) -> None:
        """Ends a membership; whoever has no other is forgotten altogether."""
        await self.set_roles(user_id, tenant, frozenset())
        found = await self._users.get(user_id)
        if found is not None and not found.value.memberships:
            await self._remove(found)

    async def delete(self, user_id: str) -> None:
        """Forgets a person and frees the address. Raises `NotFound`."""
        await self.get(user_id)
        while found := await self._users.get(user_id):
            if await self._remove(found):
                return

    async def _remove(self, found: Versioned[User]) -> bool:
        """Forgets a person as read, and then frees the address; False when the record moved on."""
        try:
            await self._users.delete(found.value.id, revision=found.revision)
        except WrongRevision:
            return False
        address = digest(found.value.email)
        email = await self._emails.get(address)
        if email is not None and email.value.user_id == found.value.id:
            with suppress(WrongRevision):
                await self._emails.delete(address, revision=email.revision)
        return True

    def check_password(self, password: str) -> None:
        """Raises `Invalid` for a password that nobody may choose."""
        self._passwords.check(password)

    async def set_active(self, user_id: str, *, active: bool) -> User:
        """Suspends or resumes a person; suspending ends sessions and grants. Raises `NotFound`."""

        def to(old: User) -> User:
            if old.active == active:
                return old
            return msgspec.structs.replace(old, active=active, generation=old.generation + 1)

        return await self._change(user_id, to)

    async def set_password(self, user_id: str, password: str) -> User:
        """Sets a password and ends every session and grant built on the old one. Raises `Invalid`, `NotFound`."""
        encoded = await self._passwords.hash(password)

        def to(old: User) -> User:
            return msgspec.structs.replace(old, password=encoded, generation=old.generation + 1)

        return await self._change(user_id, to)

    async def verify(self, email: str, password: str) -> User:
        """The person with this address and password.

        An unknown address costs the same work and reads the same as a wrong password. Raises `Denied`
        (`SIGN_IN_FAILED`), or `Exhausted` (`SIGN_IN_LOCKED`) after ten tries in fifteen minutes.
        """
        address = digest(email.strip().casefold())
        await self._count(address)  # before the work: a burst in parallel gets no more than ten tries either
        user = await self.find(email)
        fits = await self._passwords.verify(password, user.password if user else "")
        good = user is not None and fits and user.active
        # Written down for an unknown address too, or the time it takes would tell which addresses there are.
        await self._note_sign_in(user, good=good)
        if user is None or not good:
            raise Denied("SIGN_IN_FAILED", "The address or the password is wrong.", "Check both and try again.")
        await self._forget(address)
        return user

    async def create_ticket(self, user: User) -> str:
        """A one-time sign-in link's token, valid for 24 hours."""
        token = new_handle()
        ticket = Ticket(user_id=user.id, expires_at=self._clock.now() + timedelta(seconds=TICKET_SECONDS))
        await self._tickets.create(digest(token), value=ticket, ttl=TICKET_SECONDS)
        return token

    async def ticket_user(self, token: str) -> User | None:
        """Whose ticket this is, without using it up; None when it is unknown, used or expired."""
        found = await self._tickets.get(digest(token))
        if found is None or found.value.expires_at <= self._clock.now():
            return None
        user = await self._users.get(found.value.user_id)
        return user.value if user and user.value.active else None

    async def redeem_ticket(self, token: str, password: str) -> User:
        """Uses a ticket up and sets the person's password. Raises `Invalid` (ticket intact) or `Denied`."""
        self._passwords.check(password)
        found = await self._tickets.get(digest(token))
        user = await self.ticket_user(token)
        if found is None or user is None:
            raise _used_up()
        try:
            await self._tickets.delete(digest(token), revision=found.revision)
        except WrongRevision as raced:
            raise _used_up() from raced
        await self._note_sign_in(user, good=True)
        return await self.set_password(user.id, password)

    async def _note_sign_in(self, user: User | None, *, good: bool) -> None:
        """In the platform's trail: which tenant it is for, nobody knows before a client is let in."""
        who = Principal(tenant=PLATFORM, subject=user.id if user else "unknown", scopes=frozenset())
        await self._audit.note(
            PLATFORM, Deed(who, "sign_in"), "done" if good else "failed", "" if good else "SIGN_IN_FAILED"
        )

    async def _take_email(self, email: str, user_id: str) -> None:
        held = await self._emails.get(digest(email))
        if held is not None and await self._users.get(held.value.user_id) is not None:
            raise _taken()
        try:  # an address whose user was never written belongs to a creation that died half-way
            await self._emails.update(
                digest(email), value=EmailRef(user_id=user_id), revision=held.revision if held else 0
            )
        except WrongRevision as raced:
            raise _taken() from raced

    async def _count(self, address: str) -> None:
        for _ in range(64):
            found = await self._attempts.get(address)
            now = self._clock.now()
            until = found.value.since + timedelta(seconds=ATTEMPT_WINDOW_SECONDS) if found else now
            old = found.value if found and now < until else Attempts(count=0, since=now)
            if old.count >= ATTEMPTS:
                raise Exhausted(
                    "SIGN_IN_LOCKED",
                    "Too many failed sign-ins for this address.",
                    "Wait fifteen minutes, or ask for a one-time sign-in link.",
                    retry_after_ms=int((until - now).total_seconds() * 1000),
                )
            try:
                await self._attempts.update(
                    address,
                    value=Attempts(count=old.count + 1, since=old.since),
                    revision=found.revision if found else 0,
                    ttl=ATTEMPT_WINDOW_SECONDS,
                )
            except WrongRevision:
                continue
            return
        raise Unavailable("BUSY", "Too many sign-ins at once.", "Try again.")

    async def _forget(self, address: str) -> None:
        found = await self._attempts.get(address)
        if found is not None:
            try:
                await self._attempts.delete(address, revision=found.revision)
            except WrongRevision:
                return  # somebody is trying right now: their count stays

    async def _change(self, user_id: str, to: Callable[[User], User]) -> User:
        changed = await change(self._users, user_id, to=to) if ids.is_id(user_id, "us") else None
        if changed is None:
            raise _unknown()
        return changed


def _with_roles(old: User, tenant: str, roles: frozenset[str]) -> User:
    others = {name: held for name, held in old.memberships.items() if name != tenant}
    suspended = [name for name in old.suspended_in if name != tenant or roles]
    given = {tenant: sorted(roles)} if roles else {}
    identities = {name: tied for name, tied in old.identities.items() if name != tenant or roles}
    return msgspec.structs.replace(old, memberships=others | given, suspended_in=suspended, identities=identities)


def normalised(email: str) -> str:
    """The address as it is stored and compared. Raises `Invalid`."""
    email = email.strip().casefold()
    if not _EMAIL.fullmatch(email):
        raise Invalid("EMAIL_INVALID", "This is not an e-mail address.", "Write it as name@host.")
    return email


def _check_roles(roles: frozenset[str], *, may_be_empty: bool = False) -> None:
    if roles - ROLES.keys() or not (roles or may_be_empty):
        raise Invalid("ROLE_UNKNOWN", "There is no such role.", f"Use {', '.join(ROLES)}.")


def _unknown() -> NotFound:
    return NotFound("USER_NOT_FOUND", "There is no such user.", "See `mcp-agents user list`.")


def _taken() -> Conflict:
    return Conflict("USER_EXISTS", "This address has a user already.", "Use set_roles to add a membership.")


def _used_up() -> Denied:
    return Denied("TICKET_INVALID", "This sign-in link was used already or is too old.", "Ask for a new one.")
