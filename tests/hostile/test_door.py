"""Bad input at the HTTP door of a real house: who may not come in, what is not taken, and that the house stands."""

import base64
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.shared.auth import ProtectedResourceMetadata

from mcp_agents.adapters.nats_topology import existing
from mcp_agents.kernel.tasks import together
from mcp_agents.server.http import app
from tests.hostile.wire import ACCEPT, ERAS, LEGACY, MODERN, Answer, Era, Wire, browserless, envelope, routing
from tests.support.served import Served, served
from tests.support.tool_servers import good
from tests.support.tool_servers.served import App, Receive, Scope, Send, mcp_app, replayed, whole
from tests.support.tool_servers.served import served as upstream_served

pytestmark = pytest.mark.anyio

EACH_ERA = pytest.mark.parametrize("era", ERAS)
WELL_KNOWN = "/.well-known/oauth-protected-resource"
PATHS = ("/mcp", "/mcp/all", "/mcp/agents", "/mcp/agents+executions", "/mcp/toolservers", "/mcp/agent/anyone")
OPEN = {
    "/livez",
    "/readyz",
    WELL_KNOWN,
    WELL_KNOWN + "/{path:path}",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/oauth/jwks",
    "/oauth/token",
    "/oauth/revoke",
    "/oauth/introspect",
    "/oauth/authorize",
    "/oauth/sign-in",
    "/oauth/consent",
    "/oauth/sign-out",
    "/oauth/invitation",
    "/oauth/upstream/start",
    "/oauth/upstream/callback/{authority}",
    "/oauth/upstream/client/{authority}.json",
    "/approvals/{id}",
}
"""What answers without a token, and nothing else does."""
GUARDED = {"/mcp", "/mcp/{selection:path}"}


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """One served house that all of this is thrown at."""
    async with served(tmp_path_factory.mktemp("door")) as running:
        await running.token("acme")
        yield running


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """A plain HTTP client."""
    async with browserless() as client:
        yield client


@pytest.fixture(scope="module")
async def wire(house: Served, http: httpx2.AsyncClient) -> Wire:
    """A caller with every right."""
    made = Wire(http, house.url, await house.token("acme"))
    await made.call("agent_create", {"name": "helper", "system_prompt": "say I help"})
    return made


@pytest.fixture(autouse=True)
async def standing(house: Served, wire: Wire) -> AsyncIterator[None]:
    """Whatever a test did, the house serves afterwards, in both eras."""
    yield
    for era in ERAS:
        assert (await wire.call("agent_get", {"agent": "helper"}, era=era)).value["name"] == "helper"


# Who may come in.


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_without_a_token_the_answer_says_where_to_get_one(
    house: Served, http: httpx2.AsyncClient, path: str, method: str
) -> None:
    """401 with the path's own metadata and scopes, and no error code, for nothing was wrong yet."""
    answer = await Wire(http, house.url, "").send(b"{}", {"Authorization": ""}, path=path, method=method)
    assert answer.status == 401
    assert answer.challenge.startswith("Bearer ")
    parts = challenge(answer)
    assert parts["resource_metadata"] == f"{house.url}{WELL_KNOWN}{path}"
    assert parts["scope"]
    assert "error" not in parts
    document = (await http.get(parts["resource_metadata"])).json()
    assert document["resource"] == f"{house.url}{path}"
    assert document["scopes_supported"] == parts["scope"].split()


def challenge(answer: Answer) -> dict[str, str]:
    """The parameters of a challenge."""
    return dict(re.findall(r'(\w+)="([^"]*)"', answer.challenge))


async def signed(house: Served, **changes: Any) -> str:
    """A token that the house itself signed, with some claims changed; None takes a claim away."""
    payload = (await house.token("acme")).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    changed = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return await house.house.auth.signing.sign(changed)


def tampered(token: str, part: int) -> str:
    """The token with one character of a part changed."""
    parts = token.split(".")
    letter = parts[part][10]
    parts[part] = parts[part][:10] + ("A" if letter != "A" else "B") + parts[part][11:]
    return ".".join(parts)


def unsigned(token: str, algorithm: str) -> str:
    """The token's claims under a header that asks for no signature, or for one of the attacker's choice."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "at+jwt"}).encode()).rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


BAD_TOKENS = (
    "garbage", "dots", "empty segments", "expired", "not yet", "other audience", "audience with a query",
    "other issuer", "other tenant", "no tenant", "no session", "unknown session", "header changed",
    "claims changed", "signature changed", "signature cut", "alg none", "alg HS256", "too long", "two tokens",
)  # fmt: skip


async def bad_token(house: Served, kind: str) -> str:
    """A token that must not be taken."""
    token = await house.token("acme")
    now = int(house.house.services.clock.now().timestamp())
    made = {
        "garbage": "garbage",
        "dots": "a.b.c",
        "empty segments": "..",
        "header changed": tampered(token, 0),
        "claims changed": tampered(token, 1),
        "signature changed": tampered(token, 2),
        "signature cut": token.rpartition(".")[0] + ".",
        "alg none": unsigned(token, "none"),
        "alg HS256": unsigned(token, "HS256"),
        "too long": token + "A" * 9000,
        "two tokens": f"{token} {token}",
    }
    claims: dict[str, dict[str, Any]] = {
        "expired": {"iat": now - 7200, "exp": now - 1},
        "not yet": {"iat": now + 600, "exp": now + 1200},
        "other audience": {"aud": "https://elsewhere.example/mcp"},
        "audience with a query": {"aud": f"{house.url}/mcp?x=1"},
        "other issuer": {"iss": "https://elsewhere.example"},
        "other tenant": {"tenant": "default"},
        "no tenant": {"tenant": None},
        "no session": {"sid": None},
        "unknown session": {"sid": "s" * 32},
    }
    return made[kind] if kind in made else await signed(house, **claims[kind])


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_is_refused_in_one_way(house: Served, http: httpx2.AsyncClient, kind: str) -> None:
    """401 invalid_token whatever is wrong with it, in both eras, and not a word about the reason."""
    caller = Wire(http, house.url, await bad_token(house, kind))
    answers = [await caller.ask("tools/list"), await caller.initialize()]
    for answer in answers:
        assert answer.status == 401
        assert challenge(answer)["error"] == "invalid_token"
        assert challenge(answer)["resource_metadata"] == f"{house.url}{WELL_KNOWN}/mcp/all"
        assert json.loads(answer.body) == {
            "error": "invalid_token",
            "error_description": "The access token is not valid.",
        }


async def test_a_token_that_the_test_signs_unchanged_is_good(house: Served, http: httpx2.AsyncClient) -> None:
    """So the refusals above are for what was changed."""
    for token in (await signed(house), await signed(house, aud=f"{house.url}/mcp/all")):
        assert (await Wire(http, house.url, token).ask("tools/list")).status == 200


@pytest.mark.parametrize("value", ["Basic YTpi", "Bearer", "Bearer ", "bearer\t", "Negotiate", " "])
async def test_another_scheme_is_no_token(house: Served, value: str) -> None:
    """Asked to sign in, not told that a token was bad."""
    head = await raw(house, "POST /mcp HTTP/1.1", "Host: localhost", f"Authorization: {value}")
    assert head.startswith("HTTP/1.1 401 ")
    assert "resource_metadata=" in head
    assert "error=" not in head


async def raw(house: Served, *lines: str) -> str:
    """The head of the answer to a request without a body, written line by line as no client would."""
    port = int(house.url.rpartition(":")[2])
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send("\r\n".join([*lines, "Content-Length: 0", "", ""]).encode("latin-1"))
        heard = b""
        with anyio.fail_after(10):
            while b"\r\n\r\n" not in heard:
                heard += await stream.receive()
    return heard.partition(b"\r\n\r\n")[0].decode("latin-1")


async def test_a_token_in_the_query_is_ignored(wire: Wire) -> None:
    """Neither good for anything nor harmful beside a header."""
    for name in ("access_token", "token", "authorization"):
        path = f"/mcp/all?{name}={wire.token}"
        content = json.dumps(envelope("tools/list")).encode()
        answer = await wire.send(content, {**routing("tools/list"), "Authorization": ""}, path=path)
        assert answer.status == 401
        assert "error" not in challenge(answer)
    assert (await wire.ask("tools/list", path="/mcp/all?access_token=garbage")).status == 200


@EACH_ERA
async def test_too_little_scope_names_exactly_what_to_step_up_to(
    house: Served, http: httpx2.AsyncClient, era: Era
) -> None:
    """For every tool and prompt: 403 with what it needs and what the caller has of the path's scopes already."""
    catalogue = house.house.catalogue
    path_scopes = challenge(await Wire(http, house.url, "").send(b"{}", {"Authorization": ""}))["scope"].split()
    view = catalogue.view("all")
    assert view is not None
    everything = [("tools/call", name) for name in view.tools] + [("prompts/get", name) for name in view.prompts]
    for method, name in everything:
        needed = catalogue.scopes[name]
        held = {"agents:read", "executions:run", "models:read"} - {needed}
        caller = Wire(http, house.url, await house.token("acme", " ".join(sorted(held))))
        answer = await caller.ask(method, {"name": name, "arguments": {}}, era=era)
        assert answer.status == 403, (name, answer)
        parts = challenge(answer)
        assert parts["error"] == "insufficient_scope"
        assert parts["resource_metadata"] == f"{house.url}{WELL_KNOWN}/mcp/all"
        assert parts["scope"].split() == sorted((held & set(path_scopes)) | {needed})
        stepped_up = Wire(http, house.url, await house.token("acme", parts["scope"]))
        assert (await stepped_up.ask(method, {"name": name, "arguments": {}}, era=era)).status in (200, 400)


@EACH_ERA
async def test_an_agents_own_path_needs_the_right_to_run(house: Served, http: httpx2.AsyncClient, era: Era) -> None:
    """403 with that one scope; nothing is listed either."""
    caller = Wire(http, house.url, await house.token("acme", "agents:read"))
    path = "/mcp/agent/helper"
    answer = await caller.call("helper", {"prompt": "hi"}, era=era, path=path)
    assert answer.status == 403
    assert challenge(answer)["scope"] == "executions:run"
    assert (await caller.ask("tools/list", era=era, path=path)).result["tools"] == []


@EACH_ERA
async def test_what_a_caller_may_not_use_is_not_listed_and_asks_for_the_right_alike(
    house: Served, http: httpx2.AsyncClient, wire: Wire, era: Era
) -> None:
    """Tools, prompts and templates of other scopes are left out; a resource asks for its scope, there or not."""
    caller = Wire(http, house.url, await house.token("acme", "toolservers:read"))
    names = {tool["name"] for tool in await caller.listed("tools/list", "tools", era=era)}
    assert names == {"tool_server_get", "tool_server_list", "tool_list"}
    assert await caller.listed("prompts/list", "prompts", era=era) == []
    assert await caller.listed("resources/templates/list", "resourceTemplates", era=era) == []
    agent = (await wire.call("agent_get", {"agent": "helper"})).value["id"]
    answer = await caller.read(f"cb://agents/{agent}", era)
    never = await caller.read("cb://agents/" + "x" * len(agent), era)
    assert answer.without(agent) == never.without("x" * len(agent))
    assert answer.status == 403
    challenge = next(value for name, value in answer.headers if name == "www-authenticate")
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="agents:read toolservers:read"' in challenge


@pytest.mark.parametrize("lie", [{"Mcp-Method": "ping"}, {"Mcp-Method": "tools/call", "Mcp-Name": "agent_list"}])
async def test_a_header_that_lies_about_the_body_gains_nothing(
    house: Served, http: httpx2.AsyncClient, lie: dict[str, str]
) -> None:
    """In both eras the body decides which right is asked for, whatever the headers say."""
    caller = Wire(http, house.url, await house.token("acme", "agents:read"))
    arguments = {"name": "smuggled", "virtual_model": "rule-based"}
    assert (await caller.call("agent_create", arguments, headers=lie)).status == 403
    assert (await caller.call("agent_create", arguments, era="legacy", headers=lie)).status == 403
    assert "smuggled" not in json.dumps((await caller.call("agent_list", {})).value)


@EACH_ERA
async def test_a_right_that_only_some_calls_need_is_asked_for_in_them(
    house: Served, http: httpx2.AsyncClient, era: Era
) -> None:
    """Trusting a server's own words, and running a program, need more than adding a server."""
    caller = Wire(http, house.url, await house.token("acme", "toolservers:write"))
    for more in (
        {"transport": "http", "url": "http://127.0.0.1:1/mcp", "trust_annotations": True},
        {"transport": "stdio", "command": "/bin/true"},
    ):
        error = (await caller.call("tool_server_add", {"name": "wanted", **more}, era=era)).error
        assert error["code"] == "INSUFFICIENT_SCOPE"
        assert error["required_scopes"] == ["toolservers:admin"]


# Which names and pages the house answers to, and what answers without a token.


def routes(house: Served) -> list[tuple[str, str]]:
    """Every route's method and path, filled in."""
    found = []
    for route in app(house.house).routes:
        path = route.path.replace("{path:path}", "mcp/all").replace("{selection:path}", "all")  # type: ignore[attr-defined]
        methods = getattr(route, "methods", None) or {"POST"}
        found += [(method, path) for method in methods if method != "HEAD"]
    return found


BAD_HOSTS = (
    "evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.2", "0.0.0.0",
    "[", "[::1", "[::2]", "127.0.0.1, evil.example", "evil.example@", "2130706433", "xn--lcalhost-54a",
)  # fmt: skip
BAD_ORIGINS = (
    "https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost@evil.example", "http://[",
    "file://", "chrome-extension://abc", "http://evil.example:8765", "//127.0.0.1", "127.0.0.1", "javascript:alert(1)",
)  # fmt: skip


@pytest.mark.parametrize("host", BAD_HOSTS)
async def test_a_request_for_another_name_is_misdirected(house: Served, wire: Wire, host: str) -> None:
    """421 on every route, token or not."""
    for method, path in routes(house):
        assert (await wire.send(b"", {"Host": host}, method=method, path=path)).status == 421, (method, path)


@pytest.mark.parametrize("origin", BAD_ORIGINS)
async def test_a_foreign_page_is_forbidden(house: Served, wire: Wire, origin: str) -> None:
    """403 on every route, token or not."""
    for method, path in routes(house):
        assert (await wire.send(b"", {"Origin": origin}, method=method, path=path)).status == 403, (method, path)


async def test_a_second_host_or_origin_does_not_hide_the_first(house: Served) -> None:
    """In either order; and a request without a Host is for nobody."""
    own = house.url.removeprefix("http://")
    for hosts in ([own, "evil.example"], ["evil.example", own], [own, own]):
        head = await raw(house, "GET /livez HTTP/1.1", *(f"Host: {host}" for host in hosts))
        assert head.startswith(("HTTP/1.1 400 ", "HTTP/1.1 421 "))
    for origins in ([house.url, "https://evil.example"], ["https://evil.example", house.url]):
        head = await raw(house, "GET /livez HTTP/1.1", f"Host: {own}", *(f"Origin: {each}" for each in origins))
        assert head.startswith("HTTP/1.1 403 ")
    assert (await raw(house, "GET /livez HTTP/1.0")).startswith("HTTP/1.1 421 ")


async def test_own_names_and_pages_are_welcome(house: Served, http: httpx2.AsyncClient) -> None:
    """A local client may call the house localhost and serve its page from any local port."""
    port = house.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert (await http.get(f"{house.url}/livez", headers={"Host": host})).status_code == 200
    for origin in ("http://localhost:6274", "http://127.0.0.1", "https://localhost", house.url):
        assert (await http.get(f"{house.url}/livez", headers={"Origin": origin})).status_code == 200


async def test_only_documented_routes_answer_without_a_token(house: Served, http: httpx2.AsyncClient) -> None:
    """The list is complete, everything else asks for a token or is not there."""
    assert {route.path for route in app(house.house).routes} == OPEN | GUARDED  # type: ignore[attr-defined]
    for method, path in routes(house):
        status = (await http.request(method, house.url + path)).status_code
        assert (status == 401) == path.startswith("/mcp"), (method, path, status)
    for path in ("/", "/metrics", "/docs", "/openapi.json", "/dashboard", "/sse", "/messages", "/register"):
        assert (await http.get(house.url + path)).status_code == 404


async def test_the_open_pages_tell_nothing_about_tenants(house: Served, http: httpx2.AsyncClient) -> None:
    """No name of a tenant, an agent or a person is in them."""
    for method, path in routes(house):
        if method == "GET" and not path.startswith("/mcp"):
            text = (await http.get(house.url + path)).text
            assert "acme" not in text
            assert "helper" not in text


@pytest.mark.parametrize("path", PATHS)
async def test_each_path_has_metadata_of_its_own(house: Served, http: httpx2.AsyncClient, path: str) -> None:
    """A valid RFC 9728 document whose resource is that path, readable by any page."""
    response = await http.get(f"{house.url}{WELL_KNOWN}{path}")
    assert response.status_code == 200
    document = ProtectedResourceMetadata.model_validate_json(response.content)
    assert str(document.resource) == f"{house.url}{path}"
    assert [str(server).rstrip("/") for server in document.authorization_servers] == [house.url]
    assert document.scopes_supported
    assert document.bearer_methods_supported == ["header"]


async def test_the_bare_metadata_is_that_of_the_main_path(house: Served, http: httpx2.AsyncClient) -> None:
    """For clients that look at the root."""
    bare = (await http.get(house.url + WELL_KNOWN)).json()
    assert bare == (await http.get(f"{house.url}{WELL_KNOWN}/mcp")).json()


ODD_PATHS = (
    "/mcp/nothing", "/mcp/all+all", "/mcp/agent/", "/mcp/agent/a/b", "/mcp/agent/%22x", "/mcp/agent/%E2%82%AC",
    "/mcp/agent/%FF", "/mcp/agent/a%00b", "/mcp/agent/a%0d%0aSet-Cookie:%20x=y", "/mcp/agent/a%7f", "/mcp/%2e%2e/livez",
    "/mcp/all%00", "/mcp/+", "/mcp/agents+", "/mcp/agent/" + "a" * 65, "/mcpx", "/mcp/agents+nothing",
)  # fmt: skip


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_a_path_that_is_none_is_not_found(house: Served, wire: Wire, path: str) -> None:
    """404 with a token and without one, and nothing of the path gets into a header."""
    for headers in ({}, {"Authorization": ""}):
        answer = await wire.send(b"{}", headers, path=path)
        assert answer.status == 404
        assert not answer.challenge
        assert not [value for _, value in answer.headers if "x=y" in value]
    if not path.startswith("/mcpx"):
        assert (await wire.send(b"", path=WELL_KNOWN + path, method="GET")).status == 404


# What is not taken.


async def large(size: int) -> AsyncIterator[bytes]:
    """That many bytes in pieces, their number not said beforehand."""
    for _ in range(size // 1_000_000):
        yield b"x" * 1_000_000


@EACH_ERA
@pytest.mark.parametrize("announced", [True, False])
async def test_fifty_megabytes_are_refused(
    house: Served, wire: Wire, http: httpx2.AsyncClient, era: Era, announced: bool
) -> None:
    """413 whether the length is announced or not; without a token it is not even looked at."""
    headers = routing("tools/call", {"name": "agent_create"})
    if era == "legacy":
        headers = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": (await wire.initialize()).session}
    body = json.dumps(envelope("tools/call", {"name": "agent_create", "arguments": {"name": "x" * 50_000_000}}))
    for token, status in ((wire.token, 413), ("", 401)):
        given = {**ACCEPT, **headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        content = body.encode() if announced else large(50_000_000)
        try:
            response = await http.post(f"{house.url}/mcp/all", content=content, headers=given)
        except (httpx2.WriteError, httpx2.RemoteProtocolError, httpx2.ReadError):
            continue  # closed while we were still writing, which refuses it just as well
        assert response.status_code == status


ARGUMENT = b'"@@"'
ODD_JSON = {
    "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "nesting beyond what can be answered": b"[" * 500 + b"]" * 500,
    "duplicate keys": b'{"a":1,"a":2}',
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "infinite number": b"1e999",
    "4,000 digits": b"1" * 4000,
    "5,000 digits": b"1" * 5000,
    "lone surrogate": rb'"\ud800"',
    "lone surrogate in a key": rb'{"\udfff":1}',
    "invalid UTF-8": b'"\xff\xfe"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "control character": b'"\x01"',
    "comment": b"1 /* x */",
    "trailing comma": b"[1,]",
    "single quotes": b"'x'",
    "unfinished": b'{"a":',
}


@EACH_ERA
@pytest.mark.parametrize("kind", ODD_JSON)
async def test_json_that_two_readers_may_read_differently_is_refused(wire: Wire, era: Era, kind: str) -> None:
    """4xx, and nothing was made of it."""
    name = f"odd-{list(ODD_JSON).index(kind)}-{era}"
    draft = {"name": name, "virtual_model": "rule-based", "metadata": {"odd": "@@"}}
    body = json.dumps(envelope("tools/call", {"name": "agent_create", "arguments": draft})).encode()
    headers = routing("tools/call", {"name": "agent_create"})
    if era == "legacy":
        headers = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": await session(wire)}
    answer = await wire.send(body.replace(ARGUMENT, ODD_JSON[kind]), headers)
    made = (await wire.call("agent_list", {"q": name})).value["agents"]
    assert (400 <= answer.status < 500, made) == (True, []), (answer.status, answer.body[:300])


async def session(wire: Wire) -> str:
    """An open session of the previous era."""
    opened = await wire.initialize()
    known = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": opened.session}
    note = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
    assert (await wire.send(note, known)).status == 202
    return opened.session


ONE = json.dumps(envelope("tools/list"))
BODIES = {
    "nothing": b"",
    "null": b"null",
    "a number": b"1",
    "a text": b'"tools/list"',
    "an empty batch": b"[]",
    "a batch of one": f"[{ONE}]".encode(),
    "a batch of two": f"[{ONE},{ONE}]".encode(),
    "an empty object": b"{}",
    "two documents": f"{ONE}{ONE}".encode(),
    "no method": b'{"jsonrpc":"2.0","id":1}',
    "another version": b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
    "no version": b'{"id":1,"method":"tools/list"}',
    "a method that is a list": b'{"jsonrpc":"2.0","id":1,"method":["tools/call"]}',
    "params that are a list": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    "an id that is an object": ONE.replace('"id": 1', '"id": {}').encode(),
    "an id that is a list": ONE.replace('"id": 1', '"id": [1]').encode(),
    "UTF-16": ONE.encode("utf-16"),
    "a form": b"method=tools/list&id=1",
    "binary": bytes(range(256)),
}


@EACH_ERA
@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_that_is_no_request_is_refused(wire: Wire, era: Era, kind: str) -> None:
    """4xx in both eras."""
    headers = routing("tools/list")
    if era == "legacy":
        headers = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": await session(wire)}
    answer = await wire.send(BODIES[kind], headers)
    assert 400 <= answer.status < 500, answer


@EACH_ERA
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Accept": "text/html"},
        {"MCP-Protocol-Version": "1999-01-01"},
        {"MCP-Protocol-Version": "\x7f"},
    ],
    ids=lambda headers: " ".join(*headers.items()),
)
async def test_headers_that_are_no_mcp_are_refused(wire: Wire, era: Era, headers: dict[str, str]) -> None:
    """A page that posts a simple form gets nowhere, a version that is none is told so."""
    usual = routing("tools/list")
    if era == "legacy":
        usual = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": await session(wire)}
    answer = await wire.send(ONE.encode(), {**usual, **headers})
    assert 400 <= answer.status < 500, answer


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_other_methods_without_a_session_are_refused(wire: Wire, method: str) -> None:
    """4xx with no session, an unknown one, and in the current era, which has none."""
    for headers in ({}, {"Mcp-Session-Id": "unknown"}, {"MCP-Protocol-Version": MODERN}, {"Last-Event-ID": "1"}):
        assert 400 <= (await wire.send(b"", headers, method=method)).status < 500


@EACH_ERA
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x"])
async def test_a_compressed_body_is_not_unpacked(wire: Wire, era: Era, encoding: str) -> None:
    """What is not JSON as it stands is refused, so that no bomb can go off."""
    headers = routing("tools/list") if era == "modern" else {"MCP-Protocol-Version": LEGACY}
    answer = await wire.send(b"\x1f\x8b\x08\x00" + b"\0" * 100, {**headers, "Content-Encoding": encoding})
    assert 400 <= answer.status < 500


SAMPLES: list[tuple[str, dict[str, Any]]] = [
    ("tools/list", {}),
    ("tools/list", {"cursor": "0"}),
    ("tools/call", {"name": "agent_get", "arguments": {"agent": "helper"}}),
    ("tools/call", {"name": "agent_list", "arguments": {"q": "x", "limit": 3, "cursor": "", "active": True}}),
    ("tools/call", {"name": "agent_create", "arguments": {"name": "helper", "limits": {"max_turns": 1}, "tools": []}}),
    (
        "tools/call",
        {"name": "agent_update", "arguments": {"agent": "nobody", "temperature": 1, "metadata": {"a": [1]}}},
    ),
    ("tools/call", {"name": "execution_get", "arguments": {"execution_id": "ex_" + "0" * 26}}),
    ("tools/call", {"name": "execution_events", "arguments": {"execution_id": "ex_" + "0" * 26, "cursor": 1}}),
    ("tools/call", {"name": "execution_list", "arguments": {"agent": "helper", "status": "failed", "limit": 5}}),
    ("tools/call", {"name": "tool_list", "arguments": {"server": "none", "q": ""}}),
    (
        "tools/call",
        {"name": "agent_submit", "arguments": {"agent": "none", "prompt": "x", "overrides": {"max_turns": 1}}},
    ),
    ("resources/list", {}),
    ("resources/read", {"uri": "cb://agents/helper"}),
    ("resources/read", {"uri": "cb://executions/x/events"}),
    ("prompts/get", {"name": "debug_execution", "arguments": {"execution_id": "x"}}),
    (
        "completion/complete",
        {"ref": {"type": "ref/resource", "uri": "cb://agents/{id}"}, "argument": {"name": "id", "value": "h"}},
    ),
    ("server/discover", {}),
    ("ping", {}),
    ("logging/setLevel", {"level": "debug"}),
    ("notifications/cancelled", {"requestId": 1}),
    ("initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A sound request with one to three of its values, keys or bytes changed, and now and then a header."""
    method, params = draw(st.sampled_from(SAMPLES))
    body: Any = json.loads(json.dumps(envelope(method, params)))
    headers = routing(method, params)
    for _ in range(draw(st.integers(1, 3))):
        holder = body
        while True:
            key = draw(st.sampled_from(sorted(holder))) if isinstance(holder, dict) else 0
            inner = holder[key]
            if not isinstance(inner, dict) or not inner or draw(st.booleans()):
                break
            holder = inner
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "rename"])):
            case "replace":
                holder[key] = draw(JSON)
            case "remove" if len(holder) > 1:
                del holder[key]
            case "rename":
                holder[draw(st.text(max_size=8))] = holder.pop(key)
            case _:
                holder[draw(st.text(max_size=8))] = draw(JSON)
    raw = json.dumps(body).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 4)) :]
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from(sorted(headers)))
        headers[name] = draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20))
    return raw, headers


@given(request=mutated(), era=st.sampled_from(ERAS))
@settings(max_examples=400, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
async def test_no_mutated_request_breaks_the_server(
    wire: Wire, fuzz_session: str, request: tuple[bytes, dict[str, str]], era: Era
) -> None:
    """An answer in time, never a 5xx and never a defect, whatever was changed."""
    raw, headers = request
    if era == "legacy":
        headers = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": fuzz_session}
    with anyio.fail_after(10):
        answer = await wire.send(raw, headers)
    assert answer.status < 500, (raw, answer)
    assert b'"INTERNAL"' not in answer.body, (raw, answer)
    assert b"-32603" not in answer.body, (raw, answer)


@pytest.fixture(scope="module")
async def fuzz_session(wire: Wire) -> str:
    """A session that many bad requests share."""
    return await session(wire)


# What a well-formed call may not ask for.


@EACH_ERA
async def test_an_unknown_tool_is_a_protocol_error(wire: Wire, era: Era) -> None:
    """-32602 and the name, as the protocol wants it."""
    answer = await wire.call("agent_explode", {}, era=era)
    assert answer.error == {"code": -32602, "message": "Unknown tool: agent_explode"}


@EACH_ERA
async def test_a_tool_of_another_path_is_unknown_here(wire: Wire, era: Era) -> None:
    """A path offers what it lists."""
    answer = await wire.call("tool_server_list", {}, era=era, path="/mcp/agents")
    assert answer.error["code"] == -32602


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "unknown agent": ("agent_execute", {"agent": "nobody", "prompt": "hi"}, "AGENT_UNKNOWN", "no such agent"),
    "unknown run": ("execution_wait", {"execution_id": "ex_" + "0" * 26}, "EXECUTION_UNKNOWN", "no such execution"),
    "unknown argument": ("agent_get", {"agent": "helper", "colour": 1}, "ARGUMENTS_INVALID", "colour"),
    "unknown argument inside": (
        "agent_create", {"name": "n", "limits": {"max_money": 1}}, "ARGUMENTS_INVALID", "limits.max_money",
    ),
    "missing argument": ("agent_get", {}, "ARGUMENTS_INVALID", "agent"),
    "wrong type": ("agent_list", {"limit": "many"}, "ARGUMENTS_INVALID", "limit"),
    "bad name": ("agent_create", {"name": "No Spaces"}, "ARGUMENTS_INVALID", "name"),
    "name like an id": ("agent_create", {"name": "ag_" + "0" * 26}, "ARGUMENTS_INVALID", "name"),
    "name with a newline": ("agent_create", {"name": "line\n"}, "ARGUMENTS_INVALID", "name"),
    "unknown binding": ("agent_create", {"name": "n", "tools": ["none/x"]}, "TOOL_NOT_FOUND", "none/x"),
    "binding without a tool": ("agent_create", {"name": "n", "tools": ["none"]}, "TOOL_NOT_FOUND", "none"),
    "unknown model": ("agent_create", {"name": "n", "virtual_model": "gpt"}, "MODEL_UNKNOWN", "gpt"),
    "unknown model for a run": (
        "agent_execute", {"agent": "helper", "prompt": "x", "overrides": {"virtual_model": "gpt"}},
        "MODEL_UNKNOWN", "gpt",
    ),
    "prompt too long": ("agent_execute", {"agent": "helper", "prompt": "x" * 1_000_001}, "PROMPT_TOO_LONG", "1000000"),
    "metadata too large": (
        "agent_create", {"name": "n", "metadata": {"x": "y" * 300_000}}, "AGENT_TOO_LARGE", "256 KiB",
    ),
    "system prompt too long": (
        "agent_create", {"name": "n", "system_prompt": "x" * 100_001}, "ARGUMENTS_INVALID", "system_prompt",
    ),
    "too many turns": (
        "agent_create", {"name": "n", "limits": {"max_turns": 201}}, "ARGUMENTS_INVALID", "limits.max_turns",
    ),
    "no turns": ("agent_create", {"name": "n", "limits": {"max_turns": 0}}, "ARGUMENTS_INVALID", "limits.max_turns"),
    "too long a time": (
        "agent_submit", {"agent": "helper", "prompt": "x", "overrides": {"timeout_seconds": 86_401}},
        "ARGUMENTS_INVALID", "overrides.timeout_seconds",
    ),
    "too hot": ("agent_create", {"name": "n", "temperature": 2.1}, "ARGUMENTS_INVALID", "temperature"),
    "too large a page": ("agent_list", {"limit": 201}, "ARGUMENTS_INVALID", "limit"),
    "negative wait": (
        "execution_wait", {"execution_id": "x", "timeout_seconds": -1}, "ARGUMENTS_INVALID", "timeout_seconds",
    ),
    "key too long": (
        "agent_submit", {"agent": "helper", "prompt": "x", "idempotency_key": "k" * 201},
        "ARGUMENTS_INVALID", "idempotency_key",
    ),
    "too many tools": ("agent_create", {"name": "n", "tools": ["a/b"] * 201}, "ARGUMENTS_INVALID", "tools"),
    "dead tool server": (
        "tool_server_add", {"name": "dead", "transport": "http", "url": "http://127.0.0.1:1/mcp"},
        "TOOL_SERVER_UNREACHABLE", "cannot be reached",
    ),
    "dead program": (
        "tool_server_add", {"name": "dead", "transport": "stdio", "command": "/nonexistent"},
        "TOOL_SERVER_UNREACHABLE", "not available",
    ),
    "metadata address": (
        "tool_server_add", {"name": "dead", "transport": "http", "url": "http://169.254.169.254/mcp"},
        "EGRESS_DENIED", "off limits",
    ),
    "not MCP": (
        "tool_server_add", {"name": "dead", "transport": "http", "url": "@livez"},
        "TOOL_SERVER_NOT_MCP", "does not speak MCP",
    ),
    "file address": (
        "tool_server_add", {"name": "dead", "transport": "http", "url": "file:///etc/passwd"},
        "EGRESS_DENIED", "off limits",
    ),
}  # fmt: skip


@EACH_ERA
@pytest.mark.parametrize("kind", REFUSED)
async def test_a_refusal_names_what_is_wrong(house: Served, wire: Wire, era: Era, kind: str) -> None:
    """A tool's error with a stable code, the field or thing in question, and what to do next."""
    tool, arguments, code, words = REFUSED[kind]
    if arguments.get("url") == "@livez":
        arguments = {**arguments, "url": f"{house.url}/livez"}
    answer = await wire.call(tool, arguments, era=era)
    error = answer.error
    assert error["code"] == code, error
    assert words in error["message"]
    assert error["next_step"]
    assert answer.result["content"][0]["text"].startswith(f"{code}: ")
    for secret in ("Traceback", str(Path(__file__).parents[2]), ".py", "site-packages"):
        assert secret not in answer.body.decode()
    for name in ("n", "dead"):
        assert not (await wire.call("agent_get", {"agent": name})).good
        assert not (await wire.call("tool_server_get", {"name": name})).good


@EACH_ERA
async def test_an_unknown_model_is_answered_with_the_known_ones(wire: Wire, era: Era) -> None:
    """As data and in the sentence."""
    error = (await wire.call("agent_create", {"name": "n", "virtual_model": "gpt"}, era=era)).error
    assert "rule-based" in error["valid_names"]
    assert "rule-based" in error["next_step"]


@EACH_ERA
async def test_an_agent_that_is_switched_off_takes_no_run(wire: Wire, era: Era) -> None:
    """By submit, by execute and by its own path; switched on it runs again."""
    name = f"sleeper-{era}"
    await wire.call("agent_create", {"name": name})
    await wire.call("agent_set_active", {"agent": name, "active": False})
    for tool in ("agent_execute", "agent_submit"):
        error = (await wire.call(tool, {"agent": name, "prompt": "say hi"}, era=era)).error
        assert (error["kind"], error["code"]) == ("Conflict", "AGENT_INACTIVE")
    own = await wire.call(name, {"prompt": "say hi"}, era=era, path=f"/mcp/agent/{name}")
    assert own.error["code"] == "AGENT_INACTIVE"
    await wire.call("agent_set_active", {"agent": name, "active": True})
    assert (await wire.call("agent_execute", {"agent": name, "prompt": "say hi"}, era=era)).value["text"] == "hi"


@pytest.mark.parametrize(("policy", "code"), [("off", "STDIO_OFF"), ("sandboxed", "SANDBOX_MISSING")])
async def test_a_program_that_the_policy_forbids_is_not_started(
    tmp_path_factory: pytest.TempPathFactory, http: httpx2.AsyncClient, policy: str, code: str
) -> None:
    """Not even by someone with every right; `off` forbids the packaged server too."""
    folder = tmp_path_factory.mktemp(policy)
    touched = folder / "touched"
    async with served(folder / "data", tools={"stdio": policy}) as strict:
        caller = Wire(http, strict.url, await strict.token("acme"))
        program = {"name": "sh", "transport": "stdio", "command": "/usr/bin/touch", "args": [str(touched)]}
        assert (await caller.call("tool_server_add", program)).error["code"] == code
        packaged = {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools"}
        assert (await caller.call("tool_server_add", packaged)).good == (policy == "sandboxed")
    assert not touched.exists()


# Where the caller's token must never be.


class Recorder:
    """Everything that an upstream server was sent, headers and bodies."""

    def __init__(self, inner: App) -> None:
        self._inner = inner
        self.heard: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        body = await whole(receive)
        lines = [b": ".join(pair) for pair in scope["headers"]]
        self.heard.append(b"\n".join([scope["raw_path"], scope["query_string"], *lines, body]))
        await self._inner(scope, replayed(body, receive), send)


async def test_the_callers_token_goes_nowhere(
    house: Served, http: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Not to a tool server, not into a log at its most talkative, not into any stream or bucket, not into an answer."""
    caller = Wire(http, house.url, await house.token("canary"))
    recorder = Recorder(mcp_app(good.server()))
    answers: list[Answer] = []
    with caplog.at_level(logging.DEBUG):
        async with upstream_served(recorder) as port:
            upstream = {"name": "far", "transport": "http", "url": f"http://127.0.0.1:{port}/mcp"}
            answers.append(await caller.call("tool_server_add", upstream))
            answers.append(await caller.call("agent_create", {"name": "user", "tools": ["far/*"]}))
            prompt = 'call far__add with {"a": 1, "b": 2}\ncall far__meta with {}'
            for era in ERAS:
                answers.append(await caller.call("agent_execute", {"agent": "user", "prompt": prompt}, era=era))
                answers.append(await caller.call("user", {"prompt": prompt}, era=era, path="/mcp/agent/user"))
                answers.append(await caller.call("tool_server_refresh", {"name": "far"}, era=era))
                answers.append(await caller.ask("tools/list", era=era, path=f"/mcp/all?access_token={caller.token}"))
            answers.append(await caller.call("tool_server_remove", {"name": "far"}))
        spoilt = Wire(http, house.url, tampered(caller.token, 2))
        answers.append(await spoilt.ask("tools/list"))
    assert all(answer.good for answer in answers[:-1])
    stored = [data async for data in everything_stored(house)]
    own = f"{house.url}/mcp/all?access_token="  # which the test's own client tells of itself
    lines = [f"{record.getMessage()} {record.exc_text}" for record in caplog.records]
    logged = "\n".join(line for line in lines if own not in line).encode()
    for token in (caller.token, spoilt.token):
        for secret in (token.encode(), *(part.encode() for part in token.split(".")[1:])):
            assert not [each for each in recorder.heard if secret in each]
            assert not [each for each in stored if secret in each]
            assert not [each for each in answers if secret in each.body + each.challenge.encode()]
            assert secret not in logged
    assert len(recorder.heard) > 10
    assert any(b"authorization" not in each.lower() for each in recorder.heard)
    assert any(b"far" in each for each in stored), "the scan must see what is stored"
    assert logged


async def everything_stored(house: Served) -> AsyncIterator[bytes]:
    """Subject, headers and data of every message of every stream: logs, buckets, jobs and objects."""
    for stream in sorted(await existing(house.house.link)):
        async for _, message in house.house.link.each(stream, ">", 0):
            yield b"\n".join([message.subject.encode(), json.dumps(message.headers).encode(), message.data])


async def test_many_bad_callers_at_once_do_not_keep_a_good_one_out(house: Served, wire: Wire) -> None:
    """A hundred refusals under way, and the good call among them is answered."""
    bad = [{"Authorization": ""}, {"Authorization": "Bearer x.y.z"}, {"Host": "evil.example"}, {"Content-Type": "x"}]
    statuses: list[int] = []

    async def one(headers: dict[str, str]) -> None:
        statuses.append((await wire.send(b"[" * 1000, headers)).status)

    async with together() as asking:
        for number in range(100):
            asking.start_soon(one, bad[number % len(bad)])
        assert (await wire.call("agent_list", {})).good
    assert sorted(set(statuses)) == [400, 401, 421]
