"""Authorization code with PKCE, from the client's request to its tokens."""

import anyio
import httpx2
import pytest
from mcp_agents_auth.handles import challenge_of

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.scopes import ROLES, TENANT_SCOPES
from tests.auth.desk import ISSUER, PASSWORD, RESOURCE, VERIFIER, Desk, YieldingStore, answer, encoded, hidden, opened
from tests.support.clock import TestClock


async def test_a_person_signs_in_consents_and_the_client_gets_a_working_token(desk: Desk) -> None:
    """The whole walk ends in a Principal of the chosen tenant."""
    client = await desk.public_client()
    start = await desk.authorize(desk.query(client))
    assert start.status_code == 303
    assert start.headers["location"].startswith(f"{ISSUER}/oauth/sign-in?next=")
    await desk.sign_in()
    sent = answer(await desk.consent(desk.query(client)))
    assert (sent["state"], sent["iss"]) == ("st4te", ISSUER)
    answered = await desk.redeem(client, sent["code"])
    body = answered.json()
    assert answered.headers["cache-control"] == "no-store"
    assert (body["token_type"], body["expires_in"], body["tenant"]) == ("Bearer", 3600, "acme")
    verified = await desk.auth.verifier.verify(body["access_token"])
    assert (verified.principal.tenant, verified.principal.subject) == ("acme", desk.ada.id)
    assert verified.principal.scopes == TENANT_SCOPES
    assert (verified.client_id, verified.resource) == (client.id, RESOURCE)


async def test_sign_in_goes_on_to_the_request_it_interrupted(desk: Desk) -> None:
    """After the password the browser lands on the consent page of the same request."""
    client = await desk.public_client()
    start = await desk.authorize(desk.query(client))
    page = await desk.http.get(start.headers["location"])
    data = {"csrf": hidden(page, "csrf"), "next": hidden(page, "next")}
    signed = await desk.http.post("/oauth/sign-in", data=data | {"email": "ada@acme.example", "password": PASSWORD})
    assert signed.status_code == 303
    consent = await desk.http.get(signed.headers["location"])
    assert consent.status_code == 200
    assert "Allow access?" in consent.text


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": "short"},
        {"code_challenge": "x" * 44},
        {"code_challenge": "+" * 43},
        {"code_challenge": None, "code_challenge_method": None},
    ],
)
async def test_a_weaker_pkce_is_refused_to_the_client(desk: Desk, changes: dict[str, str | None]) -> None:
    """Without a real S256 challenge no page is shown and no code is made."""
    client = await desk.public_client()
    sent = answer(await desk.authorize(desk.query(client, **changes)))
    assert (sent["error"], sent["state"], sent["iss"]) == ("invalid_request", "st4te", ISSUER)


@pytest.mark.parametrize(
    "verifier", [None, "w" * 43, "v" * 42, "v" * 44, "v" * 129, challenge_of(VERIFIER), "ü" * 43, "v" * 42 + "\n"]
)
async def test_a_wrong_verifier_burns_the_code(desk: Desk, verifier: str | None) -> None:
    """After one bad attempt the right verifier is too late."""
    client = await desk.public_client()
    code = await desk.code(client)
    first = await desk.redeem(client, code, code_verifier=verifier)
    second = await desk.redeem(client, code)
    assert [(r.status_code, r.json()["error"]) for r in (first, second)] == [(400, "invalid_grant")] * 2


async def test_a_replayed_code_ends_the_whole_grant(desk: Desk) -> None:
    """Access and refresh token of the first redemption are dead after the second."""
    client = await desk.public_client()
    code = await desk.code(client)
    body = (await desk.redeem(client, code)).json()
    replay = await desk.redeem(client, code)
    assert replay.json()["error"] == "invalid_grant"
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(body["access_token"])
    assert (await desk.refresh(client, body["refresh_token"])).json()["error"] == "invalid_grant"


async def test_of_twenty_redemptions_at_once_exactly_one_is_answered(desk: Desk) -> None:
    """Nineteen presented a used code, which ends the grant of the one that won."""
    client = await desk.public_client()
    code = await desk.code(client)
    answers: list[httpx2.Response] = []

    async def redeem() -> None:
        answers.append(await desk.redeem(client, code))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(redeem)
    won = [r for r in answers if r.status_code == 200]
    assert len(won) == 1
    assert {r.json()["error"] for r in answers if r.status_code != 200} == {"invalid_grant"}
    with pytest.raises(Denied):
        await desk.auth.verifier.verify(won[0].json()["access_token"])


async def test_a_code_is_too_old_after_sixty_seconds(desk: Desk) -> None:
    """At 59 seconds a code works, at 60 another one does not."""
    client = await desk.public_client()
    young, old = await desk.code(client), await desk.code(client)
    desk.clock.advance(59)
    assert (await desk.redeem(client, young)).status_code == 200
    desk.clock.advance(1)
    assert (await desk.redeem(client, old)).json()["error"] == "invalid_grant"


async def test_a_code_nobody_was_given_is_an_invalid_grant(desk: Desk) -> None:
    """Made-up codes and refresh tokens are refused like used ones."""
    client = await desk.public_client()
    for made_up in ("x", "A" * 43, "ü\n.*"):
        assert (await desk.redeem(client, made_up)).json()["error"] == "invalid_grant"
        assert (await desk.refresh(client, f"rt_{made_up}")).json()["error"] == "invalid_grant"


async def test_a_code_is_no_good_to_another_client(desk: Desk) -> None:
    """Another client's attempt is refused, and burns the code for its owner."""
    client, other = await desk.public_client(), await desk.public_client()
    code = await desk.code(client)
    assert (await desk.redeem(other, code)).json()["error"] == "invalid_grant"
    assert (await desk.redeem(client, code)).json()["error"] == "invalid_grant"


async def test_another_redirect_uri_at_the_token_endpoint_is_refused(desk: Desk) -> None:
    """The address given at redemption is the one the code was sent to."""
    client = await desk.public_client()
    code = await desk.code(client)
    refused = await desk.redeem(client, code, redirect_uri="https://app.example/other")
    assert refused.json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "resource",
    [
        "https://evil.example/mcp",
        "https://bgents.example/mcp/all",
        f"{RESOURCE}/../admin",
        f"{RESOURCE}x",
        f"{RESOURCE}?a=1",
        f"{RESOURCE}#a",
        ISSUER,
    ],
)
async def test_an_unknown_resource_is_an_invalid_target(desk: Desk, resource: str) -> None:
    """Nobody gets a token for somebody else's server out of us."""
    client = await desk.public_client()
    sent = answer(await desk.authorize(desk.query(client, resource=resource)))
    assert sent["error"] == "invalid_target"


async def test_the_resource_is_fixed_at_authorization(desk: Desk) -> None:
    """Another one at redemption is refused, even though it is ours too."""
    client = await desk.public_client()
    code = await desk.code(client, resource=f"{RESOURCE}/all")
    assert (await desk.redeem(client, code, resource=RESOURCE)).json()["error"] == "invalid_target"
    body = await desk.tokens(client, resource=f"{RESOURCE}/all")
    assert (await desk.auth.verifier.verify(body["access_token"])).resource == f"{RESOURCE}/all"


async def test_the_granted_scope_is_what_request_client_and_role_share(desk: Desk) -> None:
    """Asked for four scopes, the client may have three of them and the user's role holds two of those."""
    await desk.auth.users.set_roles(desk.ada.id, "acme", frozenset({"viewer"}))
    client = await desk.public_client(
        roles=frozenset(), scopes=frozenset({"agents:read", "agents:write", "models:read"})
    )
    body = await desk.tokens(client, scope="agents:read agents:write models:read executions:read offline_access")
    assert body["scope"] == "agents:read models:read"


async def test_without_a_scope_the_role_is_the_measure(desk: Desk) -> None:
    """A viewer who is asked for nothing in particular grants what a viewer holds."""
    await desk.auth.users.set_roles(desk.ada.id, "acme", frozenset({"viewer"}))
    body = await desk.tokens(await desk.public_client())
    assert frozenset(body["scope"].split()) == ROLES["viewer"]


async def test_a_client_of_one_tenant_gets_nothing_of_another(desk: Desk) -> None:
    """Ada is an admin of both tenants; the client of `other` still cannot reach `acme`."""
    await desk.auth.tenants.create("other")
    await desk.auth.users.set_roles(desk.ada.id, "other", frozenset({"admin"}))
    client = await desk.public_client("other")
    await desk.sign_in()
    assert answer(await desk.consent(desk.query(client)))["error"] == "access_denied"
    granted = answer(await desk.consent(desk.query(client), tenant="other"))
    assert (await desk.redeem(client, granted["code"])).json()["tenant"] == "other"


async def test_a_platform_client_lets_the_person_choose_the_tenant(desk: Desk) -> None:
    """Both memberships are offered, one of them is granted."""
    await desk.auth.tenants.create("other", "Other GmbH")
    await desk.auth.users.set_roles(desk.ada.id, "other", frozenset({"viewer"}))
    client = await desk.public_client("")
    await desk.sign_in()
    page = await desk.authorize(desk.query(client))
    assert 'value="acme"' in page.text
    assert "Other GmbH" in page.text
    sent = answer(await desk.consent(desk.query(client), tenant="other"))
    body = (await desk.redeem(client, sent["code"])).json()
    assert (await desk.auth.verifier.verify(body["access_token"])).principal.scopes == ROLES["viewer"]


async def test_a_repeated_parameter_is_refused(desk: Desk) -> None:
    """Two values of one parameter are never quietly made into one."""
    client = await desk.public_client()
    code = await desk.code(client)
    body = [("grant_type", "authorization_code"), ("client_id", client.id), ("code", code), ("code", code)]
    assert (await desk.http.post("/oauth/token", **encoded(body))).json()["error"] == "invalid_request"
    query: list[tuple[str, str | int | float | bool | None]] = [
        *desk.query(client).items(),
        ("scope", "agents:read"),
        ("scope", "agents:write"),
    ]
    assert answer(await desk.http.get("/oauth/authorize", params=query))["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("content_type", "size", "status"),
    [("application/json", 10, 415), ("multipart/form-data; boundary=x", 10, 415), (None, 17 * 1024, 413)],
)
async def test_a_body_of_another_kind_or_size_is_refused(
    desk: Desk, content_type: str | None, size: int, status: int
) -> None:
    """Only short urlencoded bodies are read."""
    headers = {"content-type": content_type or "application/x-www-form-urlencoded"}
    answered = await desk.http.post("/oauth/token", content=b"a=" + b"x" * size, headers=headers)
    assert (answered.status_code, answered.json()["error"]) == (status, "invalid_request")


async def test_a_native_client_may_listen_on_any_loopback_port(clock: TestClock) -> None:
    """The port of a registered loopback address is free; the rest of it is not."""
    async with opened(YieldingStore(clock), clock, "http://127.0.0.1:8765") as desk:
        client = await desk.public_client(redirect="http://127.0.0.1:1234/cb")
        await desk.sign_in()
        elsewhere = "http://127.0.0.1:54321/cb"
        sent = await desk.consent(desk.query(client, redirect_uri=elsewhere))
        assert sent.headers["location"].startswith(f"{elsewhere}?code=")
        body = await desk.redeem(client, answer(sent)["code"], redirect_uri=elsewhere)
        assert body.status_code == 200
