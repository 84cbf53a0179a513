"""Callers who sign in somewhere else: verifies the access tokens of one external issuer, and what is left of rights.

Who somebody is, which tenant they are in and which roles they have is what the issuer's token says; that the tenant
exists and is not suspended is ours to say. Nothing else of a request is believed. Rights: the roles in the token,
narrowed by its scopes where it names any of ours; without roles, its scopes alone; never `platform:admin`.

Above: the HTTP door, which asks it as it asks `verifier` where we sign people in ourselves. Below: `issuer_tokens`.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_agents.kernel import ids
from mcp_agents.kernel.administration import ClientOrder, ClientView, Invited, Member, Registered, TenantView
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Denied, NotFound
from mcp_agents.kernel.fetch import Fetch
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import ROLES, TENANT_SCOPES, of_roles
from mcp_agents_auth.administration import require_person
from mcp_agents_auth.embedded import AuthServer
from mcp_agents_auth.issuer_keys import IssuerKeys
from mcp_agents_auth.issuer_tokens import RefusedError, bound_to, check_times, signed_claims, subject_of
from mcp_agents_auth.resources import Resources
from mcp_agents_auth.tenants import Tenants
from mcp_agents_auth.verifier import VerifiedToken, actors_of, invalid_token

_TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
_OF_ID_TOKENS: Final = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
_CACHED: Final = 4096
_CACHE_SECONDS: Final = 60.0

_log = logging.getLogger("mcp_agents.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Which claims say what. Names may lead into objects (`realm_access.roles`).

    `roles` maps what the issuer calls a role or a group to ours; empty: they are called the same.
    `audience` is what tokens must be for; empty: the MCP URL or a path under it.
    """

    audience: str = ""
    tenant: str = "tenant"
    roles: str = "roles"
    role_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """Everything that stands in for ours where people sign in somewhere else."""

    keys: IssuerKeys
    verifier: "ExternalVerifier"
    rights: "ExternalRights"
    administration: "ExternalAdministration"


def build_external(issuer: str, claims: Claims, auth: AuthServer, fetch: Fetch, clock: Clock) -> External:
    """The parts, over the tenants of our own registers."""
    keys = IssuerKeys(issuer, fetch, clock)
    return External(
        keys=keys,
        verifier=ExternalVerifier(keys, claims, Resources(auth.resource), auth.tenants, clock),
        rights=ExternalRights(auth.tenants),
        administration=ExternalAdministration(auth.tenants),
    )


class ExternalVerifier:
    """Verifies tokens of one external issuer. Fills the same place as `TokenVerifier`."""

    def __init__(self, keys: IssuerKeys, claims: Claims, resources: Resources, tenants: Tenants, clock: Clock) -> None:
        self._keys, self._claims, self._resources = keys, claims, resources
        self._tenants, self._clock = tenants, clock
        self._cache: OrderedDict[bytes, tuple[dict[str, Any], float]] = OrderedDict()

    @property
    def issuer(self) -> str:
        """The authorization server that clients are sent to."""
        return self._keys.issuer

    async def verify(self, token: str) -> VerifiedToken:
        """The caller behind a bearer token. Raises `Denied` (`TOKEN_INVALID`), whatever the reason, or `Unavailable`
        while the issuer's keys were never read."""
        try:
            said = await self._said(token)
            check_times(said, self._clock.now().timestamp())
            return await self._caller(said)
        except RefusedError as reason:
            _log.debug("token refused: %s", reason)
            raise invalid_token() from None

    async def again(self, token: VerifiedToken) -> VerifiedToken:
        """A token that was good, as it stands at this moment. The issuer is not asked: its tokens are short."""
        if token.expires_at <= self._clock.now().timestamp() or not await self._tenants.active(token.principal.tenant):
            raise invalid_token()
        return token

    async def _said(self, token: str) -> dict[str, Any]:
        name, now = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(), self._clock.monotonic()
        cached = self._cache.get(name)
        if cached is not None and cached[1] > now:
            self._cache.move_to_end(name)
            return cached[0]
        said = await self._decoded(token)
        self._cache[name] = said, now + _CACHE_SECONDS
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return said

    async def _decoded(self, token: str) -> dict[str, Any]:
        said = await signed_claims(token, self._keys, _TYPES)
        if _OF_ID_TOKENS & set(said):
            raise RefusedError("It is an ID token.")
        audiences = said["aud"] if isinstance(said["aud"], list) else [said["aud"]]
        if not any(isinstance(each, str) and self._is_for_us(each) for each in audiences):
            raise RefusedError("It is for somebody else.")
        return said

    def _is_for_us(self, audience: str) -> bool:
        wanted = self._claims.audience
        return audience == wanted if wanted else self._resources.accepts(audience)

    async def _caller(self, said: Mapping[str, Any]) -> VerifiedToken:
        subject, tenant = subject_of(said), _found(said, self._claims.tenant)
        if not isinstance(tenant, str) or not ids.TENANT.fullmatch(tenant):
            raise RefusedError("It names no tenant.")
        try:
            await self._tenants.require_active(tenant)
        except (NotFound, Denied) as cause:
            raise RefusedError("Its tenant is unknown or suspended.") from cause
        roles = self._roles(said)
        client = str(said.get("client_id") or said.get("azp") or "")[:255]
        principal = Principal(
            tenant=tenant,
            subject=f"{_mark(self.issuer)}|{subject}",
            scopes=_scopes(said, roles),
            client=client,
            roles=roles,
            actors=actors_of(said.get("act")),
        )
        return VerifiedToken(
            principal=principal,
            expires_at=int(said["exp"]),
            issued_at=int(said["iat"]),
            client_id=client,
            resource=self._resources.default,
            jti=str(said.get("jti", "")),
            sid="",
            jkt=bound_to(said.get("cnf")),
        )

    def _roles(self, said: Mapping[str, Any]) -> frozenset[str]:
        names = {
            self._claims.role_map.get(name, "") if self._claims.role_map else name
            for name in _texts(_found(said, self._claims.roles))
        }
        return frozenset(names & ROLES.keys())


class ExternalRights:
    """Fills the kernel's `Rights` where somebody else signs people in: what a run was accepted with stays, until its
    tenant is suspended or gone. Nobody tells us of anything else that was taken away."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def now(self, principal: Principal) -> Principal:
        """See the port."""
        try:
            await self._tenants.require_active(principal.tenant)
        except NotFound as gone:
            raise Denied("CALLER_REVOKED", "The tenant of this run is gone.", "Ask the platform's operator.") from gone
        return principal


class ExternalAdministration:
    """Fills the kernel's `Administration` where people and clients are somebody else's: only the tenant is ours."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants

    async def tenant(self, caller: Principal) -> TenantView:
        """See the port; nobody is counted."""
        tenant = await self._tenants.get(caller.tenant)
        return TenantView(name=tenant.name, title=tenant.title, members=0, clients=0, created_at=tenant.created_at)

    async def rename(self, caller: Principal, title: str) -> TenantView:
        """See the port."""
        require_person(caller)
        await self._tenants.rename(caller.tenant, title)
        return await self.tenant(caller)

    async def members(self, caller: Principal) -> list[Member]:
        """Nobody."""
        return []

    async def invite(self, caller: Principal, email: str, roles: frozenset[str]) -> Invited:
        """Refused, as all below."""
        raise _elsewhere()

    async def remove(self, caller: Principal, member_id: str) -> None:
        raise _elsewhere()

    async def suspend(self, caller: Principal, user_id: str, *, suspended: bool) -> Member:
        raise _elsewhere()

    async def give_roles(self, caller: Principal, user_id: str, roles: frozenset[str]) -> Member:
        raise _elsewhere()

    async def take_roles(self, caller: Principal, user_id: str, roles: frozenset[str]) -> Member:
        raise _elsewhere()

    async def clients(self, caller: Principal) -> list[ClientView]:
        """None."""
        return []

    async def register_client(self, caller: Principal, order: ClientOrder) -> Registered:
        raise _elsewhere()

    async def revoke_client(self, caller: Principal, client_id: str) -> ClientView:
        raise _elsewhere()


def _elsewhere() -> Conflict:
    return Conflict(
        "ADMINISTERED_ELSEWHERE",
        "People and clients are administered at the authorization server that they sign in at.",
        "Change it there; it counts with the next token.",
    )


def _scopes(said: Mapping[str, Any], roles: frozenset[str]) -> frozenset[str]:
    named = frozenset(_texts(said.get("scope"))) | frozenset(_texts(said.get("scp")))
    ours = named & TENANT_SCOPES
    if not roles:
        return ours
    return of_roles(roles) & ours if ours else of_roles(roles)


def _found(said: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by the way that leads into objects."""
    if name in said:
        return said[name]
    place: Any = said
    for part in name.split("."):
        place = place.get(part) if isinstance(place, dict) else None
    return place


def _texts(value: Any) -> list[str]:
    """The words of a claim that is a text with spaces, or a list of texts."""
    listed = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return [each for each in listed if isinstance(each, str)]


def _mark(issuer: str) -> str:
    """Keeps the people of different issuers, and our own, apart."""
    return f"x{hashlib.sha256(issuer.encode()).hexdigest()[:10]}"
