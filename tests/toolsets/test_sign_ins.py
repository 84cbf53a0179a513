"""Whose sign-in a call carries: two served houses, one of which borrows an agent of the other as a tool.

Real people in browsers, real consent, real refreshes: the other house is the authorization server and the resource.
"""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from html import unescape
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from mcp_agents_auth.families import Family
from mcp_agents_auth.users import User
from mcp_agents_tools.toolsets.credentials import Credential, Credentials, Refreshing, owner_name
from mcp_agents_tools.toolsets.oauth import OauthClient
from mcp_agents_tools.toolsets.sign_ins import CALLBACK, at_authority
from starlette.applications import Starlette

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.security.egress import AddressRule
from mcp_agents.server.compose import House
from mcp_agents.server.http import app
from tests.hostile.wire import Wire, browserless
from tests.support.browser import Browser
from tests.support.clock import AheadClock
from tests.support.served import Served, served
from tests.tenancy.test_erasure import everything

pytestmark = pytest.mark.anyio

TENANT, THERE = "acme", "else"
PASSWORD = "correct horse battery"


@dataclass
class Asked:
    """What reached the other house."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    """Path and `Authorization` of each."""

    def watched(self, house: House) -> Starlette:
        """Its application, watched."""
        inner = app(house)

        async def watching(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = dict(scope["headers"])
                self.requests.append((scope["path"], headers.get(b"authorization", b"").decode()))
            await inner(scope, receive, send)

        watched = Starlette(lifespan=inner.router.lifespan_context)
        watched.state = inner.state
        watched.router.app = watching  # type: ignore[attr-defined]
        watched.mount("/", watching)
        return watched

    def count(self, path: str) -> int:
        """How many requests came to a path."""
        return len([each for each, _ in self.requests if each == path])


@dataclass
class Pair:
    """Ours and the other house, an agent `helper` there, and people here and there."""

    here: Served
    there: Served
    clock: AheadClock
    asked: Asked
    http: httpx2.AsyncClient
    people: dict[str, User] = field(default_factory=dict)

    async def person(self, name: str, *roles: str) -> Wire:
        """Somebody of ours, signed in."""
        auth = self.here.house.auth
        given = frozenset(roles) or frozenset({"admin"})
        user = self.people[name] = await auth.users.create(f"{name}@a.example", PASSWORD, TENANT, given)
        client, _ = await auth.clients.register(
            TENANT, name, redirect_uris=("https://x.example/cb",), roles=frozenset({"admin"})
        )
        now = self.clock.now()
        family = Family(
            sid=auth.families.new_sid(),
            kind="user",
            tenant=TENANT,
            subject=user.id,
            client_id=client.id,
            scopes=sorted(TENANT_SCOPES),
            resource=auth.resource,
            created_at=now,
            expires_at=now + timedelta(days=30),
        )
        await auth.families.open(family)
        token = await auth.tokens.issue(family, TENANT_SCOPES, given, ttl=20 * 3600)
        return Wire(self.http, self.here.url, token.access_token)

    async def browser(self, stack: AsyncExitStack) -> Browser:
        """A browser with no cookies yet."""
        http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, timeout=20))
        return Browser(http)

    async def go_through(self, url: str, name: str, there: str, browser: Browser) -> str:
        """Opens the page of a sign-in as one of ours, signs in at the other house and agrees; the last page."""
        await self.signed_in(browser, url, f"{name}@a.example")
        at = await browser.open(link_of(browser))
        at = await self._sign_in(browser, f"{there}@b.example")
        form = browser.form()
        back = await browser.submit(form, decision="approve", tenant=THERE)
        assert back.startswith(f"{self.here.url}/oauth/upstream/callback"), (at, back, browser.page)
        await browser.open(back)
        return browser.page

    async def signed_in(self, browser: Browser, url: str, email: str) -> None:
        """Opens a page of ours that asks who somebody is."""
        await browser.open(url)
        if 'type="password"' in browser.page:
            await self._sign_in(browser, email)

    async def _sign_in(self, browser: Browser, email: str) -> str:
        return await browser.submit(browser.form(), email=email, password=PASSWORD)

    async def adds(self, wire: Wire, name: str, **auth: Any) -> dict[str, Any]:
        """Adds the other house's agent as a tool server."""
        url = f"{self.there.url}/mcp/agent/helper"
        answered = await wire.call("tool_server_add", {"name": name, "transport": "http", "url": url, "auth": auth})
        return answered.value

    async def asks(self, wire: Wire, agent: str, server: str) -> str:
        """What an agent says after it called the helper."""
        prompt = f'call {server}__helper with {{"prompt": "say hello"}}'
        run = (await wire.call("agent_execute", {"agent": agent, "prompt": prompt})).value
        return f"{run['status']} {run['text']} {[call['result'] for call in run['tool_calls']]}"

    async def callers(self) -> list[dict[str, Any]]:
        """Who asked for the helper's runs over there, oldest first."""
        token = (await self.there.house.auth.tokens.issue_direct(THERE)).access_token
        wire = Wire(self.http, self.there.url, token)
        listed = (await wire.call("execution_list", {})).value["executions"]
        found = []
        for run in reversed(listed):
            page = (await wire.call("execution_events", {"execution_id": run["execution_id"], "limit": 1})).value
            found.append(page["events"][0]["body"]["caller"])
        return found


def link_of(browser: Browser) -> str:
    """The one link of the page that says where a sign-in leads."""
    (href,) = re.findall(r'<a href="([^"]+)">Go on', browser.page)
    return unescape(href)


def way_back(pair: Pair, handle: str, code: str) -> str:
    """Where a browser comes back to with a code of the other house's."""
    path = at_authority(CALLBACK, pair.there.url)
    return f"{pair.here.url}{path}?state={handle}&code={code}&iss={pair.there.url}"


@pytest.fixture
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """Both houses."""
    clock, asked = AheadClock(), Asked()
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(served(tmp_path_factory.mktemp("here"), clock=clock))
        there = await stack.enter_async_context(
            served(
                tmp_path_factory.mktemp("there"),
                build=asked.watched,
                clock=clock,
                auth={"dynamic_registration": True},
            )
        )
        http = await stack.enter_async_context(browserless())
        await here.house.auth.tenants.create(TENANT)
        await there.house.auth.tenants.create(THERE)
        for name in ("bea", "cem"):
            await there.house.auth.users.create(f"{name}@b.example", PASSWORD, THERE, frozenset({"operator"}))
        token = (await there.house.auth.tokens.issue_direct(THERE)).access_token
        helper = {"name": "helper", "description": "Helps.", "system_prompt": ""}
        assert (await Wire(http, there.url, token).call("agent_create", helper)).good
        yield Pair(here, there, clock, asked, http)


async def test_each_person_signs_in_there_as_themselves(pair: Pair) -> None:
    """Nobody can call before, everybody calls as who they are there, and nobody as somebody else."""
    ann, bob = await pair.person("ann"), await pair.person("bob", "operator")
    added = await pair.adds(ann, "peer", type="authorization_code", credentials="user")
    assert (added["tools"], added["credentials"]) == ([], "user")
    await ann.call("agent_create", {"name": "front", "tools": ["peer/*"]})
    async with AsyncExitStack() as stack:
        hers, his = await pair.browser(stack), await pair.browser(stack)
        begun = (await ann.call("tool_server_authorize", {"name": "peer"})).value
        assert begun["state"] == "sign_in"
        assert "Signed in" in await pair.go_through(begun["url"], "ann", "bea", hers)
        assert "1 tools" in hers.page
        assert "hello" in await pair.asks(ann, "front", "peer")
        assert "CREDENTIAL_MISSING" in await pair.asks(bob, "front", "peer")
        begun = (await bob.call("tool_server_authorize", {"name": "peer"})).value
        await pair.go_through(begun["url"], "bob", "cem", his)
        assert "hello" in await pair.asks(bob, "front", "peer")
        assert "hello" in await pair.asks(ann, "front", "peer")
    users = pair.there.house.auth.users
    bea, cem = await users.find("bea@b.example"), await users.find("cem@b.example")
    assert bea is not None
    assert cem is not None
    assert [each["subject"] for each in await pair.callers()] == [bea.id, cem.id, bea.id]
    await ann.call("tool_server_authorize", {"name": "peer", "remove": True})
    assert "CREDENTIAL_MISSING" in await pair.asks(ann, "front", "peer")
    assert "hello" in await pair.asks(bob, "front", "peer")


async def test_nobody_finishes_what_somebody_else_began(pair: Pair) -> None:
    """Neither the page nor the way back works in another person's browser, and nothing is used up by trying."""
    ann = await pair.person("ann")
    await pair.person("bob")
    await pair.adds(ann, "peer", type="authorization_code", credentials="user")
    url = (await ann.call("tool_server_authorize", {"name": "peer"})).value["url"]
    async with AsyncExitStack() as stack:
        his, hers, nobodys = [await pair.browser(stack) for _ in range(3)]
        await pair.signed_in(his, url, "bob@a.example")
        assert "somebody else" in his.page
        handle = url.partition("flow=")[2]
        back = way_back(pair, handle, "stolen")
        for browser in (his, nobodys):
            await browser.open(back)
            assert "Not signed in" in browser.page
        for forged in (handle[:-1], handle.replace("acme.", "other."), "acme.", "", "acme.*", "acme.>"):
            await his.open(f"{pair.here.url}/oauth/upstream/start?flow={forged}")
            assert "<a href" not in his.page.replace(f'<a href="{pair.here.url}', "")
        assert "Signed in" in await pair.go_through(url, "ann", "bea", hers)
        await hers.open(url)
        assert "somebody else" in hers.page  # used up


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example"},
        {"iss": ""},
        {"path": at_authority(CALLBACK, "https://evil.example")},
        {"code": "made-up"},
        {"code": None, "error": "access_denied"},
    ],
    ids=["another issuer", "no issuer", "another issuer's way back", "another code", "refused"],
)
async def test_a_way_back_that_is_not_right_leaves_nothing(pair: Pair, change: dict[str, str | None]) -> None:
    """The code of a wrong issuer goes nowhere; no credential comes of any."""
    ann = await pair.person("ann")
    await pair.adds(ann, "peer", type="authorization_code", credentials="user")
    url = (await ann.call("tool_server_authorize", {"name": "peer"})).value["url"]
    async with AsyncExitStack() as stack:
        hers = await pair.browser(stack)
        await pair.signed_in(hers, url, "ann@a.example")
        await hers.open(link_of(hers))
        await hers.submit(hers.form(), email="bea@b.example", password=PASSWORD)
        back = await hers.submit(hers.form(), decision="approve", tenant=THERE)
        parsed = httpx2.URL(back)
        asked = pair.asked.count("/oauth/token")
        for name, value in change.items():
            if name == "path":
                parsed = parsed.copy_with(raw_path=f"{value}?".encode() + parsed.query)
            else:
                parsed = parsed.copy_set_param(name, value) if value is not None else parsed.copy_remove_param(name)
        await hers.open(str(parsed))
        assert "Not signed in" in hers.page
        if "code" not in change:
            assert pair.asked.count("/oauth/token") == asked
    await ann.call("agent_create", {"name": "front", "tools": ["peer/*"]})
    space = pair.here.house.tenancy.of(Principal(tenant=TENANT, subject="x", scopes=frozenset()))
    key = (await pair.here.house.tool_servers.stored(space, "peer")).value.key
    assert await space.records("cb_vault", Credential).all("credential", key) == []


async def test_a_token_is_refreshed_once_by_whoever_is_first(pair: Pair) -> None:
    """Fifty calls over two processes meet a token that is over: one request, one new token for all."""
    ann = await pair.person("ann")
    await pair.adds(ann, "peer", type="authorization_code", credentials="user")
    async with AsyncExitStack() as stack:
        hers = await pair.browser(stack)
        url = (await ann.call("tool_server_authorize", {"name": "peer"})).value["url"]
        await pair.go_through(url, "ann", "bea", hers)
    house = pair.here.house
    space = house.tenancy.of(Principal(tenant=TENANT, subject="x", scopes=frozenset()))
    owner = owner_name("user", pair.people["ann"].id)
    oauth = OauthClient(AddressRule(allow_private=True))
    other = Credentials(house.secrets, oauth, pair.clock)
    credentials = house.sign_ins.credentials
    peer = (await house.tool_servers.stored(space, "peer")).value.key
    first = await credentials.live(space, peer, owner)
    for _ in range(3):
        before = pair.asked.count("/oauth/token")
        pair.clock.advance(3600)
        found = await at_once([credentials, other], space, peer, owner)
        assert len(set(found)) == 1
        assert found[0] != first.token
        assert pair.asked.count("/oauth/token") == before + 1
    # A process that died over it holds the others up for as long as its lease lasts, and no longer.
    pair.clock.advance(3600)
    leases = space.records("cb_leases", Refreshing)
    await leases.create("refreshing", peer, owner, value=Refreshing(at=pair.clock.now()), ttl=1)
    with anyio.fail_after(15):
        await credentials.live(space, peer, owner)
    # Revoked over there: told apart, and final until somebody signs in anew.
    (grant,) = [each for each in await grants_of(pair.there.house) if each.kind == "user"]
    await pair.there.house.auth.families.revoke(grant.sid, "test")
    pair.clock.advance(3600)
    for _ in range(2):
        with pytest.raises(Denied) as over:
            await credentials.live(space, peer, owner)
        assert over.value.code == "CREDENTIAL_EXPIRED"


async def at_once(credentials: list[Credentials], space: TenantSpace, server: str, owner: str) -> list[str]:
    """The tokens that fifty calls get, of several processes in turn."""
    found: list[str] = []

    async def one(process: Credentials) -> None:
        found.append((await process.live(space, server, owner)).token)

    async with anyio.create_task_group() as crowd:
        for number in range(50):
            crowd.start_soon(one, credentials[number % len(credentials)])
    return found


async def grants_of(house: House) -> list[Family]:
    """Every grant of a house."""
    return [found.value for found in await house.auth.families._families.all()]


async def test_a_server_that_took_the_place_of_another_gets_nothing_of_it(pair: Pair) -> None:
    """Same name, another address: neither what was signed in with before, nor a sign-in that was under way."""
    ann = await pair.person("ann")
    sign_in = {"type": "authorization_code", "credentials": "user"}
    await pair.adds(ann, "peer", **sign_in)
    await ann.call("agent_create", {"name": "front", "tools": ["peer/*"]})
    async with AsyncExitStack() as stack:
        hers = await pair.browser(stack)
        for first in (True, False):
            url = (await ann.call("tool_server_authorize", {"name": "peer"})).value["url"]
            if first:
                await pair.go_through(url, "ann", "bea", hers)
            await ann.call("tool_server_remove", {"name": "peer"})
            await pair.adds(ann, "peer", **sign_in)
            if first:
                await ann.call("tool_server_refresh", {"name": "peer"})
                assert "CREDENTIAL_MISSING" in str((await ann.call("tool_server_refresh", {"name": "peer"})).error)
        await hers.open(url)
        assert "Go on" not in hers.page
        handle = url.partition("flow=")[2]
        asked = pair.asked.count("/oauth/token")
        await hers.open(way_back(pair, handle, "x"))
        assert "Not signed in" in hers.page
        assert pair.asked.count("/oauth/token") == asked


async def test_who_may_not_write_any_more_ties_no_account_to_everybody(pair: Pair) -> None:
    """A sign-in for the whole tenant, begun by somebody whose role was taken before it came back."""
    ann = await pair.person("ann")
    await pair.adds(ann, "peer", type="authorization_code")
    url = (await ann.call("tool_server_authorize", {"name": "peer"})).value["url"]
    users = pair.here.house.auth.users
    async with AsyncExitStack() as stack:
        hers = await pair.browser(stack)
        await pair.signed_in(hers, url, "ann@a.example")
        assert "everybody here" in hers.page
        await users.set_roles(pair.people["ann"].id, TENANT, frozenset({"operator"}))
        await hers.open(url)
        assert "Go on" not in hers.page
        handle = url.partition("flow=")[2]
        await hers.open(way_back(pair, handle, "x"))
        assert "Not signed in" in hers.page
    assert pair.asked.count("/oauth/token") == 0


async def test_agents_have_credentials_of_their_own(pair: Pair) -> None:
    """Set by whoever may write tool servers; an agent without one calls nothing, whoever asks it."""
    ann, bob = await pair.person("ann"), await pair.person("bob", "operator")
    tokens = {
        name: (await pair.there.house.auth.tokens.issue_direct(THERE, subject=name)).access_token
        for name in ("lister", "one", "two")
    }
    await pair.adds(ann, "peer", type="bearer", credentials="agent", token=tokens["lister"])
    for name in ("one", "two", "three"):
        assert (await ann.call("agent_create", {"name": name, "tools": ["peer/*"]})).good
    for name in ("one", "two"):
        given = {"name": "peer", "agent": name, "token": tokens[name]}
        assert (await bob.call("tool_server_authorize", given)).status in (200, 403)
        assert (await ann.call("tool_server_authorize", given)).value["state"] == "set"
    assert "hello" in await pair.asks(ann, "one", "peer")
    assert "hello" in await pair.asks(bob, "two", "peer")
    assert "CREDENTIAL_MISSING" in await pair.asks(ann, "three", "peer")
    assert [each["subject"] for each in await pair.callers()] == ["one", "two"]


async def test_a_run_shows_a_token_of_its_own(pair: Pair) -> None:
    """To an agent of the same house: for whom, through whom, and no circle; nobody's own token is passed on."""
    ann = await pair.person("ann")
    await ann.call("agent_create", {"name": "inner", "tools": []})
    url = f"{pair.here.url}/mcp/agent/inner"
    added = await ann.call(
        "tool_server_add", {"name": "self", "transport": "http", "url": url, "auth": {"type": "token_exchange"}}
    )
    assert added.good, added
    outer = (await ann.call("agent_create", {"name": "outer", "tools": ["self/inner"]})).value
    prompt = 'call self__inner with {"prompt": "say hello"}'
    run = (await ann.call("agent_execute", {"agent": "outer", "prompt": prompt})).value
    assert "hello" in run["text"], run
    (inner,) = (await ann.call("execution_list", {"agent": "inner"})).value["executions"]
    page = (await ann.call("execution_events", {"execution_id": inner["execution_id"], "limit": 1})).value
    caller = page["events"][0]["body"]["caller"]
    assert caller["subject"] == pair.people["ann"].id
    assert caller["actors"] == [outer["id"]]
    assert caller["scopes"] == "executions:run"
    assert page["events"][0]["body"]["upstream"] == run["execution_id"]
    back = f"{pair.here.url}/mcp/agent/outer"
    auth = {"type": "token_exchange"}
    await ann.call("tool_server_add", {"name": "back", "transport": "http", "url": back, "auth": auth})
    await ann.call("agent_update", {"agent": "inner", "tools": ["back/outer"]})
    round_trip = 'call self__inner with {"prompt": "call back__outer with {\\"prompt\\": \\"say never\\"}"}'
    told = (await ann.call("agent_execute", {"agent": "outer", "prompt": round_trip})).value
    assert "AGENT_CYCLE" in str(told), told


async def test_a_runs_token_is_exchanged_where_an_issuer_is_named(pair: Pair) -> None:
    """At the authorization server of the same house, as a client that may: the chain grows by that client."""
    ann, auth = await pair.person("ann"), pair.here.house.auth
    front, secret = await auth.clients.register(
        TENANT,
        "front",
        grant_types=frozenset({"urn:ietf:params:oauth:grant-type:token-exchange"}),
        roles=frozenset({"operator"}),
        confidential=True,
    )
    await ann.call("agent_create", {"name": "inner"})
    sign_in = {
        "type": "token_exchange", "issuer": pair.here.url, "client_id": front.id, "client_secret": secret,
        "scope": "executions:run agents:read",
    }  # fmt: skip
    url = f"{pair.here.url}/mcp/agent/inner"
    added = await ann.call("tool_server_add", {"name": "self", "transport": "http", "url": url, "auth": sign_in})
    assert added.good, added
    outer = (await ann.call("agent_create", {"name": "outer", "tools": ["self/inner"]})).value
    prompt = 'call self__inner with {"prompt": "say hello"}'
    run = (await ann.call("agent_execute", {"agent": "outer", "prompt": prompt})).value
    assert "hello" in run["text"], run
    (inner,) = (await ann.call("execution_list", {"agent": "inner"})).value["executions"]
    page = (await ann.call("execution_events", {"execution_id": inner["execution_id"], "limit": 1})).value
    assert page["events"][0]["body"]["caller"]["actors"] == [outer["id"], front.id]


async def test_no_secret_is_stored_in_clear_returned_logged_or_passed_on(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Every kind of sign-in, many calls: what we hold for others is found nowhere, what callers hold goes nowhere."""
    caplog.set_level(logging.DEBUG)
    ann = await pair.person("ann")
    fixed = (await pair.there.house.auth.tokens.issue_direct(THERE, subject="fixed")).access_token
    machine, secret = await pair.there.house.auth.clients.register(
        THERE,
        "machine",
        grant_types=frozenset({"client_credentials"}),
        roles=frozenset({"operator"}),
        confidential=True,
    )
    said = [
        str(await pair.adds(ann, "plain", type="bearer", token=fixed)),
        str(await pair.adds(ann, "mine", type="bearer", credentials="user", token=fixed)),
        str(
            await pair.adds(
                ann, "program", type="client_credentials", client_id=machine.id, client_secret=secret,
                issuer=pair.there.url,
            )
        ),
        str(await pair.adds(ann, "code", type="authorization_code", credentials="user")),
    ]  # fmt: skip
    async with AsyncExitStack() as stack:
        hers = await pair.browser(stack)
        url = (await ann.call("tool_server_authorize", {"name": "code"})).value["url"]
        said.append(await pair.go_through(url, "ann", "bea", hers))
    servers = ["plain", "mine", "program", "code"]
    await ann.call("agent_create", {"name": "front", "tools": [f"{each}/*" for each in servers]})
    for _ in range(13):
        for server in servers:
            answered = await pair.asks(ann, "front", server)
            assert "hello" in answered
            said.append(answered)
    said += [str((await ann.call("tool_server_get", {"name": server})).value) for server in servers]
    sent = {given.partition(" ")[2] for path, given in pair.asked.requests if given.lower().startswith("bearer")}
    assert len([1 for path, _ in pair.asked.requests if path.startswith("/mcp")]) >= 52
    assert ann.token not in sent
    for token in sent:
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["iss"] == pair.there.url
    secrets = {token.rpartition(".")[2] for token in sent} | {secret or "", url.rpartition(".")[2]}
    stored = [each.data + each.subject.encode() for each in await everything(pair.here.house.link)]
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("mcp_agents"))
    shown = "\n".join(said)
    for each in secrets:
        assert each
        assert not [data for data in stored if each.encode() in data]
        assert each not in shown
        assert each not in logged
