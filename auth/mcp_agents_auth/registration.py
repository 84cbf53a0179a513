"""Clients that register themselves: dynamic client registration (RFC 7591), only where it is switched on.

Anybody may ask, so what comes of it is the least there is: a public client of the platform, without a secret, with
redirect URIs under the same rules as all others. It vanishes within a day unless somebody signs in with it, and half a
year after somebody last did. A client that can publish a document about itself (`documents`) needs none of this.
"""

import json
from typing import Any, Final, cast

from authlib.oauth2.rfc7591 import ClientMetadataClaims
from joserfc.errors import JoseError

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents_auth.clients import USER_GRANTS, Client, Clients, GrantType
from mcp_agents_auth.oauth import SCOPE_LIMIT, OAuthError

MAX_BYTES: Final = 16 * 1024
_UNSUPPORTED: Final = ("client_secret", "jwks", "jwks_uri", "software_statement")
_LISTS: Final = ("redirect_uris", "grant_types", "response_types", "contacts")
_TEXTS: Final = (
    "client_name",
    "scope",
    "token_endpoint_auth_method",
    "client_uri",
    "logo_uri",
    "tos_uri",
    "policy_uri",
)


class Registration:
    """Registers whoever asks. `on`: whether anybody may."""

    def __init__(self, clients: Clients, *, on: bool) -> None:
        self._clients, self.on = clients, on

    async def register(self, body: bytes) -> dict[str, Any]:
        """The client information response to a request's JSON body.

        Raises `OAuthError`: `invalid_redirect_uri` or `invalid_client_metadata`.
        """
        said = _read(body)
        try:
            client = await self._clients.introduce(
                said.get("client_name", "") or "Unnamed program",
                redirect_uris=tuple(said.get("redirect_uris", [])),
                grant_types=_grants(said),
                scopes=_scopes(said),
            )
        except Invalid as error:
            if error.code == "REDIRECT_URI_INVALID":
                raise OAuthError("invalid_redirect_uri", error.public) from error
            raise _unfit(error.public) from error
        return _response(client)


def _read(body: bytes) -> dict[str, Any]:
    """The metadata of a request, of the right types. Raises `OAuthError`."""
    try:
        said = json.loads(body.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as cause:
        raise _unfit("The body is not one JSON object.") from cause
    if not isinstance(said, dict):
        raise _unfit("The body is not one JSON object.")
    if any(name in said for name in _UNSUPPORTED):
        raise _unfit("Only public clients register themselves: without secrets, keys and statements.")
    if not all(_is_list_of_texts(said.get(name, [])) for name in _LISTS):
        raise _unfit("A list of the metadata is malformed.")
    if not all(isinstance(said.get(name, ""), str) for name in _TEXTS):
        raise _unfit("A text of the metadata is malformed.")
    if said.setdefault("token_endpoint_auth_method", "none") not in ("none", ""):
        raise _unfit("Only public clients register themselves: token_endpoint_auth_method is none.")
    try:
        ClientMetadataClaims(said, {}).validate()
    except (JoseError, ValueError) as cause:
        raise _unfit("An address of the metadata is malformed.") from cause
    return said


def _grants(said: dict[str, Any]) -> frozenset[GrantType]:
    grants = frozenset(said.get("grant_types") or ("authorization_code",))
    if "authorization_code" not in grants or not grants <= USER_GRANTS:
        raise _unfit("The grant types are authorization_code and refresh_token.")
    if said.get("response_types") not in (None, [], ["code"]):
        raise _unfit("The response type is code.")
    return cast(frozenset[GrantType], grants)


def _scopes(said: dict[str, Any]) -> frozenset[str]:
    """The most the client may ever be granted; what is not known here is left out, which the answer says."""
    text = said.get("scope", "")
    if not text:
        return TENANT_SCOPES
    known = frozenset(text.split()) & TENANT_SCOPES if len(text) <= SCOPE_LIMIT else frozenset[str]()
    if not known:
        raise _unfit("There is none of these scopes here.")
    return known


def _response(client: Client) -> dict[str, Any]:
    return {
        "client_id": client.id,
        "client_id_issued_at": int(client.created_at.timestamp()),
        "client_name": client.name,
        "redirect_uris": client.redirect_uris,
        "grant_types": client.grant_types,
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "scope": " ".join(client.scopes),
    }


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is repeated")
    return found


def _unfit(description: str) -> OAuthError:
    return OAuthError("invalid_client_metadata", description)
