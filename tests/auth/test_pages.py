"""Sign-in and consent as a browser meets them: forms, cookies, headers, and what an attacker would try."""

import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest

from mcp_agents.kernel.errors import Denied, Exhausted, Invalid
from tests.auth.desk import PASSWORD, Desk, YieldingStore, answer, encoded, hidden, opened
from tests.support.clock import TestClock


async def test_consent_without_its_form_token_gives_nothing(desk: Desk) -> None:
    """Missing, wrong and another request's token: no code, no redirect."""
    client, other = await desk.public_client(), await desk.public_client()
    await desk.sign_in()
    foreign = hidden(await desk.authorize(desk.query(other)), "csrf")
    for token in ("", "wrong", foreign, hidden(await desk.http.get("/oauth/sign-in"), "csrf")):
        refused = await desk.consent(desk.query(client), csrf=token)
        assert (refused.status_code, "location" in refused.headers) == (403, False)
    assert "code" in answer(await desk.consent(desk.query(client)))


async def test_a_consent_form_cannot_be_used_for_a_changed_request(desk: Desk) -> None:
    """The token covers every parameter of the request that was shown."""
    client = await desk.public_client()
    await desk.sign_in()
    page = await desk.authorize(desk.query(client, scope="agents:read"))
    changed = hidden(page, "request").replace("agents%3Aread", "agents%3Aadmin")
    form = {"csrf": hidden(page, "csrf"), "request": changed, "tenant": "acme", "decision": "approve"}
    assert changed != hidden(page, "request")
    assert (await desk.http.post("/oauth/consent", data=form)).status_code == 403


async def test_a_form_from_another_browser_is_refused(desk: Desk) -> None:
    """An attacker's own consent page is worth nothing in the victim's browser."""
    client = await desk.public_client()
    await desk.sign_in()
    page = await desk.authorize(desk.query(client))
    form = {"csrf": hidden(page, "csrf"), "request": hidden(page, "request"), "tenant": "acme", "decision": "approve"}
    desk.http.cookies.clear()
    assert (await desk.http.post("/oauth/consent", data=form)).status_code == 403
    await desk.sign_in()
    assert (await desk.http.post("/oauth/consent", data=form)).status_code == 403


async def test_saying_no_tells_the_client_so(desk: Desk) -> None:
    """`access_denied` with state and issuer; anything but `approve` is a no."""
    client = await desk.public_client()
    await desk.sign_in()
    for decision in ("deny", "", "APPROVE"):
        sent = answer(await desk.consent(desk.query(client), decision=decision))
        assert (sent["error"], sent["state"]) == ("access_denied", "st4te")


async def test_a_tenant_that_was_not_offered_cannot_be_chosen(desk: Desk) -> None:
    """Naming a foreign tenant in the form grants nothing."""
    await desk.auth.tenants.create("victim")
    client = await desk.public_client("")
    await desk.sign_in()
    for tenant in ("victim", "", "nobody", "acme\n"):
        assert answer(await desk.consent(desk.query(client), tenant=tenant))["error"] == "access_denied"


async def test_names_are_text_on_the_page(desk: Desk) -> None:
    """Client, tenant, scope and resource cannot bring markup along."""
    markup = '"><script>alert(1)</script><b>'
    await desk.auth.tenants.create("odd", markup)
    await desk.auth.users.set_roles(desk.ada.id, "odd", frozenset({"admin"}))
    client, _ = await desk.auth.clients.register(
        "odd", markup, redirect_uris=("https://app.example/callback",), roles=frozenset({"admin"})
    )
    await desk.sign_in()
    page = await desk.authorize(desk.query(client, state=markup))
    assert page.status_code == 200
    assert "<script" not in page.text
    assert page.text.count(html.escape(markup)) == 2
    sent = answer(await desk.consent(desk.query(client, state=markup), tenant="odd"))
    assert sent["state"] == markup


async def test_the_page_shows_where_the_answer_goes_and_what_it_allows(desk: Desk) -> None:
    """Program, redirect host, resource, account and every scope."""
    client = await desk.public_client()
    await desk.sign_in()
    page = await desk.authorize(desk.query(client, scope="agents:read models:read"))
    for shown in (
        "App",
        "https://app.example",
        "https://agents.example/mcp",
        "ada@acme.example",
        "agents:read, models",
    ):
        assert shown in page.text
    assert "agents:write" not in page.text


async def test_every_page_is_guarded_by_its_headers(desk: Desk) -> None:
    """No frames, no scripts, no caching, no referrer; forms lead home or to this client only."""
    client = await desk.public_client()
    sign_in = await desk.http.get("/oauth/sign-in")
    await desk.sign_in()
    consent = await desk.authorize(desk.query(client))
    failed = await desk.http.get("/oauth/authorize")
    for page in (sign_in, consent, failed):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "same-origin"
    assert "form-action 'self' https://app.example;" in consent.headers["content-security-policy"]
    assert "form-action 'self';" in sign_in.headers["content-security-policy"]


async def test_the_cookie_is_locked_to_the_host_on_https(desk: Desk) -> None:
    """`__Host-`, Secure, HttpOnly, SameSite=Lax, and a new value after signing in."""
    before = (await desk.http.get("/oauth/sign-in")).headers["set-cookie"]
    after = (await desk.sign_in()).headers["set-cookie"]
    for cookie in (before, after):
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        assert "domain" not in cookie.lower()
    assert before.partition(";")[0] != after.partition(";")[0]


async def test_on_loopback_http_the_cookie_is_plain(clock: TestClock) -> None:
    """Browsers would drop a `__Host-` cookie there."""
    async with opened(YieldingStore(clock), clock, "http://127.0.0.1:8765") as desk:
        cookie = (await desk.http.get("/oauth/sign-in")).headers["set-cookie"]
        assert "__Host-" not in cookie
        assert "Secure" not in cookie
        assert {"HttpOnly", "SameSite=lax"} <= set(cookie.split("; "))
        assert (await desk.sign_in()).status_code == 200


async def test_sign_in_needs_its_own_form_token(desk: Desk) -> None:
    """Nobody is signed in by a form on a foreign page."""
    form = {"email": "ada@acme.example", "password": PASSWORD, "csrf": "wrong"}
    assert (await desk.http.post("/oauth/sign-in", data=form)).status_code == 403
    await desk.http.get("/oauth/sign-in")
    assert (await desk.http.post("/oauth/sign-in", data=form)).status_code == 403


async def test_a_planted_cookie_is_not_the_one_that_gets_signed_in(desk: Desk) -> None:
    """Whoever set the browser's cookie beforehand does not share the session."""
    client = await desk.public_client()
    await desk.http.get("/oauth/sign-in")
    planted = desk.http.cookies["__Host-mcp-agents"]
    await desk.sign_in()
    desk.http.cookies.clear()
    headers = {"cookie": f"__Host-mcp-agents={planted}"}
    answered = await desk.http.get("/oauth/authorize", params=desk.query(client), headers=headers)
    assert urlsplit(answered.headers["location"]).path == "/oauth/sign-in"


async def test_a_wrong_password_and_an_unknown_address_read_the_same(desk: Desk) -> None:
    """Same status, same page."""
    texts = []
    for email, password in (("ada@acme.example", "wrong password"), ("nobody@acme.example", PASSWORD)):
        refused = await desk.sign_in(email, password)
        assert refused.status_code == 401
        texts.append(re.sub(r'value="[^"]*"', "", refused.text))
    assert texts[0] == texts[1]


async def test_ten_failures_lock_an_address_for_fifteen_minutes(desk: Desk) -> None:
    """Then even the right password waits; another address does not."""
    for _ in range(10):
        with pytest.raises(Denied):
            await desk.auth.users.verify("ada@acme.example", "wrong password")
    with pytest.raises(Exhausted) as locked:
        await desk.auth.users.verify("ADA@acme.example ", PASSWORD)
    assert locked.value.retry_after_ms == 15 * 60 * 1000
    assert (await desk.sign_in()).status_code == 429
    other = await desk.auth.users.create("bob@acme.example", PASSWORD, "acme", frozenset({"viewer"}))
    assert (await desk.auth.users.verify("bob@acme.example", PASSWORD)).id == other.id
    desk.clock.advance(15 * 60)
    assert (await desk.auth.users.verify("ada@acme.example", PASSWORD)).id == desk.ada.id


async def test_success_forgets_the_failures_before_it(desk: Desk) -> None:
    """Nine failures, a success, nine failures, a success: no lock."""
    for _ in range(2):
        for _ in range(9):
            with pytest.raises(Denied):
                await desk.auth.users.verify("ada@acme.example", "wrong password")
        assert (await desk.auth.users.verify("ada@acme.example", PASSWORD)).id == desk.ada.id


async def test_a_session_ends_after_twelve_hours(desk: Desk) -> None:
    """The next request has to sign in again."""
    client = await desk.public_client()
    await desk.sign_in()
    desk.clock.advance(12 * 3600 - 1)
    assert (await desk.authorize(desk.query(client))).status_code == 200
    desk.clock.advance(1)
    assert (await desk.authorize(desk.query(client))).status_code == 303


async def test_a_new_password_ends_the_sessions_of_the_old_one(desk: Desk) -> None:
    """A browser that was signed in has to sign in again."""
    client = await desk.public_client()
    await desk.sign_in()
    await desk.auth.users.set_password(desk.ada.id, "another long password")
    assert (await desk.authorize(desk.query(client))).status_code == 303


async def test_the_first_start_makes_a_tenant_and_a_one_time_link(desk: Desk) -> None:
    """The link sets the owner's password once; a second start has nothing to hand out."""
    path = await desk.auth.bootstrap()
    assert path is not None
    assert await desk.auth.bootstrap() is None
    page = await desk.http.get(path)
    form = {"csrf": hidden(page, "csrf"), "ticket": hidden(page, "ticket")}
    assert (await desk.http.get(path)).status_code == 200  # looking does not use it up
    weak = await desk.http.post("/oauth/sign-in", data=form | {"password": "short"})
    assert weak.status_code == 400
    assert (await desk.http.post("/oauth/sign-in", data=form | {"password": "a fine long password"})).status_code == 200
    assert (await desk.http.get(path)).status_code == 401
    client = await desk.public_client("default")
    assert (await desk.authorize(desk.query(client))).status_code == 200
    owner = await desk.auth.users.verify("owner@localhost", "a fine long password")
    assert owner.memberships == {"default": ["admin"]}


async def test_a_ticket_works_once_and_for_a_day(desk: Desk) -> None:
    """Used or a day old, it is refused; a refused password leaves it intact."""
    ticket = parse_qs(urlsplit(await desk.auth.bootstrap() or "").query)["ticket"][0]
    with pytest.raises(Invalid):
        await desk.auth.users.redeem_ticket(ticket, "short")
    await desk.auth.users.redeem_ticket(ticket, "a fine long password")
    with pytest.raises(Denied):
        await desk.auth.users.redeem_ticket(ticket, "a fine long password")
    second = await desk.auth.users.create_ticket(desk.ada)
    desk.clock.advance(24 * 3600)
    with pytest.raises(Denied):
        await desk.auth.users.redeem_ticket(second, "a fine long password")


async def test_a_repeated_field_in_a_form_is_refused(desk: Desk) -> None:
    """Two decisions are none."""
    await desk.sign_in()
    doubled = await desk.http.post("/oauth/consent", **encoded([("decision", "deny"), ("decision", "approve")]))
    assert doubled.status_code == 400


async def test_nothing_that_opens_a_door_is_readable_in_the_store(desk: Desk) -> None:
    """Password, cookie, code, refresh token, secret and ticket are stored as digests only."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    _, secret = await desk.machine()
    ticket = await desk.auth.users.create_ticket(desk.ada)
    code = await desk.code(client)
    held = [PASSWORD, desk.http.cookies["__Host-mcp-agents"], code, body["refresh_token"], secret, ticket]
    everything = b""
    for pattern in ("*.*", "*.*.*"):
        async for record in desk.store.scan("cb_auth", pattern):
            everything += record.key.encode() + record.value
    assert desk.ada.id.encode() in everything
    for handle in held:
        assert handle.encode() not in everything
