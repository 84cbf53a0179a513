"""The token, revocation and introspection endpoints without HTTP: the grants.

Parameters come in as a mapping in which nothing is repeated or empty; tokens or an `OAuthError` come out. Which
client asks is `client_auth`'s business; the grants in which no person takes part here (`client_credentials`,
`exchange`, `identity_assertion`) have modules of their own and are handed in by whoever builds this.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied
from mcp_agents_auth.client_auth import ClientAuthentication
from mcp_agents_auth.clients import Client
from mcp_agents_auth.codes import Codes
from mcp_agents_auth.families import FAMILY_LIFE, REFRESH_PREFIX, Families, Family, Why, refused
from mcp_agents_auth.handles import challenge_of, same
from mcp_agents_auth.oauth import OAuthError, Parameters, requested_scopes
from mcp_agents_auth.standing import Standing, Standings, narrowed
from mcp_agents_auth.tokens import IssuedToken, TokenIssuer
from mcp_agents_auth.verifier import TokenVerifier, nested

_VERIFIER: Final = re.compile(r"[A-Za-z0-9\-._~]{43,128}")


class Grant(Protocol):
    """A grant in which no person takes part here."""

    async def token(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        """Answers a token request of an authenticated client that may use the grant. Raises `OAuthError`."""
        ...


class Grants:
    """Turns credentials into tokens, and ends what they started. `grant_types` are those that it answers; `others` are
    the grants beside the two that begin with a person at our pages."""

    def __init__(
        self,
        *,
        authentication: ClientAuthentication,
        families: Families,
        codes: Codes,
        standings: Standings,
        tokens: TokenIssuer,
        verifier: TokenVerifier,
        clock: Clock,
        others: Mapping[str, Grant],
    ) -> None:
        self._authentication, self._others = authentication, others
        self.grant_types = ("authorization_code", "refresh_token", *others)
        self._families, self._codes, self._standings = families, codes, standings
        self._tokens, self._verifier, self._clock = tokens, verifier, clock

    async def token(self, parameters: Parameters, authorization: str | None, jkt: str = "") -> IssuedToken:
        """Answers a token request. `authorization` is the header's value; `jkt` the key that the sender proved to hold,
        which the tokens are then bound to. Raises `OAuthError`."""
        client = await self._authentication.of(parameters, authorization)
        match parameters.get("grant_type"):
            case "authorization_code":
                return await self._authorization_code(_granted(client, "authorization_code"), parameters, jkt)
            case "refresh_token":
                return await self._refresh_token(_granted(client, "refresh_token"), parameters, jkt)
            case None:
                raise OAuthError("invalid_request", "grant_type is missing.")
            case other if other in self._others:
                return await self._others[other].token(_granted(client, other), parameters, jkt)
            case _:
                raise OAuthError("unsupported_grant_type", "There is no such grant type.")

    async def revoke(self, parameters: Parameters, authorization: str | None) -> None:
        """Ends the whole grant of an access or refresh token of this client (RFC 7009).

        A token that is not this client's, or none at all, is no error. Raises `OAuthError` for a bad request.
        """
        client = await self._authentication.of(parameters, authorization)
        token = parameters.get("token")
        if token is None:
            raise OAuthError("invalid_request", "token is missing.")
        sid = await self._sid_of(token)
        family = await self._families.get(sid) if sid else None
        if family is not None and family.client_id == client.id:
            await self.end(family.sid)

    async def introspect(self, parameters: Parameters, authorization: str | None) -> dict[str, Any]:
        """What an access token of the client's own tenant is worth now (RFC 7662); of any other, that it is not active.

        Only for clients that prove themselves. Raises `OAuthError`.
        """
        client = await self._authentication.of(parameters, authorization)
        if not client.confidential or not client.tenant:
            raise OAuthError("unauthorized_client", "Only a confidential client of a tenant may ask.")
        token = parameters.get("token")
        if token is None:
            raise OAuthError("invalid_request", "token is missing.")
        try:
            known = await self._verifier.verify(token)
        except Denied:
            return {"active": False}
        principal = known.principal
        if principal.tenant != client.tenant or not principal.scopes:
            return {"active": False}
        return {
            "active": True,
            "iss": self._tokens.issuer,
            "sub": principal.subject,
            "aud": known.resource,
            "client_id": known.client_id,
            "scope": " ".join(sorted(principal.scopes)),
            "tenant": principal.tenant,
            "token_type": "DPoP" if known.jkt else "Bearer",
            "iat": known.issued_at,
            "exp": known.expires_at,
            **({"act": nested(principal.actors)} if principal.actors else {}),
            **({"cnf": {"jkt": known.jkt}} if known.jkt else {}),
        }

    async def end(self, sid: str, why: Why = "asked") -> None:
        """Ends a grant and every token of it."""
        await self._families.revoke(sid, why)
        self._standings.forget(sid)

    async def _authorization_code(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        presented = parameters.get("code")
        if presented is None:
            raise OAuthError("invalid_request", "code is missing.")
        code = await self._codes.burn(presented)  # from here on the code is gone, however this ends
        verifier = parameters.get("code_verifier", "")
        if code.client_id != client.id or parameters.get("redirect_uri", code.redirect_uri) != code.redirect_uri:
            raise refused()
        if not _VERIFIER.fullmatch(verifier) or not same(challenge_of(verifier), code.challenge):
            raise refused()
        if parameters.get("resource", code.resource) != code.resource:
            raise OAuthError("invalid_target", "The resource is not the one that was authorized.")
        family = await self._families.extend(code.sid, self._clock.now() + FAMILY_LIFE, jkt)
        if family is None:
            raise refused()
        standing = await self._standing(family)
        refresh = await self._families.first_refresh(family) if "refresh_token" in client.grant_types else None
        return await self._tokens.issue(family, standing.scopes, standing.roles, refresh_token=refresh)

    async def _refresh_token(self, client: Client, parameters: Parameters, jkt: str) -> IssuedToken:
        presented = parameters.get("refresh_token")
        if presented is None:
            raise OAuthError("invalid_request", "refresh_token is missing.")
        family, found = await self._families.find_refresh(presented)
        if family.client_id != client.id:
            await self.end(family.sid, "wrong_client")  # a token in the wrong hands was stolen from the right ones
            raise refused()
        if family.jkt != jkt:
            raise refused()  # the token alone is not enough, and no binding comes or goes later
        if parameters.get("resource", family.resource) != family.resource:
            raise OAuthError("invalid_target", "The resource is not the one that was authorized.")
        requested = requested_scopes(parameters)
        if requested is not None and requested - frozenset(family.scopes):
            raise OAuthError("invalid_scope", "A refresh cannot widen the scope.")
        standing = await self._standing(family)
        scopes = narrowed(requested, standing.scopes)
        if not scopes:
            raise OAuthError("invalid_scope", "None of these scopes is held any more.")
        successor = await self._families.rotate(presented, found, family)
        return await self._tokens.issue(family, scopes, standing.roles, refresh_token=successor)

    async def _standing(self, family: Family) -> Standing:
        standing = await self._standings.look(family)
        if standing is None:
            raise refused()
        return standing

    async def _sid_of(self, token: str) -> str | None:
        if token.startswith(REFRESH_PREFIX):
            return await self._families.sid_of_refresh(token)
        try:
            return (await self._verifier.verify(token)).sid
        except Denied:
            return None


def _granted(client: Client, grant_type: str) -> Client:
    if grant_type not in client.grant_types:
        raise OAuthError("unauthorized_client", "This client may not use this grant type.")
    return client
