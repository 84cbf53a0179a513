"""The identity-assertion grant (SEP-990, ID-JAG): a company's identity provider has signed who uses which client, and
that client gets an access token for them without anybody being asked on a page.

The operator names the providers, each for one tenant: what a provider signs can never reach another tenant, and there
only people who are its members, found by the address that the provider vouches for; no account comes of it. So a
provider that is broken into can act as that tenant's people, within their roles and the client's, and as nobody else.
The token is an ordinary one under a grant of its own: suspending the person, taking their roles or revoking the client
ends it as any other. There is no refresh token, since the provider is to be asked again.

Not here: access tokens of other issuers at our door (`external`). Above: `service`; below: `issuer_tokens`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import jwt
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.clients import Client
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.handles import digest
from mcp_agents_auth.issuer_keys import IssuerKeys
from mcp_agents_auth.issuer_tokens import LEEWAY_SECONDS, RefusedError, check_times, claims_of
from mcp_agents_auth.oauth import OAuthError, Parameters, requested_scopes
from mcp_agents_auth.standing import Standings, narrowed
from mcp_agents_auth.tokens import ACCESS_SECONDS, IssuedToken, TokenIssuer
from mcp_agents_auth.users import User, Users
from mcp_agents_auth.verifier import MAX_TOKEN_BYTES

PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"
LONGEST_SECONDS: Final = 600
"""An assertion is made for one request: one that is good for longer was not made for this."""
_TYPES: Final = frozenset({"oauth-id-jag+jwt", "application/oauth-id-jag+jwt"})
_TEXT_LIMIT: Final = 1024


class UsedIdentity(Struct, frozen=True, kw_only=True):
    """That an assertion was used."""

    v: int = 1


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider, and the tenant that it speaks for."""

    tenant: str
    keys: IssuerKeys


@dataclass(frozen=True, slots=True)
class _Asserted:
    """What is left of an assertion once it is believed."""

    email: str
    resource: str
    scopes: frozenset[str] | None


class IdentityAssertions:
    """The grant. `providers` are by issuer; without any it is not offered."""

    def __init__(
        self,
        platform: PlatformSpace,
        providers: Mapping[str, Provider],
        *,
        users: Users,
        families: Families,
        standings: Standings,
        tokens: TokenIssuer,
        clock: Clock,
    ) -> None:
        self._used = platform.records("cb_auth", "identity", kind=UsedIdentity)
        self._providers, self._users, self._families = providers, users, families
        self._standings, self._tokens, self._clock = standings, tokens, clock

    @property
    def on(self) -> bool:
        """Whether there is a provider."""
        return bool(self._providers)

    async def token(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        """Answers a token request of an authenticated client. Raises `OAuthError`, and `Unavailable` while the
        provider's keys were never read."""
        if not client.confidential:
            raise OAuthError("unauthorized_client", "Only a confidential client may use this grant type.")
        assertion = parameters.get("assertion")
        if assertion is None:
            raise OAuthError("invalid_request", "assertion is missing.")
        provider = self._provider(assertion)
        if client.tenant not in ("", provider.tenant):
            raise OAuthError("unauthorized_client", "This identity provider does not speak for the client's tenant.")
        try:
            asserted = await self._believed(assertion, provider, client)
        except RefusedError as reason:
            raise OAuthError("invalid_grant", f"The assertion is refused for {reason}.") from reason
        if parameters.get("resource", asserted.resource) != asserted.resource:
            raise OAuthError("invalid_target", "The resource is not the one that was asserted.")
        if not self._tokens.resources.accepts(asserted.resource):
            raise OAuthError("invalid_target", "There is no such resource here.")
        user = await self._users.find(asserted.email)
        if user is None:
            raise _nobody()
        return await self._issued(client, user, provider.tenant, asserted, requested_scopes(parameters), jkt)

    async def _issued(
        self, client: Client, user: User, tenant: str, asserted: _Asserted, requested: frozenset[str] | None, jkt: str
    ) -> IssuedToken:
        now = self._clock.now()
        asked = client.allowed() if asserted.scopes is None else asserted.scopes
        family = Family(
            sid=self._families.new_sid(),
            kind="user",
            tenant=tenant,
            subject=user.id,
            client_id=client.id,
            scopes=sorted(narrowed(requested, asked)),
            resource=asserted.resource,
            generation=user.generation,
            jkt=jkt,
            created_at=now,
            expires_at=now + timedelta(seconds=ACCESS_SECONDS),
        )
        if not user.roles(tenant):
            raise _nobody()
        standing = await self._standings.look(family)
        if standing is None:
            raise OAuthError("invalid_scope", "This person may have none of these scopes through this client.")
        await self._families.open(family)
        return await self._tokens.issue(family, standing.scopes, standing.roles)

    def _provider(self, assertion: str) -> Provider:
        """By what the assertion says of itself; the signature decides whether that is so."""
        if len(assertion) > MAX_TOKEN_BYTES or not assertion.isascii():
            raise OAuthError("invalid_grant", "The assertion is refused for its length or its characters.")
        try:
            issuer = jwt.decode(assertion, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            issuer = None
        provider = self._providers.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            raise OAuthError("invalid_grant", "The assertion is refused for its issuer.")
        return provider

    async def _believed(self, assertion: str, provider: Provider, client: Client) -> _Asserted:
        claims = await claims_of(assertion, provider.keys, _TYPES)
        now = self._clock.now().timestamp()
        check_times(claims, now)
        if claims["exp"] > now + LONGEST_SECONDS + LEEWAY_SECONDS:
            raise RefusedError("its life of more than ten minutes")
        if claims["aud"] not in (self._tokens.issuer, [self._tokens.issuer]):
            raise RefusedError("its audience, which is not this authorization server")
        if claims.get("client_id") != client.id:
            raise RefusedError("its client_id, which is not this client")
        if claims.get("email_verified", True) is not True:
            raise RefusedError("its address, which is not verified")
        if claims.get("cnf") is not None:
            raise RefusedError("its binding to a key, which is not known here")
        asserted = _Asserted(_text(claims, "email"), _text(claims, "resource"), _scopes(claims))
        name = digest(f"{provider.keys.issuer}\0{_text(claims, 'jti')}")
        try:  # last, so that an assertion that is refused for something else can be mended and shown again
            await self._used.create(name, value=UsedIdentity(), ttl=LONGEST_SECONDS + 2 * LEEWAY_SECONDS)
        except WrongRevision as again:
            raise RefusedError("having been used before") from again
        return asserted


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_LIMIT:
        raise RefusedError(f"its {name}, which is missing or no text")
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str] | None:
    """What the provider lets the client have; None where it leaves that to us."""
    return frozenset(_text(claims, "scope").split()) if "scope" in claims else None


def _nobody() -> OAuthError:
    # The same for somebody unknown, suspended, or of another tenant.
    return OAuthError("invalid_grant", "The assertion is refused for its person, who is no active member here.")
