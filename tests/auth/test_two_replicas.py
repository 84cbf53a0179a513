"""Two processes behind one address: every step of a sign-in may be answered by the other one."""

from itertools import cycle

import httpx2
import pytest
from mcp_agents_auth.http import routes
from starlette.applications import Starlette

from mcp_agents.kernel.errors import Denied
from tests.auth.desk import ISSUER, PASSWORD, Desk, YieldingStore, build
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


class InTurns(httpx2.AsyncBaseTransport):
    """Sends each request to the next process."""

    def __init__(self, *apps: Starlette) -> None:
        self._transports = cycle([httpx2.ASGITransport(app=app) for app in apps])
        self.sent = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent += 1
        return await next(self._transports).handle_async_request(request)


@pytest.mark.parametrize("skew", [0, 1])
async def test_a_sign_in_is_begun_here_and_finished_there(clock: TestClock, skew: int) -> None:
    """Page, sign-in, consent, code, refresh and revocation in turns; the other process knows within five seconds."""
    store = YieldingStore(clock)
    here, there = build(store, clock), build(store, clock)
    await here.tenants.create("acme", "Acme")
    ada = await there.users.create("ada@acme.example", PASSWORD, "acme", frozenset({"admin"}))
    transport = InTurns(Starlette(routes=routes(here)), Starlette(routes=routes(there)))
    async with httpx2.AsyncClient(transport=transport, base_url=ISSUER, trust_env=False) as http:
        desk = Desk(here, clock, store, http, ada)
        client = await desk.public_client()
        for _ in range(skew):
            await http.get("/oauth/jwks")
        issued = await desk.tokens(client)
        again = (await desk.refresh(client, issued["refresh_token"])).json()
        for each in (here, there):
            assert (await each.verifier.verify(again["access_token"])).principal.subject == ada.id
        revoked = await http.post("/oauth/revoke", data={"token": again["refresh_token"], "client_id": client.id})
        assert revoked.status_code == 200
        clock.advance(5)
        for each in (here, there):
            with pytest.raises(Denied):
                await each.verifier.verify(again["access_token"])
            assert (await desk.refresh(client, again["refresh_token"])).json()["error"] == "invalid_grant"
    assert transport.sent >= 9


async def test_a_code_is_burned_for_both(clock: TestClock) -> None:
    """Redeemed here, it is a replay there, and ends the grant."""
    store = YieldingStore(clock)
    here, there = build(store, clock), build(store, clock)
    await here.tenants.create("acme", "Acme")
    ada = await here.users.create("ada@acme.example", PASSWORD, "acme", frozenset({"admin"}))
    transport = InTurns(Starlette(routes=routes(here)), Starlette(routes=routes(there)))
    async with httpx2.AsyncClient(transport=transport, base_url=ISSUER, trust_env=False) as http:
        desk = Desk(here, clock, store, http, ada)
        client = await desk.public_client()
        code = await desk.code(client)
        first = await desk.redeem(client, code)
        second = await desk.redeem(client, code)
    assert (first.status_code, second.json()["error"]) == (200, "invalid_grant")
    clock.advance(5)
    with pytest.raises(Denied):
        await there.verifier.verify(first.json()["access_token"])
