"""The authorization server's metadata document (RFC 8414), and its OpenID Connect alias.

Says only what is there. authlib's validator reads it once at start, so that an issuer which clients would
refuse is refused here, with a reason.
"""

from collections.abc import Collection
from typing import Final

from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents_auth.client_auth import METHODS
from mcp_agents_auth.client_keys import ALGORITHMS
from mcp_agents_auth.clients import JWT_BEARER
from mcp_agents_auth.identity_assertion import PROFILE
from mcp_agents_auth.signing import ALGORITHM

Document = dict[str, str | bool | list[str]]

_PROVED: Final = [method for method in METHODS if method != "none"]


def server_metadata(issuer: str, grant_types: Collection[str], *, documents: bool, registration: bool) -> Document:
    """The document of this issuer: whether clients may describe themselves (`documents`), or register themselves.

    Raises `Invalid` for an issuer that is neither https nor on loopback.
    """
    document: Document = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "revocation_endpoint": f"{issuer}/oauth/revoke",
        "jwks_uri": f"{issuer}/oauth/jwks",
        "scopes_supported": sorted(TENANT_SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [*grant_types],
        "introspection_endpoint": f"{issuer}/oauth/introspect",
        "token_endpoint_auth_methods_supported": METHODS,
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "revocation_endpoint_auth_methods_supported": METHODS,
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint_auth_methods_supported": _PROVED,
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "dpop_signing_alg_values_supported": ALGORITHMS,
        "client_id_metadata_document_supported": documents,
    }
    if JWT_BEARER in grant_types:
        document["authorization_grant_profiles_supported"] = [PROFILE]
    if registration:
        document["registration_endpoint"] = f"{issuer}/oauth/register"
    try:
        AuthorizationServerMetadata(document).validate()
    except ValueError as refused:
        raise Invalid(
            "ISSUER_INSECURE",
            "The public URL must be https, or http on this machine.",
            "Set [server] public_url to the https address that clients see.",
        ) from refused
    return document


def openid_configuration(issuer: str, grant_types: Collection[str], *, documents: bool, registration: bool) -> Document:
    """The same under the name that OpenID Connect discovery looks for, with the members it requires."""
    openid: Document = {
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
    }
    return server_metadata(issuer, grant_types, documents=documents, registration=registration) | openid
