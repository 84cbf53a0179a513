"""The authorization server on a desk: in memory, driven over HTTP, with a clock and a browser that tests own."""

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakKeyDictionary

import anyio.lowlevel
import httpx2
from argon2 import PasswordHasher
from mcp_agents_auth.clients import Client
from mcp_agents_auth.embedded import AuthServer, build_auth
from mcp_agents_auth.handles import challenge_of
from mcp_agents_auth.http import routes
from mcp_agents_auth.passwords import Passwords
from mcp_agents_auth.users import User
from starlette.applications import Starlette

from mcp_agents.adapters.memory_log import MemoryLog
from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.store import Bucket, Record
from mcp_agents.kernel.tenancy import Doors, PlatformSpace, Tenancy
from mcp_agents.security.keys import MasterKey, Vault
from tests.support.clock import TestClock

ISSUER = "https://agents.example"
RESOURCE = f"{ISSUER}/mcp"
REDIRECT = "https://app.example/callback"
PASSWORD = "correct horse battery"
VERIFIER = "v" * 43


_LOGS: WeakKeyDictionary[MemoryStore, MemoryLog] = WeakKeyDictionary()


class YieldingStore(MemoryStore):
    """Lets every other task run before each step, as a network would: races really interleave.

    A key that NATS would not take as one subject fails the test that let it through.
    """

    async def get(self, bucket: Bucket, key: str) -> Record | None:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", key), key
        await anyio.lowlevel.checkpoint()
        return await super().get(bucket, key)

    async def write(self, bucket: Bucket, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        await anyio.lowlevel.checkpoint()
        return await super().write(bucket, key, value, revision=revision, ttl=ttl)


def log_of(store: MemoryStore) -> MemoryLog:
    """The log that goes with a store."""
    return _LOGS.setdefault(store, MemoryLog())


def tenancy_over(store: MemoryStore, clock: TestClock) -> Tenancy:
    """Spaces over a store and the log that goes with it; the other three doors stay shut."""
    shut = cast(Any, None)
    return Tenancy(Doors(store, log_of(store), shut, shut, shut, clock, NoFaults()))


def platform(store: MemoryStore, clock: TestClock) -> PlatformSpace:
    """The platform's space over a store."""
    return tenancy_over(store, clock).platform()


def quick_passwords() -> Passwords:
    """The same hashing, at a cost that tests can pay."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


def build(
    store: MemoryStore,
    clock: TestClock,
    *,
    issuer: str = ISSUER,
    master: bytes = b"k" * 32,
    **more: Any,
) -> AuthServer:
    """One process's authorization server over a store that others may share; `more` is for `build_auth`."""
    vault, space = Vault(MasterKey(master)), platform(store, clock)
    return build_auth(space, vault, clock, issuer, f"{issuer}/mcp", passwords=quick_passwords(), **more)


@dataclass
class Desk:
    """A server with tenant `acme`, its admin Ada, and a browser."""

    auth: AuthServer
    clock: TestClock
    store: MemoryStore
    http: httpx2.AsyncClient
    ada: User

    async def public_client(self, tenant: str = "acme", redirect: str = REDIRECT, **more: Any) -> Client:
        """A registered public client with every scope of a tenant unless told otherwise."""
        more.setdefault("roles", frozenset({"admin"}))
        client, _ = await self.auth.clients.register(tenant, "App", redirect_uris=(redirect,), **more)
        return client

    async def machine(self, tenant: str = "acme", **more: Any) -> tuple[Client, str]:
        """A confidential client for client credentials, with its secret."""
        more.setdefault("roles", frozenset({"operator"}))
        client, secret = await self.auth.clients.register(
            tenant, "Machine", grant_types=frozenset({"client_credentials"}), confidential=True, **more
        )
        assert secret is not None
        return client, secret

    def query(self, client: Client, **changes: str | None) -> dict[str, str]:
        """The parameters of a good authorization request, with changes; None leaves one out."""
        parameters: dict[str, str | None] = {
            "response_type": "code",
            "client_id": client.id,
            "redirect_uri": client.redirect_uris[0] if client.redirect_uris else REDIRECT,
            "state": "st4te",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            **changes,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    async def authorize(self, parameters: dict[str, str]) -> httpx2.Response:
        """The authorization endpoint's answer, not followed."""
        return await self.http.get("/oauth/authorize", params=parameters)

    async def sign_in(self, email: str = "ada@acme.example", password: str = PASSWORD) -> httpx2.Response:
        """Signs the browser in through the page."""
        page = await self.http.get("/oauth/sign-in")
        data = {"csrf": hidden(page, "csrf"), "email": email, "password": password}
        return await self.http.post("/oauth/sign-in", data=data)

    async def consent(self, parameters: dict[str, str], **changes: str) -> httpx2.Response:
        """Opens the consent page, signed in, and says yes in `acme`; `changes` replace form fields."""
        page = await self.authorize(parameters)
        assert page.status_code == 200, page.text
        form = {"csrf": hidden(page, "csrf"), "request": hidden(page, "request"), "tenant": "acme"}
        return await self.http.post("/oauth/consent", data=form | {"decision": "approve"} | changes)

    async def code(self, client: Client, **changes: str | None) -> str:
        """A fresh code, all the way through sign-in and consent."""
        await self.sign_in()
        return answer(await self.consent(self.query(client, **changes)))["code"]

    async def redeem(self, client: Client, code: str, **changes: str | None) -> httpx2.Response:
        """The token endpoint's answer to a code."""
        parameters: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "client_id": client.id,
            "code": code,
            "redirect_uri": client.redirect_uris[0],
            "code_verifier": VERIFIER,
            **changes,
        }
        return await self.token({name: value for name, value in parameters.items() if value is not None})

    async def refresh(self, client: Client, token: str, **more: str) -> httpx2.Response:
        """The token endpoint's answer to a refresh token."""
        return await self.token({"grant_type": "refresh_token", "client_id": client.id, "refresh_token": token, **more})

    async def token(self, parameters: dict[str, str], **more: Any) -> httpx2.Response:
        """The token endpoint's answer."""
        return await self.http.post("/oauth/token", data=parameters, **more)

    async def tokens(self, client: Client, **changes: str | None) -> dict[str, Any]:
        """A whole token response out of a code flow."""
        answered = await self.redeem(client, await self.code(client, **changes))
        assert answered.status_code == 200, answered.text
        return cast(dict[str, Any], answered.json())


@asynccontextmanager
async def opened(store: MemoryStore, clock: TestClock, issuer: str = ISSUER, **more: Any) -> AsyncIterator[Desk]:
    """A desk over a store; `more` is for `build_auth`."""
    auth = build(store, clock, issuer=issuer, **more)
    await auth.tenants.create("acme", "Acme")
    ada = await auth.users.create("ada@acme.example", PASSWORD, "acme", frozenset({"admin"}))
    transport = httpx2.ASGITransport(app=Starlette(routes=routes(auth)))
    async with httpx2.AsyncClient(transport=transport, base_url=issuer, trust_env=False) as http:
        yield Desk(auth, clock, store, http, ada)


def hidden(page: httpx2.Response, name: str) -> str:
    """The value of a hidden field of a page."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


def answer(response: httpx2.Response) -> dict[str, str]:
    """The parameters with which the browser was sent to the client's redirect URI."""
    assert response.status_code == 303, response.text
    location = response.headers["location"]
    assert location.startswith((REDIRECT, "http://127.0.0.1", "http://localhost")), location
    return dict(parse_qsl(urlsplit(location).query, strict_parsing=True))


def encoded(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """A body in which names may be repeated."""
    return {"content": urlencode(pairs), "headers": {"content-type": "application/x-www-form-urlencoded"}}
