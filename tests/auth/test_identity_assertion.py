"""People whom a company's identity provider vouches for: who gets a token for whom, and what never becomes one."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from joserfc.jwk import ECKey, RSAKey
from mcp import Client as McpClient
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp_agents_auth.clients import JWT_BEARER, Client
from mcp_agents_auth.embedded import Newcomers
from mcp_agents_auth.identity_assertion import LONGEST_SECONDS, PROFILE, Provider
from mcp_agents_auth.issuer_keys import IssuerKeys
from mcp_agents_auth.oauth import OAuthError

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.scopes import ROLES
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.fetching import GuardedFetch
from tests.auth.desk import ISSUER, PASSWORD, RESOURCE, Desk, YieldingStore, build, opened
from tests.auth.test_dpop import at, proof
from tests.auth.test_external import confused, unsigned
from tests.support.clock import TestClock
from tests.support.identity_provider import IdentityProvider
from tests.support.served import served as house_served
from tests.support.tool_servers.served import served

ANN = {"sub": "okta|ann", "email": "ann@acme.example"}
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "first"})
CURVED = ECKey.generate_key("P-256", {"kid": "curved"})
TYPE = {"typ": "oauth-id-jag+jwt"}


@dataclass
class Company:
    """A desk that trusts a provider for `acme`, a client of that tenant, and Ann, an operator of it."""

    desk: Desk
    provider: IdentityProvider
    client: Client
    secret: str

    def assertion(self, *args: Any, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good one for Ann, with changes; None leaves a claim out."""
        now = int(self.desk.clock.now().timestamp())
        usual = {"aud": ISSUER, "client_id": self.client.id, "resource": RESOURCE, "now": now, "exp": now + 300}
        return self.provider.token(*args, header={**TYPE, **(header or {})}, **{**usual, **claims})

    async def ask(self, assertion: str, *, headers: dict[str, str] | None = None, **more: str) -> httpx2.Response:
        """The token endpoint's answer."""
        form = {"grant_type": JWT_BEARER, "assertion": assertion, "client_id": self.client.id}
        given = {**form, "client_secret": self.secret, **more}
        return await self.desk.token({name: value for name, value in given.items() if value}, headers=headers or {})

    async def token(self, assertion: str, **more: str) -> dict[str, Any]:
        """A good answer's body."""
        answered = await self.ask(assertion, **more)
        assert answered.status_code == 200, answered.text
        body: dict[str, Any] = answered.json()
        return body


@pytest.fixture
async def company(clock: TestClock) -> AsyncIterator[Company]:
    """The company and its provider, on a real port."""
    async with (
        trusting(clock) as (newcomers, provider),
        opened(YieldingStore(clock), clock, newcomers=newcomers) as desk,
    ):
        await desk.auth.users.create("ann@acme.example", PASSWORD, "acme", frozenset({"operator"}))
        client, secret = await desk.auth.clients.register(
            "acme", "Suite", grant_types=frozenset({JWT_BEARER}), roles=frozenset({"developer"}), confidential=True
        )
        assert secret is not None
        yield Company(desk, provider, client, secret)


@asynccontextmanager
async def trusting(clock: TestClock) -> AsyncIterator[tuple[Newcomers, IdentityProvider]]:
    """A provider that speaks for `acme`."""
    provider = IdentityProvider(person=dict(ANN))
    async with served(provider.application()) as port:
        provider.issuer = f"http://127.0.0.1:{port}"
        fetch = GuardedFetch(AddressRule(allowed_origins=frozenset({provider.issuer})))
        keys = IssuerKeys(provider.issuer, fetch, clock)
        yield Newcomers(fetch=None, providers={provider.issuer: Provider("acme", keys)}), provider


async def test_a_client_gets_a_token_for_a_member(company: Company) -> None:
    """For the member of that address, within their roles and the client's, and nothing to refresh it with."""
    body = await company.token(company.assertion())
    assert "refresh_token" not in body
    known = await company.desk.auth.verifier.verify(body["access_token"])
    ann = await company.desk.auth.users.find("ann@acme.example")
    assert ann is not None
    assert (known.principal.subject, known.principal.tenant) == (ann.id, "acme")
    assert known.principal.client == company.client.id
    assert known.principal.scopes == ROLES["operator"] & ROLES["developer"]
    assert known.resource == RESOURCE


@pytest.mark.parametrize(
    ("asserted", "requested", "given"),
    [
        ("agents:read executions:run", "", {"agents:read", "executions:run"}),
        ("agents:read executions:run openid", "agents:read", {"agents:read"}),
        ("agents:read", "agents:read executions:run", {"agents:read"}),
        (None, "executions:run tenancy:admin platform:admin", {"executions:run"}),
    ],
)
async def test_scopes_are_what_all_of_them_allow(
    company: Company, asserted: str | None, requested: str, given: set[str]
) -> None:
    """The provider, the client that asks, what the client may have, and the person's roles."""
    body = await company.token(company.assertion(scope=asserted), scope=requested)
    assert set(body["scope"].split()) == given


async def test_nothing_left_is_refused(company: Company) -> None:
    """A token that opens nothing is none."""
    answered = await company.ask(company.assertion(scope="tenancy:admin"))
    assert (answered.status_code, answered.json()["error"]) == (400, "invalid_scope")


def crafted(company: Company) -> dict[str, str]:
    """Assertions that must not become a token."""
    now, good = int(company.desk.clock.now().timestamp()), company.assertion()
    head, body, mark = good.split(".")
    ask = company.assertion
    return {
        "another audience": ask(aud="https://other.example"),
        "the resource as audience": ask(aud=RESOURCE),
        "audience with a slash": ask(aud=f"{ISSUER}/"),
        "two audiences": ask(aud=[ISSUER, "https://other.example"]),
        "no audience": ask(aud=None),
        "another client": ask(client_id="cl_06f0a1b2c3d4e5f6g7h8i9jkl0"),
        "no client": ask(client_id=None),
        "clients": ask(client_id=[company.client.id]),
        "expired": ask(exp=now),
        "long expired": ask(now=now - 10_000, exp=now - 9_000),
        "never expires": ask(exp=None),
        "expires as text": ask(exp=str(now + 300)),
        "expires at no number": ask(exp=float("nan")),
        "never indeed": ask(exp=float("inf")),
        "good for too long": ask(exp=now + LONGEST_SECONDS + 31),
        "not yet": ask(nbf=now + 31),
        "from the future": ask(iat=now + 31),
        "no beginning": ask(iat=None),
        "no id": ask(jti=None),
        "id of a number": ask(jti=7),
        "empty id": ask(jti=""),
        "long id": ask(jti="j" * 1025),
        "no resource": ask(resource=None),
        "resources": ask(resource=[RESOURCE]),
        "no address": ask(email=None),
        "address not verified": ask(email_verified=False),
        "address verified by a word": ask(email_verified="true"),
        "addresses": ask(email=["ann@acme.example"]),
        "scope as a list": ask(scope=["agents:read"]),
        "bound to a key": ask(cnf={"jkt": "x"}),
        "nobody": ask(email="nobody@acme.example"),
        "somebody of another tenant": ask(email="eve@other.example"),
        "somebody suspended": ask(email="sue@acme.example"),
        "another issuer": ask(iss="https://other.example"),
        "issuers": ask(iss=[company.provider.issuer]),
        "no issuer": ask(iss=None),
        "an access token": ask(header={"typ": "at+jwt"}),
        "an ID token": ask(header={"typ": "JWT"}),
        "no type": ask(header={"typ": None}),
        "another key": ask(OTHER_KEY),
        "unknown key": ask(CURVED),
        "no key id": ask(header={"kid": None}),
        "key brought along": ask(OTHER_KEY, header={"jwk": OTHER_KEY.as_dict(private=False)}),
        "key elsewhere": ask(header={"jku": "https://evil.example/keys"}),
        "unsigned": unsigned(good, alg="none", typ="oauth-id-jag+jwt"),
        "public key as secret": confused(good, company.provider.keys[0]),
        "signature cut off": f"{head}.{body}.",
        "body of another": f"{head}.{ask(email='ada@acme.example').split('.')[1]}.{mark}",
        "two parts": f"{head}.{body}",
        "too long": good + "A" * 9000,
        "not ASCII": good[:-1] + "é",
        "JSON": json.dumps({"iss": company.provider.issuer}),
        "dots": "..",
    }  # fmt: skip


async def test_nothing_crafted_becomes_a_token(company: Company) -> None:
    """Over fifty of them; people who are not there, not members or suspended are told apart from nobody."""
    users = company.desk.auth.users
    await company.desk.auth.tenants.create("other")
    await users.create("eve@other.example", PASSWORD, "other", frozenset({"admin"}))
    sue = await users.create("sue@acme.example", PASSWORD, "acme", frozenset({"admin"}))
    await users.set_suspended(sue.id, "acme", suspended=True)
    tried = crafted(company)
    assert len(tried) > 50
    said = {}
    for name, assertion in tried.items():
        answered = await company.ask(assertion)
        assert (answered.status_code, answered.json()["error"]) == (400, "invalid_grant"), name
        said[name] = answered.json()["error_description"]
    assert said["nobody"] == said["somebody of another tenant"] == said["somebody suspended"]
    await company.token(company.assertion())


async def test_who_may_ask(company: Company) -> None:
    """A client that proves itself, has this grant, and is of the provider's tenant."""
    auth = company.desk.auth
    refused = await company.ask(company.assertion(), client_secret="wrong")
    assert refused.json()["error"] == "invalid_client"
    machine, secret = await company.desk.machine()
    without = await company.ask(company.assertion(client_id=machine.id), client_id=machine.id, client_secret=secret)
    assert without.json()["error"] == "unauthorized_client"
    await auth.tenants.create("other")
    theirs, theirs_secret = await auth.clients.register(
        "other", "Theirs", grant_types=frozenset({JWT_BEARER}), roles=frozenset({"admin"}), confidential=True
    )
    foreign = await company.ask(
        company.assertion(client_id=theirs.id), client_id=theirs.id, client_secret=str(theirs_secret)
    )
    assert foreign.json()["error"] == "unauthorized_client"


async def test_the_resource_is_one_of_ours_and_the_one_that_was_asserted(company: Company) -> None:
    """Neither another of ours than was asserted, nor somebody else's."""
    for claim, parameter in ((RESOURCE, f"{RESOURCE}/all"), ("https://other.example/mcp", "")):
        answered = await company.ask(company.assertion(resource=claim), resource=parameter)
        assert answered.json()["error"] == "invalid_target"
    body = await company.token(company.assertion(resource=f"{RESOURCE}/all"), resource=f"{RESOURCE}/all")
    assert (await company.desk.auth.verifier.verify(body["access_token"])).resource == f"{RESOURCE}/all"


async def test_an_assertion_is_used_once_wherever_it_is_shown(company: Company, clock: TestClock) -> None:
    """Twenty copies at two processes: one token."""
    newcomers = Newcomers(fetch=None, providers=company.desk.auth.assertions._providers)
    other = build(company.desk.store, clock, newcomers=newcomers)
    assertion, got, refused = company.assertion(), list[Any](), list[str]()
    parameters = {
        "grant_type": JWT_BEARER, "assertion": assertion,
        "client_id": company.client.id, "client_secret": company.secret,
    }  # fmt: skip

    async def show(process: Any) -> None:
        try:
            got.append(await process.service.token(parameters, None))
        except OAuthError as error:
            refused.append(error.description)

    async with anyio.create_task_group() as crowd:
        for number in range(20):
            crowd.start_soon(show, (company.desk.auth, other)[number % 2])
    assert len(got) == 1
    assert set(refused) == {"The assertion is refused for having been used before."}


@pytest.mark.parametrize("how", ["suspended", "removed", "client"])
async def test_it_ends_with_its_person_and_its_client(company: Company, how: str) -> None:
    """Within the five seconds of every other token."""
    auth = company.desk.auth
    token = (await company.token(company.assertion()))["access_token"]
    ann = (await auth.verifier.verify(token)).principal.subject
    if how == "suspended":
        await auth.users.set_suspended(ann, "acme", suspended=True)
    elif how == "removed":
        await auth.users.leave(ann, "acme")
    else:
        await auth.clients.revoke("acme", company.client.id)
    company.desk.clock.advance(5)
    with pytest.raises(Denied):
        await auth.verifier.verify(token)


async def test_a_token_can_be_bound_to_a_key(company: Company) -> None:
    """As with every other grant."""
    headers = {"DPoP": proof(at(company.desk))}
    answered = await company.ask(company.assertion(), headers=headers)
    assert answered.json()["token_type"] == "DPoP"


async def test_it_is_offered_only_where_somebody_is_trusted(company: Company, clock: TestClock) -> None:
    """The metadata says so; elsewhere there is no such grant."""
    document = (await company.desk.http.get("/.well-known/oauth-authorization-server")).json()
    assert document["authorization_grant_profiles_supported"] == [PROFILE]
    assert JWT_BEARER in document["grant_types_supported"]
    async with opened(YieldingStore(clock), clock) as plain:
        document = (await plain.http.get("/.well-known/oauth-authorization-server")).json()
        assert "authorization_grant_profiles_supported" not in document
        assert JWT_BEARER not in document["grant_types_supported"]
        client, secret = await plain.auth.clients.register(
            "acme", "Suite", grant_types=frozenset({JWT_BEARER}), roles=frozenset({"developer"}), confidential=True
        )
        form = {"grant_type": JWT_BEARER, "assertion": "x", "client_id": client.id, "client_secret": str(secret)}
        assert (await plain.token(form)).json()["error"] == "unsupported_grant_type"


class Memory:
    """What the official client keeps."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    async def get_tokens(self) -> Any:
        return self.kept.get("tokens")

    async def set_tokens(self, tokens: Any) -> None:
        self.kept["tokens"] = tokens

    async def get_client_info(self) -> Any:
        return self.kept.get("client")

    async def set_client_info(self, client_info: Any) -> None:
        self.kept["client"] = client_info


async def test_the_official_client_comes_in_on_an_assertion(tmp_path: Path) -> None:
    """A served house on real NATS, from its settings; the SDK's client does the rest."""
    provider = IdentityProvider(person=dict(ANN))
    async with served(provider.application()) as port:
        provider.issuer = f"http://127.0.0.1:{port}"
        settings = {"identity_providers": [f"acme={provider.issuer}"]}
        async with house_served(tmp_path, auth=settings) as running:
            auth = running.house.auth
            await auth.tenants.create("acme")
            ann = await auth.users.create("ann@acme.example", PASSWORD, "acme", frozenset({"developer"}))
            client, secret = await auth.clients.register(
                "acme", "Suite", grant_types=frozenset({JWT_BEARER}), roles=frozenset({"admin"}), confidential=True
            )

            async def vouched(audience: str, resource: str) -> str:
                return provider.token(header=TYPE, aud=audience, resource=resource, client_id=client.id)

            url = f"{running.url}/mcp/all"
            sign_in = IdentityAssertionOAuthProvider(
                server_url=url,
                storage=Memory(),
                client_id=client.id,
                client_secret=str(secret),
                issuer=running.url,
                assertion_provider=vouched,
            )
            async with (
                httpx2.AsyncClient(auth=sign_in, timeout=60, trust_env=False) as http,
                McpClient(streamable_http_client(url, http_client=http)) as me,
            ):
                made = await me.call_tool("agent_create", {"name": "adder"})
                assert not made.is_error, made
                agent = (made.structured_content or {})["id"]
                events = await me.call_tool("agent_execute", {"agent": agent, "prompt": "say hello"})
                run = (events.structured_content or {})["execution_id"]
                page = await me.call_tool("execution_events", {"execution_id": run, "limit": 1})
    caller = (page.structured_content or {})["events"][0]["body"]["caller"]
    assert (caller["subject"], caller["client"]) == (ann.id, client.id)
