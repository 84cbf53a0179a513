"""The discovery documents, read by the libraries that clients use."""

import httpx2
import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from mcp.shared.auth import OAuthMetadata
from mcp_agents_auth.clients import GRANT_TYPES, JWT_BEARER
from mcp_agents_auth.http import routes
from starlette.applications import Starlette

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.scopes import TENANT_SCOPES
from tests.auth.desk import ISSUER, Desk, build
from tests.support.clock import TestClock


@pytest.mark.parametrize("name", ["oauth-authorization-server", "openid-configuration"])
async def test_both_documents_satisfy_the_sdk_and_authlib(desk: Desk, name: str) -> None:
    """Issuer to the letter, PKCE S256, all grants, all ways of client authentication."""
    answered = await desk.http.get(f"/.well-known/{name}")
    document = answered.json()
    AuthorizationServerMetadata(document).validate()
    metadata = OAuthMetadata.model_validate(document)
    assert document["issuer"] == ISSUER
    assert metadata.code_challenge_methods_supported == ["S256"]
    assert metadata.grant_types_supported == [each for each in GRANT_TYPES if each != JWT_BEARER]
    proved = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
    assert metadata.token_endpoint_auth_methods_supported == ["none", *proved]
    assert document["token_endpoint_auth_signing_alg_values_supported"] == ["ES256", "RS256"]
    assert document["introspection_endpoint_auth_methods_supported"] == proved
    assert metadata.authorization_response_iss_parameter_supported is True
    assert set(metadata.scopes_supported or ()) == TENANT_SCOPES
    assert document["revocation_endpoint"] == f"{ISSUER}/oauth/revoke"


async def test_every_endpoint_named_is_there(desk: Desk) -> None:
    """None of them is a 404, and the JWKS is public keys."""
    document = (await desk.http.get("/.well-known/oauth-authorization-server")).json()
    for name, method in [
        ("authorization_endpoint", "GET"),
        ("token_endpoint", "POST"),
        ("revocation_endpoint", "POST"),
        ("introspection_endpoint", "POST"),
        ("jwks_uri", "GET"),
    ]:
        assert (await desk.http.request(method, document[name])).status_code not in (404, 405)
    keys = (await desk.http.get(document["jwks_uri"])).json()["keys"]
    assert [key["alg"] for key in keys] == ["ES256"]
    assert all("d" not in key for key in keys)


async def test_an_issuer_with_a_path_is_found_in_every_place_clients_look(clock: TestClock) -> None:
    """RFC 8414 puts the path behind the well-known part, OpenID Connect before it."""
    issuer = "https://agents.example/base"
    app = Starlette(routes=routes(build(MemoryStore(clock), clock, issuer=issuer)))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://agents.example") as http:
        for place in (
            "/.well-known/oauth-authorization-server/base",
            "/.well-known/openid-configuration/base",
            "/base/.well-known/openid-configuration",
        ):
            assert (await http.get(place)).json()["issuer"] == issuer
        assert (await http.get("/.well-known/oauth-authorization-server")).status_code == 404
        assert (await http.get("/base/oauth/jwks")).json() == (await http.get("/oauth/jwks")).json()


def test_an_issuer_without_tls_is_refused_off_this_machine(clock: TestClock) -> None:
    """http is for loopback only, and the refusal says what to set."""
    with pytest.raises(Invalid) as caught:
        routes(build(MemoryStore(clock), clock, issuer="http://agents.example"))
    assert caught.value.code == "ISSUER_INSECURE"
    assert "public_url" in caught.value.next_step
