"""Two served replicas on one store behind one address, each request at the next: nobody notices they are two."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from tests.hostile.wire import ERAS, Era, Wire
from tests.support.browser import Browser
from tests.support.clock import AheadClock
from tests.support.in_turns import InTurns, in_turns
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"
REDIRECT = "http://127.0.0.1:9/callback"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@dataclass
class Replicas:
    """Both, what is in front of them, and a client that opens a connection for each request."""

    front: InTurns
    both: tuple[Served, Served]
    clock: AheadClock
    http: httpx2.AsyncClient

    async def post(self, path: str, **form: str) -> httpx2.Response:
        """A form to one of them."""
        return await self.http.post(self.front.url + path, data=form)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    """Two houses on one data folder; a tenant takes 320 calls a minute."""
    clock = AheadClock()
    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(in_turns())
        common: dict[str, Any] = {"clock": clock, "public_url": front.url, "limits": {"calls_per_tenant": 320}}
        one = await stack.enter_async_context(served(tmp_path, **common))
        other = await stack.enter_async_context(served(tmp_path, workers=0, **common))
        front.ports = [urlsplit(each.url).port or 0 for each in (one, other)]
        http = await stack.enter_async_context(
            httpx2.AsyncClient(trust_env=False, timeout=30, limits=httpx2.Limits(max_keepalive_connections=0))
        )
        yield Replicas(front, (one, other), clock, http)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_sign_in_a_refresh_and_a_revocation_begin_here_and_end_there(replicas: Replicas, first: int) -> None:
    """Page, password, consent, code, call, refresh, revocation; within five seconds nobody takes the token any more."""
    auth = replicas.both[0].house.auth
    await auth.tenants.create("acme", "Acme")
    await auth.users.create("ada@acme.example", PASSWORD, "acme", frozenset({"admin"}))
    client, _ = await auth.clients.register("acme", "app", redirect_uris=(REDIRECT,), roles=frozenset({"admin"}))
    for _ in range(first):
        await replicas.http.get(f"{replicas.front.url}/livez")
    asked = {
        "response_type": "code", "client_id": client.id, "redirect_uri": REDIRECT, "state": "s",
        "code_challenge": CHALLENGE, "code_challenge_method": "S256", "resource": f"{replicas.front.url}/mcp",
    }  # fmt: skip
    browser = Browser(replicas.http)
    await browser.open(f"{replicas.front.url}/oauth/authorize?{urlencode(asked)}")
    await browser.submit(browser.form(), email="ada@acme.example", password=PASSWORD)
    back = await browser.submit(browser.form(), decision="approve", tenant="acme")
    code = parse_qs(urlsplit(back).query)["code"][0]
    redeemed = await replicas.post(
        "/oauth/token", grant_type="authorization_code", client_id=client.id, code=code, redirect_uri=REDIRECT,
        code_verifier=VERIFIER,
    )  # fmt: skip
    assert redeemed.status_code == 200, redeemed.text
    refreshed = await replicas.post(
        "/oauth/token", grant_type="refresh_token", client_id=client.id, refresh_token=redeemed.json()["refresh_token"]
    )
    tokens = refreshed.json()
    wire = Wire(replicas.http, replicas.front.url, tokens["access_token"])
    assert [(await wire.call("agent_list", {})).status for _ in range(4)] == [200] * 4
    replay = await replicas.post(
        "/oauth/token", grant_type="authorization_code", client_id=client.id, code=code, redirect_uri=REDIRECT,
        code_verifier=VERIFIER,
    )  # fmt: skip
    assert replay.json()["error"] == "invalid_grant"  # and that ends the grant, at both
    replicas.clock.advance(5)
    assert [(await wire.call("agent_list", {})).status for _ in range(4)] == [401] * 4
    again = await replicas.post(
        "/oauth/token", grant_type="refresh_token", client_id=client.id, refresh_token=tokens["refresh_token"]
    )
    assert again.json()["error"] == "invalid_grant"
    revoked = await replicas.post("/oauth/revoke", client_id=client.id, token=tokens["refresh_token"])
    assert revoked.status_code == 200
    assert set(replicas.front.went) == set(replicas.front.ports)


@pytest.mark.parametrize("era", ERAS)
async def test_a_run_is_begun_here_and_read_there(replicas: Replicas, era: Era) -> None:
    """In the current era each request goes where it goes; a session of the era before stays with its server."""
    token = await replicas.both[0].token("acme")
    wires = [Wire(replicas.http, each.url if era == "legacy" else replicas.front.url, token) for each in replicas.both]
    made = (await wires[0].call("agent_create", {"name": f"runner-{era}"}, era=era)).value
    run = (await wires[1].call("agent_execute", {"agent": made["id"], "prompt": "say 42"}, era=era)).value
    assert (run["status"], run["text"]) == ("completed", "42")
    for wire in wires:
        seen = (await wire.call("execution_get", {"execution_id": run["execution_id"]}, era=era)).value
        assert seen["text"] == "42"


async def test_both_together_keep_one_limit(replicas: Replicas) -> None:
    """Of four hundred calls in turns no more pass than one server would let through, and hardly fewer."""
    replicas.clock.advance(60 - replicas.clock.now().timestamp() % 60)
    wire = Wire(replicas.http, replicas.front.url, await replicas.both[0].token("acme"))
    found = [(await wire.call("agent_list", {})).status for _ in range(400)]
    assert set(found) == {200, 429}
    assert 300 <= found.count(200) <= 320
