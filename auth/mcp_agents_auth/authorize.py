"""The authorization endpoint without HTTP: what a client asks for, what a user can give, and the answer.

Nothing is ever sent to an address before the client and that address were found to belong together: until then
a refusal is an `OAuthError` for a page, afterwards a `RedirectError` for the client. Codes and families are
below, pages and sessions beside it in `http`.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, NotFound
from mcp_agents_auth.clients import Client, Clients
from mcp_agents_auth.codes import CODE_SECONDS, Codes
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.oauth import OAuthError, Parameters, RedirectError, requested_scopes
from mcp_agents_auth.redirects import with_answer
from mcp_agents_auth.resources import Resources
from mcp_agents_auth.standing import grantable, narrowed
from mcp_agents_auth.tenants import Tenant, Tenants
from mcp_agents_auth.users import User

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # an S256 challenge is always 43 characters
_STATE_LIMIT: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizeRequest:
    """A validated request; `scopes` is None when the client named none."""

    client: Client
    redirect_uri: str
    state: str
    scopes: frozenset[str] | None
    resource: str
    challenge: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What one user could grant in one tenant."""

    tenant: Tenant
    scopes: frozenset[str]


class Authorization:
    """Validates requests, works out what can be granted, and answers."""

    def __init__(
        self,
        *,
        issuer: str,
        resources: Resources,
        tenants: Tenants,
        clients: Clients,
        families: Families,
        codes: Codes,
        clock: Clock,
    ) -> None:
        self._issuer, self._resources = issuer, resources
        self._tenants, self._clients = tenants, clients
        self._families, self._codes, self._clock = families, codes, clock

    async def validate(self, parameters: Parameters, repeated: frozenset[str]) -> AuthorizeRequest:
        """The request, or a refusal: `RedirectError` for the client, any other `OAuthError` for a page.

        `repeated` names the parameters that were given more than once.
        """
        if repeated & {"client_id", "redirect_uri"}:
            raise OAuthError("invalid_request", "client_id and redirect_uri may be given once only.")
        client = await self._clients.meet(parameters.get("client_id", ""))
        if client is None or not client.active:
            raise OAuthError("invalid_request", "This client is not registered here.")
        redirect_uri = parameters.get("redirect_uri", "")
        if not client.accepts_redirect(redirect_uri):
            raise OAuthError("invalid_request", "The redirect URI is not one that this client registered.")
        state = parameters.get("state", "") if "state" not in repeated else ""
        try:
            return self._validated(client, redirect_uri, state, parameters, repeated)
        except OAuthError as error:
            raise RedirectError(error, redirect_uri, state) from error

    async def offers(self, request: AuthorizeRequest, user: User) -> list[Offer]:
        """What this user could grant, by tenant; tenants in which it would be nothing are left out."""
        found: list[Offer] = []
        for name in sorted(user.memberships):
            scopes = narrowed(request.scopes, grantable(request.client, user, name))
            try:
                tenant = await self._tenants.require_active(name)
            except (NotFound, Denied):
                continue
            if scopes:
                found.append(Offer(tenant, scopes))
        return found

    async def approve(self, request: AuthorizeRequest, user: User, tenant: str) -> str:
        """The address that takes a fresh code to the client. Raises `RedirectError` when nothing can be granted."""
        chosen = [offer for offer in await self.offers(request, user) if offer.tenant.name == tenant]
        if not chosen:
            raise self.refusal(request)
        await self._clients.used(request.client)
        now = self._clock.now()
        family = Family(
            sid=self._families.new_sid(),
            kind="user",
            tenant=tenant,
            subject=user.id,
            client_id=request.client.id,
            scopes=sorted(chosen[0].scopes),
            resource=request.resource,
            generation=user.generation,
            created_at=now,
            # Just long enough for the code; redeeming it lets the family live on.
            expires_at=now + timedelta(seconds=2 * CODE_SECONDS),
        )
        await self._families.open(family)
        code = await self._codes.issue(family, redirect_uri=request.redirect_uri, challenge=request.challenge)
        return self._answer(request.redirect_uri, {"code": code}, request.state)

    def refusal(self, request: AuthorizeRequest) -> RedirectError:
        """The user said no, or has nothing to give."""
        error = OAuthError("access_denied", "Nothing was granted.")
        return RedirectError(error, request.redirect_uri, request.state)

    def error_address(self, error: RedirectError) -> str:
        """The address that takes a refusal to the client."""
        answer = {"error": error.code, "error_description": error.description}
        return self._answer(error.redirect_uri, answer, error.state)

    def _validated(
        self, client: Client, redirect_uri: str, state: str, parameters: Parameters, repeated: frozenset[str]
    ) -> AuthorizeRequest:
        if "resource" in repeated:
            raise OAuthError("invalid_target", "Exactly one resource can be asked for.")
        if repeated or len(state) > _STATE_LIMIT:
            raise OAuthError("invalid_request", "A parameter is repeated or too long.")
        if "request" in parameters:
            raise OAuthError("request_not_supported", "Request objects are not supported.")
        if "request_uri" in parameters:
            raise OAuthError("request_uri_not_supported", "Request objects are not supported.")
        if "authorization_code" not in client.grant_types:
            raise OAuthError("unauthorized_client", "This client may not sign people in.")
        if parameters.get("response_type") != "code":
            raise OAuthError("unsupported_response_type", "The response type is code.")
        if parameters.get("response_mode", "query") != "query":
            raise OAuthError("invalid_request", "The response mode is query.")
        challenge = parameters.get("code_challenge", "")
        # An absent method means "plain" (RFC 7636), so that it has to be named.
        if parameters.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(challenge):
            raise OAuthError("invalid_request", "PKCE with S256 is required.")
        resource = parameters.get("resource", self._resources.default)
        if not self._resources.accepts(resource):
            raise OAuthError("invalid_target", "There is no such resource here.")
        scopes = requested_scopes(parameters)
        if scopes is not None and not scopes & client.allowed():
            raise OAuthError("invalid_scope", "This client may have none of these scopes.")
        return AuthorizeRequest(
            client=client,
            redirect_uri=redirect_uri,
            state=state,
            scopes=scopes,
            resource=resource,
            challenge=challenge,
        )

    def _answer(self, redirect_uri: str, answer: dict[str, str], state: str) -> str:
        return with_answer(redirect_uri, answer | ({"state": state} if state else {}) | {"iss": self._issuer})
