"""H1 to H15: faults that servers between people and their tools have had, each tried on a served house.

Most are tried in more depth elsewhere (docs/security.md says where); here each has one plain test of its own name.
"""

import json
import os
import re
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

import mcp_agents
from tests.hostile.test_door import OPEN
from tests.hostile.wire import ACCEPT, ERAS, Era, Wire, browserless
from tests.support.served import Served, served
from tests.tenancy.test_erasure import everything
from tests.tenancy.world import PROVIDER, Tenant, World, world

pytestmark = pytest.mark.anyio

CANARY = "canary5ecretcanary"
ROOT = Path(mcp_agents.__file__).parents[1]
LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()


@dataclass
class There:
    """A house, a tenant with every right, and somebody with no token at all."""

    world: World
    me: Tenant
    http: httpx2.AsyncClient

    @property
    def served(self) -> Served:
        """The running server."""
        return self.world.served

    async def bare(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """A request without a token."""
        return await self.http.request(method, self.served.url + path, **more)


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[There]:
    """Everything open; the tenant has secrets stored."""
    async with world(tmp_path_factory.mktemp("faults")) as opened, browserless() as http:
        me = await opened.tenant()
        auth = {"type": "bearer", "token": CANARY}
        server = {"name": "kept", "transport": "http", "url": opened.upstream.url, "auth": auth}
        assert (await me.wire.call("tool_server_add", server)).good
        assert (await me.wire.call("provider_key_set", {"provider": PROVIDER, "key": CANARY})).good
        yield There(opened, me, http)


@pytest.mark.parametrize("value", ["anything", "admin", "00000000-0000-0000-0000-000000000000", "*"])
async def test_h1_a_session_header_authenticates_nobody(there: There, value: str) -> None:
    """Of no name that such a header ever had."""
    for name in ("x-mcp-session", "Mcp-Session-Id", "X-Session-Token", "X-Api-Key", "Cookie", "X-User", "X-Tenant"):
        answered = await there.bare("POST", "/mcp/all", content=LIST, headers={**ACCEPT, name: value})
        assert answered.status_code == 401, name


async def test_h2_no_string_passes_for_a_token(there: There) -> None:
    """Two hundred of them, on every kind of path."""
    strings = ["x", "null", "undefined", "admin", "Bearer", "0" * 64, "e30.e30.", "a.b.c", "..", CANARY, "%00"]
    strings += [os.urandom(24).hex() for _ in range(50 - len(strings))]
    for path in ("/mcp", "/mcp/all", "/mcp/agents", "/mcp/agent/anything"):
        for each in strings:
            wire = Wire(there.http, there.served.url, each)
            assert (await wire.send(LIST, path=path)).status == 401


async def test_h3_nobody_registers_or_overwrites_without_a_token(there: There, tmp_path: Path) -> None:
    """Registration is off; where it is on, nothing that was there can be overwritten."""
    body = {"client_name": "Evil", "redirect_uris": ["https://evil.example/cb"]}
    assert (await there.bare("POST", "/oauth/register", json=body)).status_code == 404
    known = await there.me.client()
    async with served(tmp_path, auth={"dynamic_registration": True}) as open_house, browserless() as http:
        first, _ = await open_house.house.auth.clients.register(
            "default", "Ours", redirect_uris=("https://ours.example/cb",), roles=frozenset({"viewer"})
        )
        for more in ({"client_id": first.id}, {"client_id": known}, {"id": first.id}):
            made = await http.post(f"{open_house.url}/oauth/register", json={**body, **more})
            assert made.status_code in (201, 400)
            assert made.json().get("client_id") not in (first.id, known)
        for method in ("PUT", "GET", "DELETE"):
            answered = await http.request(method, f"{open_house.url}/oauth/register/{first.id}", json=body)
            assert answered.status_code in (404, 405)
        assert await open_house.house.auth.clients.get("default", first.id) == first


async def test_h4_no_route_gives_a_stored_token_away(there: There) -> None:
    """Whatever is asked for, with a token of ours and without: what was stored for others comes back nowhere."""
    paths = [*OPEN, "/mcp/kept/token", "/mcp/agent/kept/token", "/token", "/tool_servers/kept", "/mcp/all"]
    own = {"Authorization": f"Bearer {there.me.wire.token}"}
    for path in paths:
        for headers in ({}, own):
            for method in ("GET", "POST"):
                answered = await there.bare(method, path, headers=headers)
                assert CANARY not in answered.text
                assert CANARY not in str(answered.headers)
    for tool in ("tool_server_get", "tool_server_refresh"):
        assert CANARY.encode() not in (await there.me.wire.call(tool, {"name": "kept"})).body
    for tool in ("tool_server_list", "provider_key_list", "tool_list", "audit_query"):
        assert CANARY.encode() not in (await there.me.wire.call(tool, {})).body
    wrong = await there.me.wire.call("tool_server_add", {"name": "kept", "token": CANARY, "transport": "http"})
    assert wrong.error
    assert CANARY.encode() not in (await there.me.wire.call("policy_explain", {"action": "use_model"})).body


async def test_h5_registering_returns_no_secret_of_ours(tmp_path: Path) -> None:
    """A client that registers itself is public, and gets nothing that anybody else holds."""
    async with served(tmp_path, auth={"dynamic_registration": True}) as house, browserless() as http:
        _, secret = await house.house.auth.clients.register(
            "default",
            "machine",
            grant_types=frozenset({"client_credentials"}),
            roles=frozenset({"viewer"}),
            confidential=True,
        )
        body = {"client_name": "App", "redirect_uris": ["https://app.example/cb"]}
        made = await http.post(f"{house.url}/oauth/register", json=body)
        assert made.status_code == 201
        assert "client_secret" not in made.json()
        assert (secret or "?") not in made.text


@pytest.mark.parametrize("asked", ["agents:write", "tenancy:admin", "platform:admin", "agents:read agents:write", "*"])
async def test_h6_rights_are_what_was_given_and_not_what_is_asked_for(there: There, asked: str) -> None:
    """By scope, by a claim of one's own, by arguments: never more than the client holds."""
    auth = there.served.house.auth
    client, secret = await auth.clients.register(
        there.me.name,
        "reader",
        grant_types=frozenset({"client_credentials"}),
        roles=frozenset({"viewer"}),
        confidential=True,
    )
    form = {
        "grant_type": "client_credentials", "client_id": client.id, "client_secret": secret or "", "scope": asked,
        "permissions": asked, "roles": "admin",
    }  # fmt: skip
    answered = await there.bare("POST", "/oauth/token", data=form)
    granted = set(str(answered.json().get("scope", "")).split())
    assert granted <= {"agents:read"}
    if token := answered.json().get("access_token"):
        wire = Wire(there.http, there.served.url, token)
        refused = await wire.call("agent_create", {"name": "x"}, meta={"scopes": [asked], "permissions": ["admin"]})
        assert refused.status == 403


async def test_h7_nobody_acts_for_another_installation_or_revokes_its_tokens(there: There) -> None:
    """What is made belongs to the tenant of the token, whatever the call says; another's token stays alive."""
    other = await there.world.tenant()
    for more in ({"tenant": other.name}, {"tenant_id": other.name}, {"installation_id": other.name}):
        assert (await there.me.wire.call("agent_create", {"name": "x", **more})).error["code"] == "ARGUMENTS_INVALID"
    auth = there.served.house.auth
    client, secret = await auth.clients.register(
        there.me.name,
        "revoker",
        grant_types=frozenset({"client_credentials"}),
        roles=frozenset({"admin"}),
        confidential=True,
    )
    for token in (other.wire.token, there.me.wire.token):
        form = {"client_id": client.id, "client_secret": secret or "", "token": token}
        assert (await there.bare("POST", "/oauth/revoke", data=form)).status_code == 200  # as RFC 7009 wants it
    for wire in (other.wire, there.me.wire):
        assert (await wire.call("agent_list", {})).good
    assert (await there.bare("POST", "/oauth/revoke", data={"token": other.wire.token})).status_code == 401


@pytest.mark.parametrize("era", ERAS)
async def test_h8_every_call_of_a_tool_is_checked(there: There, era: Era) -> None:
    """Though the session was opened by somebody who may read; test_roles does it for every tool and role."""
    token = await there.served.token(there.me.name, "agents:read")
    wire = Wire(there.http, there.served.url, token)
    assert (await wire.call("agent_list", {}, era=era)).good
    for tool in ("agent_create", "tool_server_remove", "user_invite", "provider_key_set"):
        assert (await wire.call(tool, {}, era=era)).status == 403, tool


async def test_h9_a_token_is_worth_nothing_before_its_signature_and_its_audience(there: There) -> None:
    """The claims of a good one, unsigned; and a good one that is for another server."""
    good = there.me.wire.token.split(".")
    for forged in (f"{good[0]}.{good[1]}.", f"eyJhbGciOiJub25lIn0.{good[1]}.", f"{good[0]}.{good[1]}.{'A' * 86}"):
        assert (await Wire(there.http, there.served.url, forged).send(LIST)).status == 401
    principal = (await there.served.house.auth.verifier.verify(there.me.wire.token)).principal
    elsewhere = await there.served.house.auth.identities.token(
        principal, execution_id="ex_06f0a1b2c3d4e5f6g7h8i9jkl0", audience="https://other.example/mcp"
    )
    assert (await Wire(there.http, there.served.url, elsewhere).send(LIST)).status == 401


@pytest.mark.parametrize("era", ERAS)
async def test_h10_answers_go_to_who_asked_though_all_have_one_token(there: There, era: Era) -> None:
    """Fifty clients with the same token and the same request id, each with a question of its own."""
    wires = [Wire(there.http, there.served.url, there.me.wire.token) for _ in range(50)]
    agent = await there.me.twin()
    said: dict[int, str] = {}

    async def one(number: int) -> None:
        order = {"agent": agent, "prompt": f"say number {number}"}
        said[number] = (await wires[number].call("agent_execute", order, era=era)).value["text"]

    async with anyio.create_task_group() as crowd:
        for number in range(50):
            crowd.start_soon(one, number)
    assert said == {number: f"number {number}" for number in range(50)}


async def test_h11_no_secret_is_stored_in_clear_or_shipped(there: There) -> None:
    """What was stored is not in the store; what is shipped holds no key; the master key is this folder's own."""
    assert not [each for each in await everything(there.served.house.link) if CANARY.encode() in each.data]
    looks_like = re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY|\bsk-[A-Za-z0-9]{20,}|\bglpat-[\w-]{15,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
        r"|\bAKIA[0-9A-Z]{16}\b|\bxox[baprs]-[\w-]{10,}"
    )
    shipped = [
        path
        for folder in ("mcp_agents", "auth", "tools", "discovery", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".toml", ".json")
    ]
    assert len(shipped) > 200
    for path in [*shipped, ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "server.json"]:
        assert not looks_like.search(path.read_text("utf-8")), path
    key = there.served.house.settings.data_dir / "keys" / "master.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(set(key.read_text().strip())) > 16


async def test_h12_nothing_has_a_fixed_id_or_a_redirect_that_nobody_registered(tmp_path: Path) -> None:
    """Two fresh servers share no key, no client and no id; and no redirect URI is known to a new one."""
    seen: list[set[str]] = []
    for name in ("one", "two"):
        async with served(tmp_path / name) as house, browserless() as http:
            link = await house.house.auth.bootstrap()
            auth = house.house.auth
            assert [*await auth.clients.list(""), *await auth.clients.list("default")] == []
            keys = (await http.get(f"{house.url}/oauth/jwks")).json()["keys"]
            owner = await auth.users.find("owner@localhost")
            assert owner is not None
            seen.append({link or "", owner.id, *(key["kid"] for key in keys)})
    assert len(seen[0]) == 3
    assert not seen[0] & seen[1]


async def test_h13_every_address_in_the_metadata_is_this_servers_own(there: There) -> None:
    """Of both kinds of documents, at every path."""
    for path in [
        "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration",
        "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource/mcp/all", "/.well-known/oauth-protected-resource/mcp/agent/x",
    ]:  # fmt: skip
        document = (await there.bare("GET", path)).text
        found = re.findall(r"https?://[^\"\\ ]+", document)
        assert found
        assert all(each.startswith(there.served.url) for each in found), path


async def test_h14_no_process_is_started_to_guess_where_we_are(there: There) -> None:
    """Neither for a run nor for a call; what may start one at all is a short list of modules."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    await there.me.finished()
    assert (await there.me.wire.call("tool_list", {})).good
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    starting = re.compile(r"\b(subprocess|open_process|run_process|create_subprocess|os\.system|os\.popen|Popen)\b")
    modules = {
        str(path.relative_to(ROOT))
        for folder in ("mcp_agents", "auth", "tools", "discovery")
        for path in (ROOT / folder).rglob("*.py")
        if starting.search(path.read_text("utf-8"))
    }
    assert modules == STARTING


STARTING = {
    "mcp_agents/adapters/nats_process.py",
    "mcp_agents/server/bench/machine.py",
    "mcp_agents/server/cli/demo.py",
    "mcp_agents/server/cli/demo_walk.py",
    "tools/mcp_agents_tools/toolsets/stdio.py",
}
"""The message server, the demo and the benchmark, and tool servers that somebody has added."""


@pytest.mark.parametrize(("policy", "code"), [("off", "STDIO_OFF"), ("sandboxed", "SANDBOX_MISSING")])
async def test_h15_a_foreign_program_runs_with_its_limits_or_not_at_all(tmp_path: Path, policy: str, code: str) -> None:
    """There is no sandbox yet: so nothing foreign runs where one is asked for. Time limits are kept (test_stdio)."""
    async with served(tmp_path, tools={"stdio": policy}) as house, browserless() as http:
        wire = Wire(http, house.url, await house.token("acme"))
        spec = {"name": "tool", "transport": "stdio", "command": "/bin/sh", "args": ["-c", "touch ran"]}
        assert (await wire.call("tool_server_add", spec)).error["code"] == code
    for folder in (tmp_path, Path.cwd()):
        assert not await anyio.Path(folder / "ran").exists()
