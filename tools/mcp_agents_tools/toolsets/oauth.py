"""What we do as an OAuth client of a tool server's authorization server: find it, register there, ask it for tokens.

Knows no tenants and keeps nothing: `credentials` keeps, `sign_ins` decides. Discovery and its documents are read as the
SDK reads them; every request goes through the egress rule, and nothing secret over plain http to another machine.
"""

import base64
import json
from typing import Any, Final
from urllib.parse import quote, urlencode

import anyio
import httpx2
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    handle_auth_metadata_response,
    handle_protected_resource_response,
    validate_metadata_issuer,
)
from mcp.shared.auth import OAuthMetadata, OAuthToken, ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed
from msgspec import Struct
from pydantic import ValidationError

from mcp_agents.kernel.errors import Invalid
from mcp_agents_tools.toolsets.transport import Addresses, GuardedClient, GuardedTransport

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_DOCUMENT_LIMIT: Final = 256 * 1024
_PING: Final = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name (RFC 8693)


class RefusedError(Exception):
    """The authorization server said no, with an error code of OAuth's."""


class UnreachableError(Exception):
    """It did not answer, or not in a way that can be understood."""


class Place(Struct, frozen=True, kw_only=True):
    """An authorization server as far as we need it, and what its tokens are for. `basic`: how a secret is shown."""

    issuer: str
    token_endpoint: str
    resource: str
    authorization_endpoint: str = ""
    registration_endpoint: str = ""
    scope: str = ""
    basic: bool = True
    says_issuer: bool = False
    reads_documents: bool = False
    """Whether it takes clients that describe themselves in a document."""


class Registered(Struct, frozen=True, kw_only=True):
    """What we are known as there. Without `secret` we are a public client."""

    client_id: str
    secret: str = ""


def require_secure(rule: Addresses, url: str) -> None:
    """Raises `Invalid` for an address to which no secret may be sent, `Denied` for one that is off limits."""
    endpoint = rule.inspect(url)
    if endpoint.scheme == "http" and endpoint.host not in _LOOPBACK:
        raise Invalid(
            "TOOL_SERVER_PLAIN_HTTP", "A secret is not sent over plain http to another machine.", "Use an https URL."
        )


class OauthClient:
    """Requests over the egress rule, one connection for each.

    Args:
        patience: seconds for all of a discovery, or for one answer: who drips bytes holds nobody up.
    """

    def __init__(self, rule: Addresses, patience: float = 20.0) -> None:
        self._rule, self._patience = rule, patience

    async def discover(self, url: str, issuer: str = "") -> Place:
        """The authorization server of an MCP endpoint (RFC 9728, RFC 8414), or `issuer` where that is fixed.

        Raises `UnreachableError`, and `Invalid` or `Denied` for addresses that may not be used.
        """
        try:
            with anyio.fail_after(self._patience):
                async with self._client() as client:
                    resource, challenged = await self._resource(client, url)
                    authority = issuer or str(resource.authorization_servers[0] if resource else url).rstrip("/")
                    found = await self._metadata(client, authority, url)
        except (OAuthFlowError, ValidationError, httpx2.HTTPError, ValueError, RecursionError, TimeoutError) as cause:
            raise UnreachableError from cause
        scopes = challenged or " ".join((resource.scopes_supported if resource else None) or ())
        methods = found.token_endpoint_auth_methods_supported
        place = Place(
            issuer=str(found.issuer),
            token_endpoint=str(found.token_endpoint),
            resource=str(resource.resource).rstrip("/") if resource else url,
            authorization_endpoint=str(found.authorization_endpoint),
            registration_endpoint=str(found.registration_endpoint or ""),
            scope=scopes,
            basic=methods is None or "client_secret_basic" in methods,
            says_issuer=bool(found.authorization_response_iss_parameter_supported),
            reads_documents=bool(found.client_id_metadata_document_supported),
        )
        if "S256" not in (found.code_challenge_methods_supported or ()):
            raise UnreachableError
        for each in (place.token_endpoint, place.authorization_endpoint, place.registration_endpoint):
            if each:
                require_secure(self._rule, each)
        return place

    async def register(self, place: Place, redirect_uri: str) -> Registered:
        """Registers us (RFC 7591). Raises `RefusedError`, `UnreachableError`."""
        if not place.registration_endpoint:
            raise RefusedError("registration_not_supported")
        answer = await self._post(place.registration_endpoint, json=described(redirect_uri))
        name, secret = answer.get("client_id"), answer.get("client_secret", "")
        if not isinstance(name, str) or not isinstance(secret, str):
            raise UnreachableError
        return Registered(client_id=name, secret=secret)

    async def tokens(self, place: Place, us: Registered, form: dict[str, str]) -> OAuthToken:
        """Asks the token endpoint. Raises `RefusedError`, `UnreachableError`."""
        given, headers = {**form, "resource": place.resource}, {}
        if us.secret and place.basic:
            pair = f"{quote(us.client_id, safe='')}:{quote(us.secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            given |= {"client_id": us.client_id, **({"client_secret": us.secret} if us.secret else {})}
        answer = await self._post(place.token_endpoint, data=given, headers=headers)
        try:
            return OAuthToken.model_validate(answer)
        except ValidationError:
            raise UnreachableError from None  # what was wrong in it may be a token

    async def _resource(self, client: httpx2.AsyncClient, url: str) -> tuple[ProtectedResourceMetadata | None, str]:
        probe = await client.post(url, json=_PING, headers={"accept": "application/json, text/event-stream"})
        for address in build_protected_resource_metadata_discovery_urls(
            extract_resource_metadata_from_www_auth(probe), url
        ):
            found = await handle_protected_resource_response(await client.get(address))
            if found is not None and found.authorization_servers:
                if not check_resource_allowed(requested_resource=url, configured_resource=str(found.resource)):
                    raise UnreachableError
                return found, extract_scope_from_www_auth(probe) or ""
        return None, ""

    async def _metadata(self, client: httpx2.AsyncClient, authority: str, url: str) -> OAuthMetadata:
        require_secure(self._rule, authority)
        for address in build_oauth_authorization_server_metadata_discovery_urls(authority, url):
            _, found = await handle_auth_metadata_response(await client.get(address))
            if found is not None:
                validate_metadata_issuer(found, authority)
                return found
        raise UnreachableError

    async def _post(self, url: str, **content: Any) -> dict[str, Any]:
        require_secure(self._rule, url)
        try:
            with anyio.fail_after(self._patience):
                async with self._client() as client:
                    answer = await client.post(url, **content)
            body = json.loads(answer.content)
        except (httpx2.HTTPError, ValueError, RecursionError, TimeoutError) as cause:
            raise UnreachableError from cause
        if not isinstance(body, dict):
            raise UnreachableError
        if 400 <= answer.status_code < 500 and isinstance(body.get("error"), str):
            raise RefusedError(body["error"])
        if answer.status_code not in (200, 201):
            raise UnreachableError
        return body

    def _client(self) -> GuardedClient:
        return GuardedClient(GuardedTransport(self._rule, limit=_DOCUMENT_LIMIT), None, {})


def described(redirect_uri: str) -> dict[str, Any]:
    """What we say of ourselves as a client (RFC 7591), in a registration and in a document of our own."""
    return {
        "client_name": "mcp-agents",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native" if redirect_uri.startswith("http:") else "web",
    }


def authorization_url(place: Place, client_id: str, **parameters: str) -> str:
    """Where the person's browser is sent."""
    query = {"response_type": "code", "client_id": client_id, "resource": place.resource, **parameters}
    separator = "&" if "?" in place.authorization_endpoint else "?"
    return f"{place.authorization_endpoint}{separator}{urlencode({k: v for k, v in query.items() if v})}"
