"""Too many requests: by address, by client, by tenant, at every door; and from where a request is said to come."""

from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_agents.server.addresses import address_of
from tests.hostile.wire import Wire, browserless
from tests.support.clock import AheadClock
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio

FEW = 8
PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def requested(peer: str | None, *forwarded: str) -> dict[str, Any]:
    """A request's scope."""
    headers = [(b"x-forwarded-for", each.encode("latin-1")) for each in forwarded]
    return {"type": "http", "client": (peer, 1) if peer is not None else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.7",), "192.0.2.1"),  # nobody we trust says so
        ("10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("203.0.113.9, 198.51.100.7",), "198.51.100.7"),  # what the caller itself wrote before
        ("10.0.0.1", ("203.0.113.9", "198.51.100.7"), "198.51.100.7"),
        ("10.0.0.1", ("198.51.100.7, 10.1.1.1",), "198.51.100.7"),
        ("10.0.0.1", ("10.2.2.2, 10.1.1.1",), "10.2.2.2"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("nonsense, 198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("198.51.100.7, nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", (), "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", (), "2001:db8:1:2::/64"),
        ("fd00::1", ("2001:db8:9:9::1",), "2001:db8:9:9::/64"),
        ("::ffff:192.0.2.1", (), "192.0.2.1"),
        ("::ffff:10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        (None, (), "unknown"),
        ("/a/socket", (), "unknown"),
    ],
)
def test_where_a_request_comes_from(peer: str | None, forwarded: tuple[str, ...], address: str) -> None:
    """The last hop that nobody we trust has added."""
    assert address_of(requested(peer, *forwarded), PROXIES) == address


@pytest.fixture
async def clock() -> AheadClock:
    """Time that can be let pass, at the beginning of a minute."""
    clock = AheadClock()
    clock.advance(60 - clock.now().timestamp() % 60)
    return clock


async def statuses(send: Any, number: int = FEW + 3) -> list[int]:
    """What one request after the other is answered."""
    return [(await send()).status_code for _ in range(number)]


@pytest.fixture
async def strict(tmp_path: Path, clock: AheadClock) -> AsyncIterator[tuple[Served, httpx2.AsyncClient]]:
    """A house that allows eight of everything."""
    limits = {
        "token_per_address": FEW, "token_per_client": 0, "sign_in_per_address": FEW, "calls_per_address": FEW,
        "calls_per_client": 0, "calls_per_tenant": 0,
    }  # fmt: skip
    async with served(tmp_path, clock=clock, limits=limits) as house, browserless() as http:
        yield house, http


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/oauth/token"),
        ("POST", "/oauth/revoke"),
        ("POST", "/oauth/introspect"),
        ("POST", "/oauth/sign-in"),
        ("POST", "/oauth/consent"),
        ("POST", "/oauth/invitation"),
        ("POST", "/mcp"),
        ("GET", "/mcp/all"),
        ("POST", "/mcp/agent/anything"),
        ("POST", "/mcp/nothing/there"),
    ],
)
async def test_every_door_counts_addresses(
    strict: tuple[Served, httpx2.AsyncClient], clock: AheadClock, method: str, path: str
) -> None:
    """One too many is 429 with a time; in the next minute it goes on; what is only read is not counted."""
    house, http = strict

    async def send() -> httpx2.Response:
        return await http.request(method, house.url + path, data={"a": "b"} if method == "POST" else None)

    found = await statuses(send)
    assert 429 not in found[:FEW]
    assert found[FEW:] == [429] * 3
    refused = await send()
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "RATE_LIMITED"
    for free in ("/livez", "/oauth/jwks", "/.well-known/oauth-authorization-server"):
        assert (await http.get(house.url + free)).status_code == 200
    clock.advance(60)
    assert (await send()).status_code != 429


@pytest.mark.parametrize("kind", ["calls_per_client", "calls_per_tenant"])
async def test_calls_of_a_caller_and_of_a_tenant_are_counted(tmp_path: Path, clock: AheadClock, kind: str) -> None:
    """Over two houses on one store together; another tenant notices nothing."""
    limits = {kind: 32}
    async with (
        served(tmp_path / "data", clock=clock, limits=limits) as house,
        browserless() as http,
    ):
        mine = [Wire(http, house.url, await house.token("acme")) for _ in range(2)]
        found = [(await mine[number % 2].call("agent_list", {})).status for number in range(40)]
        assert found == [200] * 32 + [429] * 8
        refused = await mine[0].call("agent_list", {})
        assert b"RATE_LIMITED" in refused.body
        other = Wire(http, house.url, await house.token("other"))
        assert (await other.call("agent_list", {})).status == 200
        clock.advance(60)
        assert (await mine[0].call("agent_list", {})).status == 200


async def test_only_a_client_that_proves_itself_uses_up_its_limit(tmp_path: Path, clock: AheadClock) -> None:
    """Whoever merely names it can keep nobody from their tokens."""
    async with served(tmp_path, clock=clock, limits={"token_per_client": FEW}) as house, browserless() as http:
        await house.house.auth.tenants.create("acme")
        client, secret = await house.house.auth.clients.register(
            "acme",
            "machine",
            grant_types=frozenset({"client_credentials"}),
            roles=frozenset({"viewer"}),
            confidential=True,
        )

        async def ask(given: str) -> httpx2.Response:
            form = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": given}
            return await http.post(f"{house.url}/oauth/token", data=form)

        assert await statuses(lambda: ask("wrong"), 30) == [401] * 30
        assert await statuses(lambda: ask(secret or "")) == [200] * FEW + [429] * 3
        refused = await ask(secret or "")
        assert refused.json()["error"] == "temporarily_unavailable"
        assert int(refused.headers["retry-after"]) >= 1
