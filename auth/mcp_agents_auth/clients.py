"""OAuth clients: who may ask for tokens, where the answer may go, and at most which scopes.

A client belongs to one tenant, or with an empty tenant to the platform: then any user may use it and chooses
the tenant while consenting. A client may also describe itself in a document at the address that is its id
(`documents`); it comes to the same `Client`, public and of the platform. One that registered
itself (`registration`) is the same, and has an end.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

import msgspec
from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Invalid, NotFound, WrongRevision
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, ROLES, TENANT_SCOPES, of_roles
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.changes import change
from mcp_agents_auth.client_keys import check_keys
from mcp_agents_auth.documents import Document, Documents
from mcp_agents_auth.handles import digest, new_handle, same
from mcp_agents_auth.redirects import check_redirect_uri, matches

GrantType = Literal[
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:token-exchange",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
]
TOKEN_EXCHANGE: Final[GrantType] = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a grant's name
JWT_BEARER: Final[GrantType] = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANT_TYPES: Final[tuple[GrantType, ...]] = get_args(GrantType)
USER_GRANTS: Final = frozenset[GrantType]({"authorization_code", "refresh_token"})
MAX_REDIRECT_URIS: Final = 16
UNUSED_LIFE: Final = timedelta(days=1)
"""How long a client that registered itself waits for somebody to sign in with it."""
USED_LIFE: Final = timedelta(days=180)
"""How long it stays after somebody last signed in with it: longer than what was granted then lives."""

_OF_MACHINES: Final = frozenset[GrantType]({"client_credentials", TOKEN_EXCHANGE, JWT_BEARER})

_DECOY: Final = digest("no client has this secret")


class Client(Struct, frozen=True, kw_only=True):
    """One client. A confidential one has a secret, of which only the digest is kept, or public keys (JWKs)."""

    v: int = 1
    id: str
    tenant: str
    name: str
    redirect_uris: list[str]
    grant_types: list[GrantType]
    scopes: list[str]
    roles: list[str]
    secret_digest: str = ""
    jwks: list[dict[str, str]] = []
    active: bool = True
    created_at: datetime
    expires_at: datetime | None = None
    """Of a client that registered itself: when it vanishes unless somebody signs in with it."""

    @property
    def confidential(self) -> bool:
        """Whether the client proves itself, with a secret or a key."""
        return bool(self.secret_digest or self.jwks)

    def allowed(self) -> frozenset[str]:
        """The most this client can ever be granted: its own scopes and those of its roles."""
        return frozenset(self.scopes) | of_roles(frozenset(self.roles))

    def accepts_redirect(self, uri: str) -> bool:
        """Whether the browser may be sent to `uri` with an answer for this client."""
        return any(matches(registered, uri) for registered in self.redirect_uris)

    def proves(self, secret: str) -> bool:
        """Whether this is the client's secret; a public client has none."""
        fits = same(digest(secret), self.secret_digest or _DECOY)
        return fits and bool(self.secret_digest)


class Clients:
    """The register of clients."""

    def __init__(self, platform: PlatformSpace, clock: Clock, documents: Documents) -> None:
        self._records = platform.records("cb_auth", "client", kind=Client)
        self._clock, self._documents = clock, documents

    async def register(
        self,
        tenant: str,
        name: str,
        *,
        redirect_uris: tuple[str, ...] = (),
        grant_types: frozenset[GrantType] = USER_GRANTS,
        scopes: frozenset[str] = frozenset(),
        roles: frozenset[str] = frozenset(),
        confidential: bool = False,
        allow_platform: bool = False,
    ) -> tuple[Client, str | None]:
        """A new client and, when confidential, its secret: shown here once and never again.

        Whoever calls this decides whether the caller holds what it gives away. `platform:admin` is refused
        unless `allow_platform` says that the platform's operator asked. Raises `Invalid`.
        """
        _check_name(tenant, name)
        _check_redirects(redirect_uris, grant_types)
        _check_rights(scopes, roles, allow_platform=allow_platform)
        if _OF_MACHINES & grant_types and not (confidential and tenant):
            raise Invalid(
                "CLIENT_GRANT_INVALID",
                "Client credentials, token exchange and identity assertions need a confidential client of one tenant.",
                "Register it with confidential=true and a tenant.",
            )
        secret = new_handle("cs_") if confidential else None
        client = Client(
            id=ids.mint("cl", self._clock),
            tenant=tenant,
            name=name.strip(),
            redirect_uris=list(redirect_uris),
            grant_types=sorted(grant_types),
            scopes=sorted(scopes),
            roles=sorted(roles),
            secret_digest=digest(secret) if secret else "",
            created_at=self._clock.now(),
        )
        await self._records.create(client.id, value=client)
        return client, secret

    async def set_keys(self, tenant: str, client_id: str, keys: list[dict[str, str]]) -> Client:
        """From now on a confidential client signs assertions with one of these keys (public JWKs); its secret ends.

        Raises `NotFound`, `Invalid` (`CLIENT_KEYS_INVALID`).
        """
        check_keys(keys)
        if not (await self.get(tenant, client_id)).confidential:
            raise Invalid("CLIENT_KEYS_INVALID", "A public client has no keys.", "Register a confidential one.")

        def to(old: Client) -> Client:
            return msgspec.structs.replace(old, secret_digest="", jwks=keys)

        changed = await change(self._records, client_id, to=to)
        if changed is None:
            raise _unknown()
        return changed

    async def find(self, client_id: str) -> Client | None:
        """The client, revoked or not; None when there is none. Asks nobody outside."""
        if not ids.is_id(client_id, "cl"):
            return _described(await self._documents.known(client_id))
        found = await self._records.get(client_id)
        return found.value if found and not self._gone(found.value) else None

    async def meet(self, client_id: str) -> Client | None:
        """As `find`, for somebody who is about to sign in: a client's document is fetched if what is kept is old."""
        if ids.is_id(client_id, "cl"):
            return await self.find(client_id)
        return _described(await self._documents.current(client_id))

    async def introduce(
        self, name: str, *, redirect_uris: tuple[str, ...], grant_types: frozenset[GrantType], scopes: frozenset[str]
    ) -> Client:
        """A client that registers itself: public, the platform's, and gone in a day unless somebody signs in with it.

        Raises `Invalid`.
        """
        _check_name("", name)
        _check_redirects(redirect_uris, grant_types)
        now = self._clock.now()
        client = Client(
            id=ids.mint("cl", self._clock),
            tenant="",
            name=name.strip(),
            redirect_uris=list(redirect_uris),
            grant_types=sorted(grant_types),
            scopes=sorted(scopes),
            roles=[],
            created_at=now,
            expires_at=now + UNUSED_LIFE,
        )
        await self._records.create(client.id, value=client, ttl=self._seconds(client))
        return client

    async def used(self, client: Client) -> None:
        """Somebody signed in with the client: one that registered itself stays on."""
        if client.expires_at is None:
            return
        until = self._clock.now() + USED_LIFE
        await change(
            self._records,
            client.id,
            to=lambda old: msgspec.structs.replace(old, expires_at=until),
            ttl=self._seconds,
        )

    async def get(self, tenant: str, client_id: str) -> Client:
        """A client of this tenant. Raises `NotFound`, for another tenant's client too."""
        client = await self.find(client_id)
        if client is None or client.tenant != tenant:
            raise _unknown()
        return client

    async def list(self, tenant: str) -> list[Client]:
        """A tenant's clients (with an empty tenant: the platform's), oldest first."""
        return [found.value for found in await self._records.all() if found.value.tenant == tenant]

    async def revoke(self, tenant: str, client_id: str) -> Client:
        """Ends a client: no new tokens, and the ones it holds stop within five seconds. Raises `NotFound`."""
        await self.get(tenant, client_id)
        changed = await change(
            self._records, client_id, to=lambda old: msgspec.structs.replace(old, active=False), ttl=self._seconds
        )
        if changed is None:
            raise _unknown()
        return changed

    async def erase(self, tenant: str) -> int:
        """Removes a tenant's clients; returns how many there were."""
        erased = 0
        for found in await self._records.all():
            if found.value.tenant == tenant:
                with suppress(WrongRevision):
                    await self._records.delete(found.value.id, revision=found.revision)
                erased += 1
        return erased

    def _gone(self, client: Client) -> bool:
        return client.expires_at is not None and client.expires_at <= self._clock.now()

    def _seconds(self, client: Client) -> int:
        """How long the record is kept: one second more than is left, so that its own time decides; 0: for good."""
        if client.expires_at is None:
            return 0
        return max(int((client.expires_at - self._clock.now()).total_seconds()) + 1, 1)


def _described(document: Document | None) -> Client | None:
    """What a document comes to: a public client for which a user may grant whatever the user holds."""
    if document is None:
        return None
    return Client(
        id=document.client_id,
        tenant="",
        name=document.name,
        redirect_uris=document.redirect_uris,
        grant_types=sorted(USER_GRANTS),
        scopes=sorted(TENANT_SCOPES),
        roles=[],
        created_at=document.fetched_at,
    )


def _check_name(tenant: str, name: str) -> None:
    if tenant and not ids.TENANT.fullmatch(tenant):
        raise Invalid("TENANT_INVALID", "A tenant's name is 1 to 40 of a-z, 0-9 and -.", "Use another name.")
    if not 0 < len(name.strip()) <= 100 or not name.isprintable():
        raise Invalid("CLIENT_NAME_INVALID", "A client's name has 1 to 100 printable characters.", "Shorten it.")


def _check_redirects(redirect_uris: tuple[str, ...], grant_types: frozenset[GrantType]) -> None:
    if not grant_types or grant_types - set(GRANT_TYPES):
        raise Invalid("CLIENT_GRANT_INVALID", "There is no such grant type.", f"Use {', '.join(GRANT_TYPES)}.")
    if ("authorization_code" in grant_types) != bool(redirect_uris) or len(redirect_uris) > MAX_REDIRECT_URIS:
        raise Invalid(
            "REDIRECT_URI_INVALID",
            f"A client that signs people in has 1 to {MAX_REDIRECT_URIS} redirect URIs, any other has none.",
            "Give the addresses that the client listens on.",
        )
    for uri in redirect_uris:
        check_redirect_uri(uri)


def _check_rights(scopes: frozenset[str], roles: frozenset[str], *, allow_platform: bool) -> None:
    # Nothing given must never come to mean everything.
    if not scopes and not roles:
        raise Invalid("CLIENT_SCOPES_MISSING", "A client needs scopes or roles.", "For everything: roles admin.")
    known = TENANT_SCOPES | ({PLATFORM_ADMIN} if allow_platform else frozenset())
    if scopes - known:
        raise Invalid("SCOPE_UNKNOWN", "A client cannot be given one of these scopes.", "Use {area}:{verb}.")
    if roles - ROLES.keys():
        raise Invalid("ROLE_UNKNOWN", "There is no such role.", f"Use {', '.join(ROLES)}.")


def _unknown() -> NotFound:
    return NotFound("CLIENT_NOT_FOUND", "There is no such client.", "See `mcp-agents client list`.")
