"""Redirect URIs: what may be registered, and that nobody is ever sent anywhere else."""

from urllib.parse import urlencode

import pytest
from mcp_agents_auth.redirects import matches

from mcp_agents.kernel.errors import Invalid
from tests.auth.desk import REDIRECT, Desk, hidden

HOSTILE = [
    "http://app.example/callback",
    "http://10.0.0.1/callback",
    "http://localhost.evil.example/callback",
    "http://127.0.0.1.evil.example/callback",
    "http://2130706433/callback",
    "https://app.example/callback#fragment",
    "https://user@app.example/callback",
    "https://user:secret@app.example/callback",
    "https://*.example/callback",
    "https://app.example/*",
    "javascript:alert(1)",
    "data:text/html,x",
    "file:///etc/passwd",
    "myapp://callback",
    "//app.example/callback",
    "/callback",
    "https:///callback",
    "https://app.example\\@evil.example/callback",
    "https://app.example/../callback",
    "https://app.example/%2e%2E/callback",
    "https://app.example/call back",
    "https://app.example/callback\r\nX: y",
    "https://app.example/callback\n",
    "https://app.example:0/callback",
    "https://app.example:99999/callback",
    "https://äpp.example/callback",
    "https://app.example/callback;form-action *",
    "https://[::2]/callback",
    "HTTP://127.0.0.1;x/callback",
    "",
    "https://app.example/" + "a" * 2048,
]


@pytest.mark.parametrize("uri", HOSTILE)
async def test_a_hostile_address_cannot_be_registered(desk: Desk, uri: str) -> None:
    """Each one is refused before a client exists."""
    with pytest.raises(Invalid):
        await desk.public_client(redirect=uri)
    assert await desk.auth.clients.list("acme") == []


@pytest.mark.parametrize(
    "uri",
    [
        *HOSTILE,
        "https://evil.example/callback",
        REDIRECT + "/",
        REDIRECT + "?next=evil",
        REDIRECT + "x",
        REDIRECT.upper(),
        "https://app.example:443/callback",
        "https://app.example.evil.example/callback",
        "https://app.example/Callback",
    ],
)
async def test_an_unregistered_address_is_never_redirected_to(desk: Desk, uri: str) -> None:
    """The person sees a page that says so, signed in or not, with and without other errors in the request."""
    client = await desk.public_client()
    for _ in range(2):
        for extra in ({}, {"response_type": "token"}, {"code_challenge": None}):
            answered = await desk.authorize(desk.query(client, redirect_uri=uri, **extra))
            assert answered.status_code == 400
            assert "location" not in answered.headers
            assert "text/html" in answered.headers["content-type"]
        await desk.sign_in()


@pytest.mark.parametrize(
    "client_id", ["", "unknown", "cl_" + "0" * 26, "cl_" + "0" * 26 + "\n", "cl_.*.>", "../cl", "x" * 9000]
)
async def test_an_unknown_client_gets_a_page(desk: Desk, client_id: str) -> None:
    """Malformed and unknown ids read the same, and never reach the store as a key."""
    client = await desk.public_client()
    answered = await desk.authorize(desk.query(client, client_id=client_id))
    assert answered.status_code == 400
    assert "location" not in answered.headers
    refused = await desk.token({"grant_type": "client_credentials", "client_id": client_id or "x"})
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


async def test_a_revoked_client_gets_a_page(desk: Desk) -> None:
    """Its redirect URIs are nobody's any more."""
    client = await desk.public_client()
    await desk.auth.clients.revoke("acme", client.id)
    assert (await desk.authorize(desk.query(client))).status_code == 400


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
async def test_a_repeated_client_or_address_gets_a_page(desk: Desk, name: str) -> None:
    """Which of two was meant is not guessed."""
    client = await desk.public_client()
    query: list[tuple[str, str | int | float | bool | None]] = [
        *desk.query(client).items(),
        (name, "https://evil.example/callback"),
    ]
    answered = await desk.http.get("/oauth/authorize", params=query)
    assert answered.status_code == 400
    assert "location" not in answered.headers


async def test_a_sign_in_link_with_a_faulty_request_goes_nowhere(desk: Desk) -> None:
    """Even an address of a real client is not redirected to from there."""
    faulty = urlencode(desk.query(await desk.public_client(), response_type="token"))
    answered = await desk.http.get("/oauth/sign-in", params={"next": faulty})
    assert answered.status_code == 400
    assert "location" not in answered.headers


async def test_a_sign_in_link_never_leads_to_a_client_or_elsewhere(desk: Desk) -> None:
    """`next` is an authorization request, validated; a URL in it is only a malformed one."""
    page = await desk.http.get("/oauth/sign-in")
    form = {"csrf": hidden(page, "csrf"), "email": "ada@acme.example", "password": "correct horse battery"}
    for target in ("https://evil.example", "//evil.example", "/\\evil.example", "redirect_uri=https://evil.example"):
        assert (await desk.http.get("/oauth/sign-in", params={"next": target})).status_code == 400
        answered = await desk.http.post("/oauth/sign-in", data=form | {"next": target})
        assert answered.status_code == 400
        assert "location" not in answered.headers


@pytest.mark.parametrize(
    ("registered", "presented", "fits"),
    [
        ("http://127.0.0.1/cb", "http://127.0.0.1:5555/cb", True),
        ("http://127.0.0.1:1/cb", "http://127.0.0.1/cb", True),
        ("http://[::1]/cb", "http://[::1]:5555/cb", True),
        ("http://localhost/cb", "http://localhost:5555/cb", True),
        ("http://127.0.0.1/cb", "http://localhost:5555/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:5555/other", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:5555/cb?a=1", False),
        ("http://127.0.0.1/cb", "https://127.0.0.1:5555/cb", False),
        ("http://127.0.0.1/cb", "http://127.0.0.1:5555@evil.example/cb", False),
        ("https://127.0.0.1/cb", "https://127.0.0.1:5555/cb", False),
        ("https://app.example/cb", "https://app.example:5555/cb", False),
    ],
)
def test_only_the_port_of_a_loopback_address_is_free(registered: str, presented: str, *, fits: bool) -> None:
    """RFC 8252: everything else of the address is compared as text."""
    assert matches(registered, presented) is fits
