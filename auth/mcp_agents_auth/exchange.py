"""Token exchange (RFC 8693): a client that was handed a caller's token gets one of its own to go on with.

The new token acts for the same person, in the same tenant, under the same grant, so that revoking the grant ends it
too. It is only ever narrower: scopes are what was asked for out of what the token and the client both hold, it lives
no longer than the token it came from, and it says who acts (`act`), on top of who acted before.
"""

from typing import Any, Final

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied
from mcp_agents_auth.clients import Client
from mcp_agents_auth.families import Families
from mcp_agents_auth.oauth import OAuthError, Parameters, requested_scopes
from mcp_agents_auth.standing import narrowed
from mcp_agents_auth.tokens import ACCESS_TOKEN, IssuedToken, TokenIssuer
from mcp_agents_auth.verifier import TokenVerifier, VerifiedToken, nested

LONGEST_SECONDS: Final = 900
"""So long a token may be used at most after the client that exchanged it was revoked."""
DEEPEST: Final = 3
"""Exchanges of exchanged tokens."""


class Exchange:
    """The grant."""

    def __init__(self, verifier: TokenVerifier, families: Families, tokens: TokenIssuer, clock: Clock) -> None:
        self._verifier, self._families, self._tokens, self._clock = verifier, families, tokens, clock

    async def token(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        """Answers a token request of an authenticated client. No binding is added: the grant stays what it is. Raises
        `OAuthError`."""
        if not client.tenant:
            raise OAuthError("unauthorized_client", "Only a client of a tenant exchanges tokens.")
        subject = await self._given(client, parameters, "subject_token")
        actor = await self._given(client, parameters, "actor_token") if "actor_token" in parameters else None
        if actor is not None and actor.client_id != client.id:
            raise _refused()  # with somebody else's token the client that acts would hide behind them
        if parameters.get("requested_token_type", ACCESS_TOKEN) != ACCESS_TOKEN:
            raise OAuthError("invalid_request", "Only access tokens are issued.")
        resource = self._resource(parameters, subject)
        requested, held = requested_scopes(parameters), subject.principal.scopes
        if requested is not None and requested - held:
            raise OAuthError("invalid_scope", "An exchange cannot widen the scope.")
        scopes = narrowed(requested, held & client.allowed())
        if not scopes:
            raise OAuthError("invalid_scope", "This client may have none of these scopes.")
        chain = (*subject.principal.actors, actor.principal.subject if actor else client.id)
        if len(chain) > DEEPEST:
            raise OAuthError("invalid_request", f"A token is exchanged at most {DEEPEST} times.")
        family = await self._families.get(subject.sid)
        if family is None:
            raise _refused()
        left = subject.expires_at - int(self._clock.now().timestamp())
        await self._families.note_exchange(family, client.id, chain)
        more: dict[str, Any] = {"act": nested(chain), "aud": resource}
        return await self._tokens.issue(
            family, scopes, subject.principal.roles, ttl=min(left, LONGEST_SECONDS), more=more, exchanged=True
        )

    async def _given(self, client: Client, parameters: Parameters, name: str) -> VerifiedToken:
        presented = parameters.get(name)
        if presented is None or parameters.get(f"{name}_type") != ACCESS_TOKEN:
            raise OAuthError("invalid_request", f"{name} and its type, an access token's, are needed.")
        try:
            token = await self._verifier.verify(presented, exchanged=True)
        except Denied as bad:
            raise _refused() from bad
        if token.principal.tenant != client.tenant or token.jkt:
            raise _refused()  # one that is bound to a key is of no use in other hands, and stays so
        return token

    def _resource(self, parameters: Parameters, subject: VerifiedToken) -> str:
        wanted = {parameters[name] for name in ("resource", "audience") if name in parameters}
        if len(wanted) > 1 or not all(self._tokens.resources.accepts(each) for each in wanted):
            raise OAuthError("invalid_target", "There is no such resource here.")
        if wanted:
            return wanted.pop()
        return subject.resource if self._tokens.resources.accepts(subject.resource) else self._tokens.resources.default


def _refused() -> OAuthError:
    return OAuthError("invalid_request", "The token that is to be exchanged cannot be used.")
