"""The identity-assertion grant (ID-JAG, RFC 7523): an enterprise's identity provider says who somebody is.

A client that a person signed in to at their employer's provider shows an assertion that the provider signed for us and
gets a token of ours, without a browser and without consent: the provider decides who may use which client. It is no
sign-in (there is no session), no registration (no account comes of it), and nothing to do with `external`, where
another server issues the tokens themselves.

What keeps a provider, or whoever gets hold of something that it signed, from taking over accounts:

- A provider is configured by the platform's operator, speaks for one tenant, and only to clients of that tenant. It
  names people by address, and only who is a member there, and active, is found; what they have elsewhere stays out of
  reach, for the token is of that tenant alone. Keys of different providers never mix.
- An address is not a person. The first assertion for a member ties the provider's subject to the account, and from then
  on both must fit: who inherits an address at the provider does not inherit the account, and a subject whose address
  there is changed to a colleague's does not become the colleague. The tie ends with the membership.
- Whether somebody is unknown, suspended, of another tenant or somebody else's is one answer.
- An assertion lives ten minutes at most (providers give five; a longer one would be of more use to a thief, and would
  have to be remembered as long), counts once over all processes, and only in the hands of the confidential client that
  it names: what was stolen on its way opens nothing without that client's secret or key as well.
- There is no refresh token. The provider is asked again within the hour, and has its say each time: who left there is
  out here, though nobody told us.

The grant is a person's like any other: suspension, removal, a new password, the client's end count within five seconds.
Above: `service`, which authenticates the client first, so that strangers make us neither fetch nor write. Below:
`issuer_tokens`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, NotFound, WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.clients import Client
from mcp_agents_auth.exchange import DEEPEST
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.handles import digest
from mcp_agents_auth.issuer_keys import IssuerKeys
from mcp_agents_auth.issuer_tokens import (
    LEEWAY_SECONDS,
    RefusedError,
    bound_to,
    check_times,
    claimed_issuer,
    signed_claims,
    subject_of,
)
from mcp_agents_auth.oauth import OAuthError, Parameters, requested_scopes
from mcp_agents_auth.standing import grantable, narrowed
from mcp_agents_auth.tenants import Tenants
from mcp_agents_auth.tokens import ACCESS_SECONDS, IssuedToken, TokenIssuer
from mcp_agents_auth.users import User, Users
from mcp_agents_auth.verifier import actors_of, nested

PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"
LONGEST_SECONDS: Final = 600
_TYPES: Final = frozenset({"oauth-id-jag+jwt"})
_LONGEST_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """Whose word is taken on who somebody is, and in which one tenant."""

    keys: IssuerKeys
    tenant: str


class UsedIdentity(Struct, frozen=True, kw_only=True):
    """That an assertion was taken; its key is the digest of its issuer and `jti`."""

    v: int = 1


class _Claims(Struct, frozen=True):
    sub: str
    aud: str | list[str]
    client_id: str
    jti: str
    resource: str | list[str]
    email: str
    exp: int | float
    iat: int | float
    scope: str = ""
    email_verified: bool = True
    cnf: Any = None
    act: Any = None


class IdentityAssertion:
    """The grant, over the providers that the operator configured."""

    def __init__(
        self,
        platform: PlatformSpace,
        providers: Iterable[IdentityProvider],
        *,
        tenants: Tenants,
        users: Users,
        families: Families,
        tokens: TokenIssuer,
        clock: Clock,
    ) -> None:
        self._used = platform.records("cb_auth", "identity", kind=UsedIdentity)
        self._providers = {each.keys.issuer: each for each in providers}
        self._tenants, self._users, self._families = tenants, users, families
        self._tokens, self._clock = tokens, clock

    async def token(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        """Answers a token request of an authenticated client; bound to the key `jkt`, if any.

        Raises `OAuthError`: `invalid_grant` for whatever is wrong with the assertion or whom it names, `invalid_target`
        and `invalid_scope` for what was asked beside it; `Unavailable` while the provider's keys were never read.
        """
        presented = parameters.get("assertion")
        if presented is None:
            raise OAuthError("invalid_request", "assertion is missing.")
        try:
            provider = self._provider(client, presented)
            said = self._judged(await signed_claims(presented, provider.keys, _TYPES), client, jkt)
        except RefusedError as reason:
            raise OAuthError("invalid_grant", f"The assertion cannot be used. {reason}") from None
        resource, issuer = _only(said.resource), provider.keys.issuer
        if parameters.get("resource", resource) != resource:
            raise OAuthError("invalid_target", "The resource is not the one that the assertion is for.")
        user = await self._member(provider, said)
        possible = frozenset(said.scope.split()) & grantable(client, user, provider.tenant)
        scopes = narrowed(requested_scopes(parameters), possible)
        if not scopes:
            raise OAuthError("invalid_scope", "The assertion, this client and this person share none of these scopes.")
        await self._use_up(f"{issuer}\0{said.jti}")
        if not await self._users.tie(user, provider.tenant, issuer, said.sub):
            raise _nobody()  # another subject was faster, or the member has just left
        now = self._clock.now()
        family = Family(
            sid=self._families.new_sid(),
            kind="user",
            tenant=provider.tenant,
            subject=user.id,
            client_id=client.id,
            scopes=sorted(scopes),
            resource=resource,
            generation=user.generation,
            jkt=jkt,
            created_at=now,
            expires_at=now + timedelta(seconds=ACCESS_SECONDS),
        )
        await self._families.open(family)
        actors = actors_of(said.act)
        more = {"act": nested(actors)} if actors else None
        return await self._tokens.issue(family, scopes, user.roles(provider.tenant), more=more)

    def _provider(self, client: Client, presented: str) -> IdentityProvider:
        provider = self._providers.get(claimed_issuer(presented))
        if provider is None or provider.tenant != client.tenant:
            raise RefusedError("Its issuer does not speak for the tenant of this client.")
        return provider

    def _judged(self, claims: dict[str, Any], client: Client, jkt: str) -> _Claims:
        """What it says, if it is meant for us, for this client and for now. Raises `RefusedError`."""
        check_times(claims, self._clock.now().timestamp())
        subject_of(claims)
        try:
            said = msgspec.convert(claims, _Claims)
        except msgspec.ValidationError as cause:
            raise RefusedError("It needs sub, aud, client_id, jti, resource, email, exp and iat.") from cause
        if not 0 < said.exp - said.iat <= LONGEST_SECONDS:
            raise RefusedError(f"It may live {LONGEST_SECONDS} seconds at most.")
        if _only(said.aud) != self._tokens.issuer:
            raise RefusedError("Its aud must be this issuer, to the letter, and nobody else.")
        if said.client_id != client.id:
            raise RefusedError("Its client_id is not the client that shows it.")
        if not self._tokens.resources.accepts(_only(said.resource)):
            raise RefusedError("Its resource is none of ours.")
        if not 0 < len(said.jti) <= _LONGEST_NAME:
            raise RefusedError(f"Its jti has 1 to {_LONGEST_NAME} characters.")
        if bound_to(said.cnf) not in ("", jkt):
            raise RefusedError("It is bound to a key that this request does not prove.")
        if len(actors_of(said.act)) > DEEPEST:
            raise RefusedError(f"At most {DEEPEST} act for somebody.")
        return said

    async def _member(self, provider: IdentityProvider, said: _Claims) -> User:
        try:
            await self._tenants.require_active(provider.tenant)
        except (NotFound, Denied) as error:
            raise _nobody() from error
        # Only plain addresses: others can be written so that they fold into somebody else's.
        known = said.email_verified and said.email.isascii()
        user = await self._users.find(said.email) if known else None
        if user is None or not user.roles(provider.tenant):
            raise _nobody()
        if not user.could_be(provider.tenant, provider.keys.issuer, said.sub):
            raise _nobody()
        return user

    async def _use_up(self, name: str) -> None:
        """Last, so that nothing is written for an assertion that is not good. Kept for as long as it could be."""
        try:
            keep = LONGEST_SECONDS + 2 * LEEWAY_SECONDS
            await self._used.create(digest(name), value=UsedIdentity(), ttl=keep)
        except WrongRevision as again:
            raise OAuthError("invalid_grant", "The assertion cannot be used. It was used already.") from again


def _only(named: str | list[str]) -> str:
    """The one that is named; "" for none or several."""
    return named if isinstance(named, str) else named[0] if len(named) == 1 else ""


def _nobody() -> OAuthError:
    """The one answer for everybody who is not, or not only, an active member of the provider's tenant."""
    return OAuthError("invalid_grant", "The assertion names nobody who may sign in this way here.")
