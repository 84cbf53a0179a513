"""Client credentials: a program that proved itself gets a token of its own, without a person and without a refresh.

Its grant lives as long as the token. Above: `service`, which knows the client already.
"""

from datetime import timedelta

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, NotFound
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, TENANT_SCOPES
from mcp_agents_auth.clients import Client
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.oauth import OAuthError, Parameters, requested_scopes
from mcp_agents_auth.standing import narrowed
from mcp_agents_auth.tenants import Tenants
from mcp_agents_auth.tokens import ACCESS_SECONDS, IssuedToken, TokenIssuer


class ClientCredentials:
    """The grant."""

    def __init__(self, tenants: Tenants, families: Families, tokens: TokenIssuer, clock: Clock) -> None:
        self._tenants, self._families, self._tokens, self._clock = tenants, families, tokens, clock

    async def token(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        """Answers a token request of an authenticated client; bound to the key `jkt`, if any. Raises `OAuthError`."""
        try:
            await self._tenants.require_active(client.tenant)
        except (NotFound, Denied) as error:
            raise OAuthError("unauthorized_client", "The client's tenant is not active.") from error
        resource = parameters.get("resource", self._tokens.resources.default)
        if not self._tokens.resources.accepts(resource):
            raise OAuthError("invalid_target", "There is no such resource here.")
        possible = client.allowed() & (TENANT_SCOPES | {PLATFORM_ADMIN})
        scopes = narrowed(requested_scopes(parameters), possible)
        if not scopes:
            raise OAuthError("invalid_scope", "This client may have none of these scopes.")
        now = self._clock.now()
        family = Family(
            sid=self._families.new_sid(),
            kind="client",
            tenant=client.tenant,
            subject=client.id,
            client_id=client.id,
            scopes=sorted(scopes),
            resource=resource,
            jkt=jkt,
            created_at=now,
            expires_at=now + timedelta(seconds=ACCESS_SECONDS),
        )
        await self._families.open(family)
        return await self._tokens.issue(family, scopes, frozenset(client.roles))
