"""What people, agents and tenants sign in with at tool servers: kept sealed, refreshed once, opened only for a call.

Not here: who may set which (`servers`), how one comes to be (`sign_ins`). A credential never goes to anybody but the
server it is for: nothing returns it to a caller, and no other owner's is ever used in its place. One is refreshed by
one process at a time, under a lease in the store, since a refresh token is used once; the others wait for the result.
"""

import hashlib
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import anyio
import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, Unavailable, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.security.secrets import TenantSecrets
from mcp_agents_tools.toolsets.oauth import OauthClient, Place, RefusedError, Registered, UnreachableError

_EARLY: Final = timedelta(seconds=60)
_LEASE_SECONDS: Final = 30
_LONGEST_SECONDS: Final = 366 * 24 * 3600
_WANTED_SCOPES: Final = 32
_LOOK_SECONDS: Final = 0.1


class Secret(Struct, frozen=True, kw_only=True):
    """What is sealed: a token and, where it can be refreshed, with what and where."""

    token: str
    refresh_token: str = ""
    place: Place | None = None
    us: Registered | None = None


class Credential(Struct, frozen=True, kw_only=True):
    """One owner's credential for one server (`StoredServer.key`). `generation` changes with every new sign-in,
    not with a refresh."""

    v: int = 1
    server: str
    owner: str
    generation: str
    sealed: str
    expires_at: datetime | None = None
    ended: bool = False
    """Its authorization server refused to refresh it: only a new sign-in helps."""
    wanted: str = ""
    """Scopes that the server asked for beyond what it has, separated by spaces."""
    updated_at: datetime


class Refreshing(Struct, frozen=True, kw_only=True):
    """That somebody is just refreshing a credential."""

    v: int = 1
    at: datetime


class Live(Struct, frozen=True, kw_only=True):
    """A token that is good now, and of which sign-in."""

    token: str
    generation: str


def owner_name(kind: str, subject: str = "") -> str:
    """The key part of an owner: `tenant`, or a person's or an agent's; ids of any form become one of the same."""
    return kind if not subject else f"{kind}-{hashlib.sha256(subject.encode()).hexdigest()[:40]}"


class Credentials:
    """Credentials of any tenant, always through its space."""

    def __init__(self, sealer: TenantSecrets, client: OauthClient, clock: Clock) -> None:
        self._secrets, self._client, self._clock = sealer, client, clock

    async def put(
        self, space: TenantSpace, server: str, owner: str, secret: Secret, expires_in: int | None = None
    ) -> None:
        """Stores what somebody signed in with, in place of what was there."""
        records, now = _records(space), self._clock.now()
        for _ in range(64):
            found = await records.get("credential", server, owner)
            value = Credential(
                server=server,
                owner=owner,
                generation=secrets.token_hex(8),
                sealed=await self._secrets.seal(space, _purpose(server, owner), msgspec.json.encode(secret).decode()),
                expires_at=now + _life(expires_in) if expires_in is not None else None,
                updated_at=now,
            )
            with suppress(WrongRevision):
                await records.update("credential", server, owner, value=value, revision=found.revision if found else 0)
                return
        raise _busy()

    async def remove(self, space: TenantSpace, server: str, owner: str) -> None:
        """Forgets one; nothing happens when there is none."""
        records = _records(space)
        while found := await records.get("credential", server, owner):
            with suppress(WrongRevision):
                await records.delete("credential", server, owner, revision=found.revision)
                return

    async def remove_all(self, space: TenantSpace, server: str) -> None:
        """Forgets everybody's for a server that is no more."""
        for found in await _records(space).all("credential", server):
            await self.remove(space, server, found.value.owner)

    async def falls_short(self, space: TenantSpace, server: str, owner: str, scope: str) -> None:
        """Notes scopes for the owner's next sign-in."""
        records = _records(space)
        for _ in range(16):
            found = await records.get("credential", server, owner)
            known = set(found.value.wanted.split()) if found else set[str]()
            asked = sorted(known | {each for each in scope.split() if len(each) <= 128})[:_WANTED_SCOPES]
            if found is None or set(asked) <= known:
                return
            value = msgspec.structs.replace(found.value, wanted=" ".join(asked))
            with suppress(WrongRevision):
                await records.update("credential", server, owner, value=value, revision=found.revision)
                return

    async def wanted(self, space: TenantSpace, server: str, owner: str) -> str:
        """What was noted."""
        found = await _records(space).get("credential", server, owner)
        return found.value.wanted if found else ""

    async def there(self, space: TenantSpace, server: str, owner: str) -> bool:
        """Whether somebody has signed in."""
        return await _records(space).get("credential", server, owner) is not None

    async def live(self, space: TenantSpace, server: str, owner: str, *, refused: str = "") -> Live:
        """The owner's token, refreshed when it is about to expire or when it is the one that was `refused`.

        Raises `Denied` (`CREDENTIAL_MISSING`, `CREDENTIAL_EXPIRED`), `Unavailable` (`CREDENTIAL_UNAVAILABLE`).
        """
        with anyio.move_on_after(_LEASE_SECONDS - 5):
            while True:
                found = await _records(space).get("credential", server, owner)
                if found is None:
                    raise _missing()
                if found.value.ended:
                    raise _expired()
                secret = await self._open(space, found.value)
                if secret.token != refused and not self._due(found.value):
                    return Live(token=secret.token, generation=found.value.generation)
                if not secret.refresh_token:
                    raise _expired()
                if held := await self._lease(space, server, owner):
                    try:
                        return await self._refreshed(space, found, secret)
                    finally:
                        await self._give_back(space, server, owner, held)
                await anyio.sleep(_LOOK_SECONDS)
        raise _unavailable()

    async def _refreshed(self, space: TenantSpace, found: Versioned[Credential], secret: Secret) -> Live:
        old = found.value
        now = await _records(space).get("credential", old.server, old.owner)
        if now is None:
            raise _missing()
        if now.revision != found.revision:  # somebody was faster: theirs is as good
            return Live(token=(await self._open(space, now.value)).token, generation=now.value.generation)
        if secret.place is None or secret.us is None:
            raise _expired()
        form = {"grant_type": "refresh_token", "refresh_token": secret.refresh_token}
        try:
            answer = await self._client.tokens(secret.place, secret.us, form)
        except RefusedError as refused:
            if str(refused) == "invalid_grant":
                await self._write(space, msgspec.structs.replace(old, ended=True))
            raise _expired() from None
        except UnreachableError:
            if old.expires_at is not None and old.expires_at > self._clock.now():
                return Live(token=secret.token, generation=old.generation)
            raise _unavailable() from None
        fresh = msgspec.structs.replace(
            secret, token=answer.access_token, refresh_token=answer.refresh_token or secret.refresh_token
        )
        at = self._clock.now()
        value = msgspec.structs.replace(
            old,
            sealed=await self._secrets.seal(
                space, _purpose(old.server, old.owner), msgspec.json.encode(fresh).decode()
            ),
            expires_at=at + _life(answer.expires_in) if answer.expires_in else None,
            updated_at=at,
        )
        await self._write(space, value)
        return Live(token=fresh.token, generation=old.generation)

    async def _write(self, space: TenantSpace, value: Credential) -> None:
        """Unless somebody signed in anew meanwhile, or removed it: that counts. Scopes that were noted stay noted."""
        records = _records(space)
        for _ in range(16):
            now = await records.get("credential", value.server, value.owner)
            if now is None or now.value.generation != value.generation:
                return
            wanted = sorted({*now.value.wanted.split(), *value.wanted.split()})[:_WANTED_SCOPES]
            merged = msgspec.structs.replace(value, wanted=" ".join(wanted))
            with suppress(WrongRevision):
                await records.update("credential", value.server, value.owner, value=merged, revision=now.revision)
                return

    async def _open(self, space: TenantSpace, credential: Credential) -> Secret:
        text = await self._secrets.unseal(space, _purpose(credential.server, credential.owner), credential.sealed)
        return msgspec.json.decode(text, type=Secret)

    def _due(self, credential: Credential) -> bool:
        return credential.expires_at is not None and credential.expires_at - _EARLY <= self._clock.now()

    async def _lease(self, space: TenantSpace, server: str, owner: str) -> int:
        """The revision of the lease, or 0 while somebody else holds it."""
        value = Refreshing(at=self._clock.now())
        try:
            return await _leases(space).create("refreshing", server, owner, value=value, ttl=_LEASE_SECONDS)
        except WrongRevision:
            return 0

    async def _give_back(self, space: TenantSpace, server: str, owner: str, held: int) -> None:
        with anyio.CancelScope(shield=True), suppress(WrongRevision):
            await _leases(space).delete("refreshing", server, owner, revision=held)


def _records(space: TenantSpace) -> Records[Credential]:
    return space.records("cb_vault", Credential)


def _leases(space: TenantSpace) -> Records[Refreshing]:
    return space.records("cb_leases", Refreshing)


def _purpose(server: str, owner: str) -> str:
    return f"credential/{server}/{owner}"


def _life(seconds: int) -> timedelta:
    """As an authorization server says, within reason."""
    return timedelta(seconds=min(max(seconds, 0), _LONGEST_SECONDS))


def _missing() -> Denied:
    return Denied(
        "CREDENTIAL_MISSING",
        "Nobody has signed in at this tool server for this caller.",
        "Call tool_server_authorize with its name.",
    )


def _expired() -> Denied:
    return Denied(
        "CREDENTIAL_EXPIRED",
        "The sign-in at this tool server is over.",
        "Call tool_server_authorize with its name again.",
    )


def _unavailable() -> Unavailable:
    return Unavailable(
        "CREDENTIAL_UNAVAILABLE", "The tool server's authorization server does not answer.", "Try again shortly."
    )


def _busy() -> Unavailable:
    return Unavailable("BUSY", "Too many changes of this credential at once.", "Try again.")
