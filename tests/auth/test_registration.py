"""Clients that register themselves: only where that is on, and only what is harmless."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata
from mcp_agents_auth.clients import UNUSED_LIFE, USED_LIFE
from mcp_agents_auth.embedded import Newcomers
from mcp_agents_auth.http import routes
from mcp_agents_auth.oauth import OAuthError
from pydantic import AnyUrl
from starlette.applications import Starlette

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, TENANT_SCOPES
from tests.auth.desk import ISSUER, REDIRECT, VERIFIER, Desk, YieldingStore, answer, opened
from tests.support.clock import TestClock


@pytest.fixture
async def open_desk(clock: TestClock) -> AsyncIterator[Desk]:
    """A server at which clients may register themselves."""
    async with opened(YieldingStore(clock), clock, newcomers=Newcomers(fetch=None, may_register=True)) as ready:
        yield ready


def asked(**changes: Any) -> dict[str, Any]:
    """A good request, with changes; None leaves a member out."""
    good = {
        "client_name": "Visitor",
        "redirect_uris": [REDIRECT],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


async def register(desk: Desk, body: Any) -> httpx2.Response:
    """The registration endpoint's answer."""
    return await desk.http.post("/oauth/register", json=body)


async def test_it_is_off_unless_it_is_switched_on(desk: Desk, open_desk: Desk) -> None:
    """No route and no word in the metadata; with it, both."""
    assert (await register(desk, asked())).status_code == 404
    for name in ("oauth-authorization-server", "openid-configuration"):
        assert "registration_endpoint" not in (await desk.http.get(f"/.well-known/{name}")).json()
        document = (await open_desk.http.get(f"/.well-known/{name}")).json()
        assert document["registration_endpoint"] == f"{ISSUER}/oauth/register"


async def test_a_registered_client_signs_people_in(open_desk: Desk) -> None:
    """It has no secret, and gets what the user grants within what it asked for."""
    answered = await register(open_desk, asked(scope="agents:read models:read platform:admin nonsense"))
    assert (answered.status_code, answered.headers["cache-control"]) == (201, "no-store")
    said = OAuthClientInformationFull.model_validate(answered.json())
    assert (said.client_secret, said.token_endpoint_auth_method) == (None, "none")
    assert said.scope == "agents:read models:read"
    client = await open_desk.auth.clients.find(said.client_id)
    assert client is not None
    body = await open_desk.tokens(client)
    assert body["scope"] == "agents:read models:read"
    assert (await open_desk.refresh(client, body["refresh_token"])).status_code == 200


@pytest.mark.parametrize("method", [None, "none"])
async def test_what_the_official_client_sends_is_taken(open_desk: Desk, method: str | None) -> None:
    """The SDK's registration request, as it goes over the wire, with and without a method of authentication."""
    metadata = OAuthClientMetadata.model_validate(
        {
            "client_name": "SDK",
            "redirect_uris": [AnyUrl("http://127.0.0.1:33418/callback")],
            "token_endpoint_auth_method": method,
        }
    )
    answered = await register(open_desk, metadata.model_dump(mode="json", exclude_none=True))
    said = OAuthClientInformationFull.model_validate(answered.json())
    assert [str(uri) for uri in said.redirect_uris or ()] == ["http://127.0.0.1:33418/callback"]


async def test_authlibs_client_goes_through_the_flow(open_desk: Desk) -> None:
    """A client written by somebody else: code with PKCE, refresh, revocation."""
    client_id = (await register(open_desk, asked())).json()["client_id"]
    async with AsyncOAuth2Client(
        client_id,
        token_endpoint_auth_method="none",
        revocation_endpoint_auth_method="none",
        code_challenge_method="S256",
        redirect_uri=REDIRECT,
        scope="agents:read",
        transport=httpx2.ASGITransport(app=Starlette(routes=routes(open_desk.auth))),
    ) as client:
        url, state = client.create_authorization_url(f"{ISSUER}/oauth/authorize", code_verifier=VERIFIER)
        await open_desk.sign_in()
        back = (await open_desk.consent(dict(httpx2.URL(url).params))).headers["location"]
        token = await client.fetch_token(
            f"{ISSUER}/oauth/token", authorization_response=back, state=state, code_verifier=VERIFIER
        )
        assert token["scope"] == "agents:read"
        fresh = await client.refresh_token(f"{ISSUER}/oauth/token", refresh_token=token["refresh_token"])
        assert (await open_desk.auth.verifier.verify(fresh["access_token"])).client_id == client_id
        await client.revoke_token(f"{ISSUER}/oauth/revoke", token=fresh["refresh_token"])
    with pytest.raises(Denied):
        await open_desk.auth.verifier.verify(fresh["access_token"])


HOSTILE = [
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "file:///etc/passwd",
    "ftp://evil.example/callback",
    "about:blank",
    "blob:https://evil.example/x",
    "ws://evil.example/callback",
    "intent://evil#Intent;scheme=http;end",
    "myapp://callback",
    "com.example.app:/callback",
    "http://evil.example/callback",
    "http://localhost.evil.example/callback",
    "http://127.0.0.1.evil.example/callback",
    "http://127.0.0.2/callback",
    "http://0.0.0.0/callback",
    "https://",
    "https:///callback",
    "//evil.example/callback",
    "/callback",
    "callback",
    "",
    "https://app.example/callback#fragment",
    "https://user:pass@app.example/callback",
    "https://app.example@evil.example/callback",
    "https://*.example/callback",
    "https://app.example/*",
    "https://app.example\\@evil.example/callback",
    "https://app.example/../callback",
    "https://app.example/%2e%2e/callback",
    "https://app.example:0/callback",
    "https://app.example:99999/callback",
    "https://app.example/call back",
    "https://app.example/callback\n",
    "\thttps://app.example/callback",
    "https://app.example/c\u00e4llback",
    "https://\u0430pp.example/callback",
    "https://app.example/" + "x" * 2048,
    "urn:ietf:wg:oauth:2.0:oob",
]


@pytest.mark.parametrize("uri", HOSTILE)
async def test_a_hostile_redirect_uri_is_refused(open_desk: Desk, uri: str) -> None:
    """Alone, and hidden behind a good one."""
    for uris in ([uri], [REDIRECT, uri]):
        answered = await register(open_desk, asked(redirect_uris=uris))
        assert answered.status_code == 400, answered.text
        assert answered.json()["error"] in ("invalid_redirect_uri", "invalid_client_metadata")
        assert uri == "" or uri not in answered.text


KEY = {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}
UNFIT: list[Any] = [
    [],
    "x",
    7,
    {"client_name": "x"},
    asked(redirect_uris=[]),
    asked(redirect_uris=None),
    asked(redirect_uris=REDIRECT),
    asked(redirect_uris=[7]),
    asked(redirect_uris={"0": REDIRECT}),
    asked(redirect_uris=[REDIRECT] * 17),
    asked(token_endpoint_auth_method="client_secret_basic"),
    asked(token_endpoint_auth_method="client_secret_post"),
    asked(token_endpoint_auth_method="private_key_jwt"),
    asked(token_endpoint_auth_method=["none"]),
    asked(client_secret="chosen"),
    asked(jwks={"keys": [KEY]}),
    asked(jwks_uri="https://app.example/keys"),
    asked(software_statement="a.b.c"),
    asked(grant_types=["client_credentials"]),
    asked(grant_types=["authorization_code", "client_credentials"]),
    asked(grant_types=["authorization_code", "urn:ietf:params:oauth:grant-type:token-exchange"]),
    asked(grant_types=["refresh_token"]),
    asked(grant_types=["implicit"]),
    asked(grant_types="authorization_code"),
    asked(grant_types=[["authorization_code"]]),
    asked(response_types=["token"]),
    asked(response_types=["code", "token"]),
    asked(scope="platform:admin"),
    asked(scope="nonsense"),
    asked(scope=7),
    asked(scope="agents:read " * 500),
    asked(client_name="x" * 101),
    asked(client_name="   "),
    asked(client_name="evil\u202egnp.exe"),
    asked(client_name="a\u0000b"),
    asked(client_name=7),
    asked(client_name={"en": "x"}),
    asked(logo_uri="javascript:alert(1)"),
    asked(client_uri="file:///etc/passwd"),
    asked(contacts="x"),
]


@pytest.mark.parametrize("body", UNFIT)
async def test_unfit_metadata_is_refused(open_desk: Desk, body: Any) -> None:
    """Not public, not a code flow, not what it should be: 400 with one of the two registered errors."""
    answered = await register(open_desk, body)
    assert answered.status_code == 400, answered.text
    assert answered.json()["error"] in ("invalid_redirect_uri", "invalid_client_metadata")


async def test_the_body_is_small_json_and_says_nothing_twice(open_desk: Desk) -> None:
    """Forms, other types, 17 KiB, a repeated member, a deep one, a byte order mark."""
    text = json.dumps(asked())
    typed = {"content-type": "application/json"}
    assert (await open_desk.http.post("/oauth/register", data={"client_name": "x"})).status_code == 415
    headers = {"content-type": "text/plain"}
    assert (await open_desk.http.post("/oauth/register", content=text, headers=headers)).status_code == 415
    large = json.dumps(asked(padding="x" * 17 * 1024))
    assert (await open_desk.http.post("/oauth/register", content=large, headers=typed)).status_code == 413
    for body in (text[:-1] + ', "client_name": "other"}', "[" * 8000, "\ufeff" + text, "nul", b"\xff\xfe"):
        answered = await open_desk.http.post("/oauth/register", content=body, headers=typed)
        assert (answered.status_code, answered.json()["error"]) == (400, "invalid_client_metadata")
    assert (await open_desk.http.get("/oauth/register")).status_code == 405


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = st.sampled_from(sorted(asked() | dict.fromkeys(("scope", "jwks", "contacts", "logo_uri", "client_uri"), "")))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(changes=st.dictionaries(_MEMBERS, _JSON, min_size=1, max_size=4))
async def test_whatever_is_sent_is_answered(open_desk: Desk, changes: dict[str, Any]) -> None:
    """201 or an error of the protocol; what is registered is public, the platform's, and leads nowhere else."""
    body = json.dumps(asked() | changes).encode()
    try:
        said = await open_desk.auth.registration.register(body)
    except OAuthError:
        return  # refused, in the way of the protocol
    client = await open_desk.auth.clients.find(said["client_id"])
    assert client is not None
    assert (client.confidential, client.tenant, client.roles) == (False, "", [])
    assert client.redirect_uris == [REDIRECT] * len(client.redirect_uris)
    assert PLATFORM_ADMIN not in client.allowed() <= TENANT_SCOPES


async def test_an_unused_client_is_gone_after_a_day(open_desk: Desk) -> None:
    """A used one stays half a year from its last use; a registered one has no end."""
    unused, used = [(await register(open_desk, asked())).json()["client_id"] for _ in range(2)]
    ours = await open_desk.public_client()
    client = await open_desk.auth.clients.find(used)
    assert client is not None
    await open_desk.tokens(client)
    open_desk.clock.advance(UNUSED_LIFE.total_seconds())
    assert await open_desk.auth.clients.find(unused) is None
    refused = await open_desk.authorize(open_desk.query(client, client_id=unused))
    assert (refused.status_code, "location" in refused.headers) == (400, False)
    await open_desk.tokens(client)
    open_desk.clock.advance(USED_LIFE.total_seconds() - 1)
    assert await open_desk.auth.clients.find(used) is not None
    open_desk.clock.advance(1)
    assert await open_desk.auth.clients.find(used) is None
    assert await open_desk.auth.clients.find(ours.id) is not None
    open_desk.clock.advance(1)
    async for record in open_desk.store.scan("cb_auth", "client.*"):
        assert ours.id in record.key  # the store has swept the others


async def test_looking_at_the_consent_page_is_no_use(open_desk: Desk) -> None:
    """Only what a user granted keeps a client."""
    said = (await register(open_desk, asked())).json()
    client = await open_desk.auth.clients.find(said["client_id"])
    assert client is not None
    await open_desk.sign_in()
    assert (await open_desk.authorize(open_desk.query(client))).status_code == 200
    assert answer(await open_desk.consent(open_desk.query(client), decision="deny"))["error"] == "access_denied"
    open_desk.clock.advance(UNUSED_LIFE.total_seconds())
    assert await open_desk.auth.clients.find(client.id) is None


async def test_a_revoked_visitor_stays_revoked(open_desk: Desk) -> None:
    """The platform's operator ends it; signing in does not bring it back."""
    said = (await register(open_desk, asked())).json()
    client = await open_desk.auth.clients.find(said["client_id"])
    assert client is not None
    body = await open_desk.tokens(client)
    await open_desk.auth.clients.revoke("", client.id)
    assert (await open_desk.refresh(client, body["refresh_token"])).status_code == 401
    assert (await open_desk.authorize(open_desk.query(client))).status_code == 400
