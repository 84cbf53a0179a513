"""Every page, parsed: whether anybody can use it, with whatever browser, and what it may do in there."""

import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urlsplit

import httpx2
import pytest
from mcp_agents_auth import pages

from tests.auth.desk import ISSUER, PASSWORD, Desk, hidden
from tests.auth.test_invitations import invited

VOID: Final = frozenset({"meta", "input", "br", "hr", "link", "img"})
COOKIE: Final = "__Host-mcp-agents"
Element = tuple[str, dict[str, str]]


class Page(HTMLParser):
    """A page's elements in order, its text by element, and whether all that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.declaration = ""
        self.feed(text)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_decl(self, decl: str) -> None:
        self.declaration = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute of {tag} is repeated"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts[tag][-1] += data

    def all(self, *tags: str) -> list[dict[str, str]]:
        """The attributes of every element of these kinds."""
        return [attributes for tag, attributes in self.elements if tag in tags]


async def _sign_in(desk: Desk) -> httpx2.Response:
    return await desk.http.get("/oauth/sign-in")


async def _sign_in_for_a_client(desk: Desk) -> httpx2.Response:
    client = await desk.public_client()
    return await desk.http.get((await desk.authorize(desk.query(client))).headers["location"])


async def _wrong_password(desk: Desk) -> httpx2.Response:
    return await desk.sign_in(password="wrong password")


async def _signed_in(desk: Desk) -> httpx2.Response:
    return await desk.sign_in()


async def _first_password(desk: Desk) -> httpx2.Response:
    return await desk.http.get(await desk.auth.bootstrap() or "")


async def _weak_password(desk: Desk) -> httpx2.Response:
    page = await _first_password(desk)
    form = {"csrf": hidden(page, "csrf"), "ticket": hidden(page, "ticket"), "password": "short"}
    return await desk.http.post("/oauth/sign-in", data=form)


async def _link_not_valid(desk: Desk) -> httpx2.Response:
    return await desk.http.get("/oauth/sign-in?ticket=made-up")


async def _consent(desk: Desk) -> httpx2.Response:
    await desk.sign_in()
    return await desk.authorize(desk.query(await desk.public_client()))


async def _consent_in_two_tenants(desk: Desk) -> httpx2.Response:
    await desk.auth.tenants.create("other", "Other")
    await desk.auth.users.set_roles(desk.ada.id, "other", frozenset({"viewer"}))
    await desk.sign_in()
    return await desk.authorize(desk.query(await desk.public_client("")))


async def _consent_for_this_machine(desk: Desk) -> httpx2.Response:
    await desk.sign_in()
    return await desk.authorize(desk.query(await desk.public_client(redirect="http://127.0.0.1:8123/cb")))


async def _refused(desk: Desk) -> httpx2.Response:
    return await desk.http.get("/oauth/authorize?client_id=unknown")


async def _too_old(desk: Desk) -> httpx2.Response:
    return await desk.http.post("/oauth/consent", data={"csrf": "wrong"})


async def _sign_out(desk: Desk) -> httpx2.Response:
    await desk.sign_in()
    return await desk.http.get("/oauth/sign-out")


async def _signed_out(desk: Desk) -> httpx2.Response:
    page = await _sign_out(desk)
    return await desk.http.post("/oauth/sign-out", data={"csrf": hidden(page, "csrf")})


async def _nobody_to_sign_out(desk: Desk) -> httpx2.Response:
    return await desk.http.get("/oauth/sign-out")


async def _approval(desk: Desk) -> httpx2.Response:
    facts = [("Tool", '<b>"mail"</b>'), ("Arguments", "{}")]
    page = pages.approval_page(
        f"{ISSUER}/approvals/x", f"{ISSUER}/oauth/sign-in", form_token="t", user=desk.ada, facts=facts
    )
    return httpx2.Response(page.status_code, headers=dict(page.headers), content=bytes(page.body))


async def _invitation(desk: Desk) -> httpx2.Response:
    return await desk.http.get(await invited(desk, "new@acme.example"))


async def _invitation_of_somebody_known(desk: Desk) -> httpx2.Response:
    await desk.auth.tenants.create("other", "Other")
    await desk.auth.users.create("bob@other.example", PASSWORD, "other", frozenset({"viewer"}))
    return await desk.http.get(await invited(desk, "bob@other.example"))


async def _invitation_with_a_weak_password(desk: Desk) -> httpx2.Response:
    page = await _invitation(desk)
    form = {"csrf": hidden(page, "csrf"), "token": hidden(page, "token"), "password": "short"}
    return await desk.http.post("/oauth/invitation", data=form)


async def _invitation_not_valid(desk: Desk) -> httpx2.Response:
    return await desk.http.get("/oauth/invitation?token=made-up")


PAGES: Final[dict[str, Callable[[Desk], Awaitable[httpx2.Response]]]] = {
    each.__name__.removeprefix("_"): each
    for each in (
        _sign_in,
        _sign_in_for_a_client,
        _wrong_password,
        _signed_in,
        _first_password,
        _weak_password,
        _link_not_valid,
        _consent,
        _consent_in_two_tenants,
        _consent_for_this_machine,
        _refused,
        _too_old,
        _sign_out,
        _signed_out,
        _nobody_to_sign_out,
        _approval,
        _invitation,
        _invitation_of_somebody_known,
        _invitation_with_a_weak_password,
        _invitation_not_valid,
    )
}


@pytest.fixture(params=PAGES)
async def shown(request: pytest.FixtureRequest, desk: Desk) -> httpx2.Response:
    """Each page in turn."""
    return await PAGES[request.param](desk)


async def test_the_page_says_what_it_is(shown: httpx2.Response) -> None:
    """Language, encoding, a title that begins with the one heading, one main part, no fixed width."""
    page = Page(shown.text)
    assert page.declaration.lower() == "doctype html"
    assert page.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    (heading,), (title,) = page.texts["h1"], page.texts["title"]
    assert heading
    assert title.startswith(heading)
    assert len(page.all("main")) == 1
    assert any(meta.get("name") == "viewport" and "user-scalable" not in str(meta) for meta in page.all("meta"))
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings == ["h1"]


async def test_every_field_has_its_label_and_every_button_its_name(shown: httpx2.Response) -> None:
    """Fields are found by their labels, errors by their fields; nothing asks to be jumped over."""
    page = Page(shown.text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    labelled = [label["for"] for label in page.all("label")]
    fields = [field for field in page.all("input", "select", "textarea") if field.get("type") != "hidden"]
    assert sorted(labelled) == sorted(field["id"] for field in fields)
    assert all(text.strip() for text in page.texts.get("label", []))
    for button in page.all("button"):
        assert button["type"] == "submit"
    assert all(text.strip() for text in page.texts.get("button", []))
    assert all(text.strip() for text in page.texts.get("a", []))
    for field in fields:
        assert set(field.get("aria-describedby", "").split()) <= set(ids)
        assert field["type"] in ("radio", "text") or field["autocomplete"]
    assert sum("autofocus" in attributes for _, attributes in page.elements) <= 1
    assert not any("tabindex" in attributes or "accesskey" in attributes for _, attributes in page.elements)
    if "error" in ids:
        wrong = [field for field in fields if field.get("aria-invalid") == "true"]
        assert wrong
        assert all(field["aria-describedby"] == "error" for field in wrong)
    if page.all("input") and any(field["type"] == "radio" for field in fields):
        assert len(page.all("fieldset")) == len(page.all("legend")) == 1
        assert all(field["aria-describedby"] for field in fields if field["type"] == "radio")


async def test_the_page_brings_no_script_and_nothing_from_elsewhere(shown: httpx2.Response) -> None:
    """Forms are plain posts to this server; no handlers, no inline styles, no pictures, no frames, no base."""
    page = Page(shown.text)
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "p", "a", "bdi", "dl", "dt", "dd"),
        *("form", "fieldset", "legend", "label", "input", "button"),
    }
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("style", "src", "srcdoc", "formaction") for name in attributes)
    for form in page.all("form"):
        assert form.keys() == {"method", "action"}
        assert (form["method"], form["action"].startswith(f"{ISSUER}/")) == ("post", True)
    for link in page.all("a"):
        assert link["href"].startswith(f"{ISSUER}/")
    assert [meta for meta in page.all("meta") if "http-equiv" in meta] == []


async def test_the_headers_keep_the_page_to_itself(shown: httpx2.Response) -> None:
    """No frames, no scripts, one style sheet by its hash, nothing kept, no referrer to anybody else.

    With `no-referrer` a browser would send the page's own form with the origin `null` (Fetch, "append a request
    Origin header"), and the door takes that for a foreign page.
    """
    policy = dict(part.strip().partition(" ")[::2] for part in shown.headers["content-security-policy"].split(";"))
    assert policy.keys() == {"default-src", "style-src", "form-action", "frame-ancestors", "base-uri"}
    assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'",) * 3
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy["style-src"])
    assert policy["form-action"].split()[0] == "'self'"
    assert len(policy["form-action"].split()) <= 2
    assert shown.headers["x-frame-options"] == "DENY"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["referrer-policy"] == "same-origin"
    assert shown.headers["cache-control"] == "no-store"


def _luminance(colour: str) -> float:
    whole = "".join(digit * 2 for digit in colour) if len(colour) == 3 else colour
    channels = (int(whole[at : at + 2], 16) / 255 for at in (0, 2, 4))
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


async def test_text_and_edges_stand_out_and_the_focus_is_seen(desk: Desk) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text on both grounds, 3 to 1 for edges of fields and for the focus; sizes in rem."""
    (style,) = Page((await _sign_in(desk)).text).texts["style"]
    grounds = re.findall(r"background:#([0-9a-f]{3,6})", style)
    texts = re.findall(r"[{;]color:#([0-9a-f]{3,6})", style)
    assert (len(grounds), len(texts)) == (2, 3)
    assert min(_contrast(text, ground) for text in texts for ground in grounds) >= 4.5
    edges = re.findall(r"(?:fieldset|button)\{border:1px solid #([0-9a-f]{6})", style)
    focus = re.findall(r":focus-visible\{outline:[.0-9]+rem solid #([0-9a-f]{6})", style)
    assert (len(edges), len(focus)) == (2, 1)
    assert min(_contrast(edge, "ffffff") for edge in (*edges, *focus)) >= 3
    assert "outline:0" not in style
    assert "outline:none" not in style
    assert not re.search(r"font(?:-size)?:[0-9.]+px", style)


async def test_signing_out_ends_the_session_for_every_copy_of_the_cookie(desk: Desk) -> None:
    """The browser forgets it, and who kept a copy is not signed in with it."""
    client = await desk.public_client()
    page = await _sign_out(desk)
    copy = desk.http.cookies[COOKIE]
    done = await desk.http.post("/oauth/sign-out", data={"csrf": hidden(page, "csrf")})
    assert (done.status_code, COOKIE in desk.http.cookies) == (200, False)
    cleared = done.headers["set-cookie"]
    assert {"Max-Age=0", "Path=/", "Secure", "HttpOnly"} <= set(cleared.split("; "))
    headers = {"cookie": f"{COOKIE}={copy}"}
    answered = await desk.http.get("/oauth/authorize", params=desk.query(client), headers=headers)
    assert urlsplit(answered.headers["location"]).path == "/oauth/sign-in"
    assert (await desk.http.post("/oauth/sign-out", data={"csrf": hidden(page, "csrf")})).status_code == 403


async def test_nobody_is_signed_out_by_another_page(desk: Desk) -> None:
    """A look at the page, a form without its token, with another form's token, or from another browser."""
    client = await desk.public_client()
    await desk.sign_in()
    foreign = hidden(await desk.authorize(desk.query(client)), "csrf")
    for token in ("", "wrong", foreign, hidden(await desk.http.get("/oauth/sign-in"), "csrf")):
        assert (await desk.http.post("/oauth/sign-out", data={"csrf": token})).status_code == 403
    assert (await desk.http.get("/oauth/sign-out")).status_code == 200
    assert (await desk.authorize(desk.query(client))).status_code == 200


async def test_signing_out_leaves_what_was_granted(desk: Desk) -> None:
    """Clients stay connected, as the page says; signing in again works."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    page = await desk.http.get("/oauth/sign-out")
    await desk.http.post("/oauth/sign-out", data={"csrf": hidden(page, "csrf")})
    assert (await desk.auth.verifier.verify(body["access_token"])).client_id == client.id
    assert (await desk.sign_in("ada@acme.example", PASSWORD)).status_code == 200
    assert (await desk.authorize(desk.query(client))).status_code == 200
