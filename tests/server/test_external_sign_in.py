"""People who sign in somewhere else: at a provider in a process of its own, or at another server of ours."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from pydantic import AnyUrl

from mcp_agents.kernel.administration import ClientOrder
from mcp_agents.kernel.errors import Conflict
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.server.cli.admin.acting import require_own_people
from tests.hostile.wire import ERAS, Era, Wire, browserless
from tests.server.test_journey import REDIRECT, Memory, called
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio


@dataclass
class Outside:
    """A server, and the provider that its people sign in at."""

    server: Served
    issuer: str
    http: httpx2.AsyncClient

    async def person(self) -> Wire:
        """Somebody with a token from there."""
        asked = {
            "response_type": "code", "client_id": "an-ide", "redirect_uri": REDIRECT, "state": "s",
            "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256",
            "resource": f"{self.server.url}/mcp",
        }  # fmt: skip
        went = await self.http.get(f"{self.issuer}/authorize", params=asked)
        code = parse_qs(urlsplit(went.headers["location"]).query)["code"][0]
        form = {"code": code, "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"}
        token = (await self.http.post(f"{self.issuer}/token", data=form)).json()["access_token"]
        return Wire(self.http, self.server.url, token)


@pytest.fixture(scope="module")
async def outside(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outside]:
    """Both of them running; the tenant `acme` is known here."""
    command = [sys.executable, "-m", "tests.support.identity_provider"]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        issuer = (await process.stdout.receive()).decode().strip()
        sign_in = {
            "mode": "external",
            "issuer": issuer,
            "roles_claim": "groups",
            "role_map": ["mcp-operators=operator", "staff=developer"],
        }
        try:
            async with served(tmp_path_factory.mktemp("outside"), auth=sign_in) as server, browserless() as http:
                await server.house.auth.tenants.create("acme")
                yield Outside(server, issuer, http)
        finally:
            process.terminate()


@asynccontextmanager
async def signed_in(outside: Outside, mode: str) -> AsyncIterator[Client]:
    """The official client, knowing only the MCP URL."""
    answer: list[str] = []

    async def browse(url: str) -> None:
        answer.append((await outside.http.get(url)).headers["location"])

    async def returned() -> AuthorizationCodeResult:
        query = {name: values[0] for name, values in parse_qs(urlsplit(answer.pop()).query).items()}
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))

    url = f"{outside.server.url}/mcp/all"
    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(REDIRECT)], token_endpoint_auth_method="none")
    auth = OAuthClientProvider(url, metadata, Memory("an-ide"), browse, returned)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_stranger_discovers_the_provider_signs_in_and_runs_an_agent(outside: Outside, mode: str) -> None:
    """From the MCP URL alone; what they make belongs to the tenant of their token."""
    async with signed_in(outside, mode) as client:
        made = await called(client, "agent_create", {"name": f"adder-{mode}"})
        run = await called(client, "agent_execute", {"agent": made["id"], "prompt": "say 42"})
        assert (run["status"], run["text"]) == ("completed", "42")
        events = await called(client, "execution_events", {"execution_id": run["execution_id"], "limit": 1})
    caller = events["events"][0]["body"]["caller"]
    assert caller["subject"].endswith("|auth0|ann")
    assert caller["client"] == "an-ide"


async def test_the_metadata_sends_clients_there_and_our_own_doors_are_shut(outside: Outside) -> None:
    """Nothing of our authorization server answers but the keys that runs sign with."""
    found = await outside.http.get(f"{outside.server.url}/.well-known/oauth-protected-resource/mcp/all")
    assert found.json()["authorization_servers"] == [outside.issuer]
    for path in (
        "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/oauth/authorize",
        "/oauth/sign-in", "/oauth/sign-out", "/oauth/invitation", "/oauth/upstream/start",
        f"/oauth/upstream/callback/{32 * '0'}", f"/oauth/upstream/client/{32 * '0'}.json",
        "/approvals/apr_06f0a1b2c3d4e5f6g7h8i9jkl0",
    ):  # fmt: skip
        assert (await outside.http.get(outside.server.url + path)).status_code == 404, path
    for path in ("/oauth/token", "/oauth/revoke", "/oauth/introspect", "/oauth/consent", "/oauth/register"):
        assert (await outside.http.post(outside.server.url + path)).status_code == 404, path
    assert (await outside.http.get(f"{outside.server.url}/oauth/jwks")).json()["keys"]


@pytest.mark.parametrize("era", ERAS)
async def test_our_own_tokens_are_none_there(outside: Outside, era: Era) -> None:
    """One that our own server would have made, and none at all."""
    own = (await outside.server.house.auth.tokens.issue_direct("acme")).access_token
    for token in (own, "made-up"):
        answered = await Wire(outside.http, outside.server.url, token).send(b"{}")
        assert answered.status == 401
        assert 'error="invalid_token"' in answered.challenge


async def test_people_are_administered_where_they_sign_in(outside: Outside) -> None:
    """Nobody is listed here, and the tools for people and clients say where to go."""
    house = outside.server.house
    administration = house.services.administration
    admin = Principal(tenant="acme", subject="x", scopes=TENANT_SCOPES)
    assert (await administration.members(admin), await administration.clients(admin)) == ([], [])
    assert (await administration.rename(admin, "Acme")).title == "Acme"
    for refused in (
        administration.invite(admin, "a@b.example", frozenset({"viewer"})),
        administration.suspend(admin, "us_1", suspended=True),
        administration.give_roles(admin, "us_1", frozenset({"viewer"})),
        administration.take_roles(admin, "us_1", frozenset({"viewer"})),
        administration.remove(admin, "us_1"),
        administration.register_client(admin, ClientOrder(name="c")),
        administration.revoke_client(admin, "cl_1"),
    ):
        with pytest.raises(Conflict) as told:
            await refused
        assert told.value.code == "ADMINISTERED_ELSEWHERE"
    with pytest.raises(Conflict):
        require_own_people(house)


async def test_a_suspended_tenant_is_out_at_once_and_its_runs_stop(outside: Outside) -> None:
    """The one thing about its people that is ours to say."""
    me = await outside.person()
    assert (await me.call("agent_list", {})).good
    await outside.server.house.auth.tenants.set_active("acme", active=False)
    try:
        assert (await me.call("agent_list", {})).status == 401
    finally:
        await outside.server.house.auth.tenants.set_active("acme", active=True)


async def test_budgets_and_quotas_know_such_people(outside: Outside) -> None:
    """Their names hold characters that ids of ours do not."""
    me = await outside.person()
    await me.call("agent_create", {"name": "spender"})
    run = (await me.call("agent_execute", {"agent": "spender", "prompt": "say 1", "idempotency_key": "k|1"})).value
    again = (await me.call("agent_execute", {"agent": "spender", "prompt": "say 1", "idempotency_key": "k|1"})).value
    assert run["execution_id"] == again["execution_id"]
    assert (await me.call("usage_report", {})).good


async def test_another_server_of_ours_can_be_the_provider(tmp_path: Path) -> None:
    """Its tokens, for the audience that is agreed on, are taken; for any other they are not."""
    async with served(tmp_path / "there") as there, browserless() as http:
        sign_in = {"mode": "external", "issuer": there.url, "audience": f"{there.url}/mcp"}
        async with served(tmp_path / "here", auth=sign_in) as here:
            await here.house.auth.tenants.create("acme")
            token = await there.token("acme", "agents:read agents:write")
            me = Wire(http, here.url, token)
            assert (await me.call("agent_create", {"name": "mine"})).good
            assert (await me.call("agent_execute", {"agent": "mine", "prompt": "x"})).status == 403
            assert (await Wire(http, here.url, await there.token("other")).call("agent_list", {})).status == 401
