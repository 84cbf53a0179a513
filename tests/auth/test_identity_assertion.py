"""Identity assertions (ID-JAG) at a whole house on real NATS, from identity providers on ports of their own."""

import base64
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, RSAKey
from mcp.client.auth import OAuthTokenError
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.client import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp_agents_auth.client_auth import ASSERTION_TYPE
from mcp_agents_auth.clients import JWT_BEARER, Client, GrantType
from mcp_agents_auth.families import Family
from mcp_agents_auth.identity_assertion import LONGEST_SECONDS, PROFILE, UsedIdentity
from mcp_agents_auth.issuer_keys import COOL_SECONDS
from mcp_agents_auth.users import User

from mcp_agents.kernel.errors import Denied, Invalid
from mcp_agents.kernel.scopes import ROLES
from mcp_agents.server.config import load
from tests.auth.test_client_assertions import public, signed
from tests.auth.test_dpop import proof
from tests.hostile.wire import Wire, browserless
from tests.server.test_journey import Memory
from tests.support.clock import AheadClock
from tests.support.identity_provider import IdentityProvider
from tests.support.served import Served, served
from tests.support.tool_servers import served as ports

pytestmark = pytest.mark.anyio

WIDE = " ".join(sorted(ROLES["admin"]))
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "first"})
STRANGE_KEY = RSAKey.generate_key(2048, {"kid": "strange"})
OWN_KEY = ECKey.generate_key("P-256")
NOBODY = "The assertion names nobody who may sign in this way here."


@dataclass
class There:
    """Two replicas under one address; `acme` has the provider `ours`, `globex` has `theirs`."""

    one: Served
    other: Served
    ours: IdentityProvider
    theirs: IdentityProvider
    clock: AheadClock
    http: httpx2.AsyncClient

    @property
    def url(self) -> str:
        """The address of both."""
        return self.one.url

    async def member(self, *roles: str, tenant: str = "acme") -> User:
        """Somebody new."""
        email = f"s{token_hex(6)}@{tenant}.example"
        return await self.one.house.auth.users.create(email, None, tenant, frozenset(roles or ("developer",)))

    async def client(self, tenant: str = "acme", *roles: str) -> tuple[Client, str]:
        """A confidential client that may show assertions, with its secret."""
        grants = frozenset[GrantType]({JWT_BEARER})
        client, secret = await self.one.house.auth.clients.register(
            tenant, "Desk", grant_types=grants, roles=frozenset(roles or ("developer",)), confidential=True
        )
        assert secret is not None
        return client, secret

    def said(self, who: User, client: Client, *key: Any, by: IdentityProvider | None = None, **claims: Any) -> str:
        """A good assertion of the provider's about somebody, with changes; None leaves a claim out."""
        good = {
            "sub": f"s-{who.id}", "email": who.email, "aud": self.url, "client_id": client.id, "scope": WIDE,
            "resource": f"{self.url}/mcp", "now": self.clock.now().timestamp(), "tenant": None, "groups": None,
        }  # fmt: skip
        header = {"typ": "oauth-id-jag+jwt", **claims.pop("header", {})}
        return (by or self.ours).token(*key, header=header, **{**good, **claims})

    async def shown(
        self, assertion: str, client: Client, secret: str, at: Served | None = None, **more: str
    ) -> httpx2.Response:
        """What a replica's token endpoint says to it."""
        form = {"grant_type": JWT_BEARER, "assertion": assertion, "client_id": client.id, "client_secret": secret}
        return await self.http.post(f"{(at or self.one).url}/oauth/token", data=form | more)

    async def written(self) -> tuple[int, int]:
        """How many assertions are remembered, and how many grants there are."""
        platform = self.one.house.tenancy.platform()
        used, families = (
            platform.records("cb_auth", "identity", kind=UsedIdentity),
            platform.records("cb_auth", "family", kind=Family),
        )
        return len(await used.all()), len(await families.all())


@pytest.fixture(scope="module")
async def there(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[There]:
    """Everything on ports of this machine."""
    folder: Path = tmp_path_factory.mktemp("house")
    ours, theirs, clock = IdentityProvider(), IdentityProvider(), AheadClock()
    theirs.keys = [RSAKey.generate_key(2048, {"kid": "theirs"})]
    async with AsyncExitStack() as stack:
        for provider in (ours, theirs):
            port = await stack.enter_async_context(ports.served(provider.application(), lifespan="off"))
            provider.issuer = f"http://127.0.0.1:{port}"
        listed = [{"issuer": ours.issuer, "tenant": "acme"}, {"issuer": theirs.issuer, "tenant": "globex"}]
        common: dict[str, Any] = {"clock": clock, "auth": {"identity_providers": listed}, "workers": 0}
        one = await stack.enter_async_context(served(folder, **common))
        other = await stack.enter_async_context(served(folder, public_url=one.url, **common))
        http = await stack.enter_async_context(browserless())
        for tenant in ("acme", "globex"):
            await one.house.auth.tenants.create(tenant)
        yield There(one, other, ours, theirs, clock, http)


async def test_an_assertion_is_worth_an_ordinary_token_of_its_person(there: There) -> None:
    """For exactly the resource that it names, an hour, without a refresh token, and good for a call."""
    who, (client, secret) = await there.member(), await there.client()
    await there.one.house.auth.users.set_password(who.id, "correct horse battery")
    answered = await there.shown(there.said(who, client, resource=f"{there.url}/mcp/all"), client, secret)
    body = answered.json()
    assert answered.status_code == 200, answered.text
    assert answered.headers["cache-control"] == "no-store"
    assert (body["token_type"], body["expires_in"], body["tenant"]) == ("Bearer", 3600, "acme")
    assert body["scope"].split() == sorted(ROLES["developer"])
    assert "refresh_token" not in body
    token = await there.one.house.auth.verifier.verify(body["access_token"])
    assert (token.principal.subject, token.principal.client) == (who.id, client.id)
    assert (token.resource, token.principal.roles) == (f"{there.url}/mcp/all", {"developer"})
    assert (await Wire(there.http, there.url, body["access_token"]).call("agent_list", {})).status == 200


async def test_the_official_client_gets_in_without_a_browser(there: There) -> None:
    """It finds the token endpoint by our metadata, and calls; what we refuse, it says."""
    who, (client, secret) = await there.member(), await there.client()

    async def provide(audience: str, resource: str) -> str:
        return there.said(who, client, aud=audience, resource=resource)

    async def provide_none(audience: str, _: str) -> str:
        return there.said(who, client, aud=f"{audience}/")

    async def tools(provider: Callable[[str, str], Awaitable[str]], scope: str | None = None) -> set[str]:
        where = f"{there.url}/mcp/all"
        auth = IdentityAssertionOAuthProvider(where, Memory(client.id), client.id, secret, there.url, provider, scope)
        async with (
            httpx2.AsyncClient(auth=auth, trust_env=False) as http,
            McpClient(streamable_http_client(where, http_client=http)) as session,
        ):
            return {tool.name for tool in (await session.list_tools()).tools}

    every = await tools(provide)
    assert {"agent_list", "agent_create"} <= every
    assert "agent_create" not in await tools(provide, "agents:read executions:read")
    with pytest.RaisesGroup(
        pytest.RaisesExc(OAuthTokenError, match="invalid_grant"), allow_unwrapped=True, flatten_subgroups=True
    ):
        await tools(provide_none)


async def test_the_metadata_names_the_grant_where_there_is_a_provider(there: There, tmp_path: Path) -> None:
    """And nowhere else; there the grant does not exist."""
    for name in ("oauth-authorization-server", "openid-configuration"):
        document = (await there.http.get(f"{there.url}/.well-known/{name}")).json()
        assert JWT_BEARER in document["grant_types_supported"]
        assert document["authorization_grant_profiles_supported"] == [PROFILE]
    async with served(tmp_path, workers=0) as without:
        document = (await there.http.get(f"{without.url}/.well-known/oauth-authorization-server")).json()
        assert JWT_BEARER not in document["grant_types_supported"]
        assert "authorization_grant_profiles_supported" not in document
        await without.house.auth.tenants.create("acme")
        client, secret = await without.house.auth.clients.register(
            "acme", "x", grant_types=frozenset({JWT_BEARER}), roles=frozenset({"viewer"}), confidential=True
        )
        refused = await there.shown("x.y.z", client, secret or "", without)
        assert refused.json()["error"] == "unsupported_grant_type"


def unsigned(token: str, **header: Any) -> str:
    """The same claims with another header and no signature."""
    head = {"typ": "oauth-id-jag+jwt", "kid": "first", **header}
    text = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()
    return f"{text}.{token.split('.')[1]}."


def confused(token: str, key: RSAKey) -> str:
    """Signed with the public key as if it were a shared secret."""
    public_key = key.raw_value.public_key() if isinstance(key.raw_value, rsa.RSAPrivateKey) else key.raw_value
    secret = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = unsigned(token, alg="HS256")[:-1]
    mac = base64.urlsafe_b64encode(hmac.digest(secret, body.encode(), "sha256")).rstrip(b"=").decode()
    return f"{body}.{mac}"


def crafted(there: There, who: User, client: Client, foreign: Client) -> dict[str, str]:
    """Assertions of which none may be taken."""
    now = int(there.clock.now().timestamp())

    def said(*key: Any, **claims: Any) -> str:
        return there.said(who, client, *key, **claims)

    good = said()
    head, body, mark = good.split(".")
    typed = {
        f"the type {kind}": said(header={"typ": kind})
        for kind in ("at+jwt", "JWT", "dpop+jwt", "application/oauth-id-jag+jwt", "oauth-id-jag", "oauth-id-jag+jwt ")
    }
    trusting = {
        f"the header {name}": said(header={name: value})
        for name, value in {
            "jku": "https://evil.example/keys", "x5u": "https://evil.example/cert", "x5c": ["AA"],
            "b64": True, "crit": ["kid"],
        }.items()
    }  # fmt: skip
    missing = {
        f"no {name}": said(**{name: None})
        for name in ("iss", "sub", "aud", "client_id", "jti", "resource", "email", "exp", "iat")
    }
    return typed | trusting | missing | {
        "no type": said(header={"typ": None}),
        "a key brought along": said(OTHER_KEY, header={"jwk": OTHER_KEY.as_dict(private=False)}),
        "another key of the same name": said(OTHER_KEY),
        "an unknown key": said(STRANGE_KEY),
        "no key's name": said(header={"kid": None}),
        "the key of another provider": said(there.theirs.keys[0]),
        "the other provider about our member": said(by=there.theirs),
        "the other provider under our name": said(by=there.theirs, iss=there.ours.issuer),
        "our provider under the other's name": said(iss=there.theirs.issuer),
        "unsigned": unsigned(good, alg="none"),
        "unsigned, in other letters": unsigned(good, alg="nOnE"),
        "the public key as a secret": confused(good, there.ours.keys[0]),
        "the signature cut off": f"{head}.{body}.",
        "the signature of another": f"{head}.{body}.{said().split('.')[2]}",
        "the body of another": f"{head}.{said(email='x@acme.example').split('.')[1]}.{mark}",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{mark}",
        "dots": "..",
        "no JWT": "assertion",
        "a body that is a list": f"{head}.{base64.urlsafe_b64encode(b'[]').decode()}.{mark}",
        "too long": said(more="x" * 8192),
        "an unknown issuer": said(iss="https://other.example"),
        "the issuer with a slash": said(iss=f"{there.ours.issuer}/"),
        "the issuer in capitals": said(iss=there.ours.issuer.upper()),
        "issuers": said(iss=[there.ours.issuer]),
        "we as the issuer": said(iss=there.url),
        "for another server": said(aud="https://other.example"),
        "for us with a slash": said(aud=f"{there.url}/"),
        "for the token endpoint": said(aud=f"{there.url}/oauth/token"),
        "for the resource": said(aud=f"{there.url}/mcp"),
        "for us and another": said(aud=[there.url, "https://other.example"]),
        "for us twice": said(aud=[there.url, there.url]),
        "for nobody": said(aud=[]),
        "for a number": said(aud=7),
        "another client's": said(client_id=foreign.id),
        "a client of no text": said(client_id=[client.id]),
        "expired": said(exp=now),
        "long expired": said(now=now - 10_000),
        "from the future": said(iat=now + 40, exp=now + 100),
        "not yet": said(nbf=now + 40),
        "ended before it began": said(iat=now + 20, exp=now + 10),
        "too long a life": said(exp=now + LONGEST_SECONDS + 2),
        "expires as a text": said(exp=str(now + 60)),
        "expires as true": said(exp=True),
        "expires at no number": said(exp=float("nan")),
        "never expires": said(exp=float("inf")),
        "expires beyond all": said(exp=10**400),
        "begins at no number": said(iat=float("nan")),
        "begins before all": said(iat=float("-inf")),
        "not before no number": said(nbf=float("nan")),
        "an empty name": said(jti=""),
        "a long name": said(jti="x" * 257),
        "a name that is a number": said(jti=7),
        "another resource": said(resource="https://other.example/mcp"),
        "a resource almost ours": said(resource=f"{there.url}/mcpx"),
        "a resource with a way out": said(resource=f"{there.url}/mcp/../x"),
        "two resources": said(resource=[f"{there.url}/mcp", "https://other.example/mcp"]),
        "no resource in a list": said(resource=[]),
        "an empty subject": said(sub=""),
        "a subject of a number": said(sub=7),
        "a long subject": said(sub="s" * 256),
        "a subject of lines": said(sub="a\nb"),
        "an address that is not verified": said(email_verified=False),
        "verified in a text": said(email_verified="true"),
        "an address in a list": said(email=[who.email]),
        "an address that folds into theirs": said(email=who.email.replace("s", "\u017f")),
        "bound to a key that nobody proves": said(cnf={"jkt": "x" * 43}),
        "bound in a way that we do not know": said(cnf={"x5t#S256": "x" * 43}),
        "scopes in a list": said(scope=["agents:read"]),
        "too many who act": said(act={"sub": "a", "act": {"sub": "b", "act": {"sub": "c", "act": {"sub": "d"}}}}),
    }  # fmt: skip


async def test_nothing_crafted_is_taken_and_nothing_is_written_for_it(there: There) -> None:
    """Over eighty of them; the description is for who must mend it, and repeats nothing."""
    who, (client, secret), (foreign, _) = await there.member(), await there.client(), await there.client()
    assert (await there.shown(there.said(await there.member(), client), client, secret)).status_code == 200
    before, every = await there.written(), crafted(there, who, client, foreign)
    taken: dict[str, str] = {}
    for name, assertion in every.items():
        answered = await there.shown(assertion, client, secret)
        body = answered.json()
        if (answered.status_code, body.get("error")) != (400, "invalid_grant"):
            taken[name] = answered.text
        assert who.email not in body["error_description"], name
    assert (taken, len(every) >= 80) == ({}, True)
    assert await there.written() == before
    for letters in ("oauth-id-jag+jwt", "OAuth-ID-JAG+JWT"):
        good = there.said(who, client, aud=[there.url], header={"typ": letters})
        assert (await there.shown(good, client, secret)).status_code == 200


async def test_who_somebody_is_not_reads_the_same_whoever_they_are(there: There) -> None:
    """Unknown, suspended here or everywhere, removed, of another tenant, of two and suspended in ours, tied."""
    auth, (client, secret) = there.one.house.auth, await there.client()
    suspended, off, removed, both, tied = [await there.member() for _ in range(5)]
    foreign = await there.member(tenant="globex")
    await auth.users.set_suspended(suspended.id, "acme", suspended=True)
    await auth.users.set_active(off.id, active=False)
    await auth.users.leave(removed.id, "acme")
    await auth.users.set_roles(both.id, "globex", frozenset({"admin"}))
    await auth.users.set_suspended(both.id, "acme", suspended=True)
    assert (await there.shown(there.said(tied, client), client, secret)).status_code == 200
    cases = [there.said(each, client) for each in (suspended, off, removed, both, foreign)]
    cases += [
        there.said(tied, client, email="nobody@acme.example"),
        there.said(tied, client, sub="somebody-new"),
        there.said(tied, client, sub="somebody-new", scope="of:nothing"),
        there.said(tied, client, email_verified=False),
    ]
    before = await there.written()
    found = [(await there.shown(each, client, secret)).json() for each in cases]
    assert found == [{"error": "invalid_grant", "error_description": NOBODY}] * 9
    assert await there.written() == before


async def test_an_address_does_not_take_an_account_over(there: There) -> None:
    """The first subject stays; a colleague's address is no way to the colleague; the end of the membership unties."""
    auth, (client, secret) = there.one.house.auth, await there.client()
    ann, bob = await there.member(), await there.member("admin")

    async def as_(subject: str, who: User, at: Served | None = None) -> int:
        return (await there.shown(there.said(who, client, sub=subject), client, secret, at)).status_code

    assert [await as_("ann", ann), await as_("ann", ann, there.other), await as_("bob", bob)] == [200, 200, 200]
    assert [await as_("heir", ann), await as_("ann", bob), await as_("bob", ann)] == [400, 400, 400]
    kept = await auth.users.get(ann.id)
    assert "ann" not in json.dumps(kept.identities)
    await auth.users.set_roles(ann.id, "globex", frozenset({"viewer"}))
    await auth.users.set_roles(ann.id, "acme", frozenset())
    assert (await auth.users.get(ann.id)).identities == {}
    assert await as_("ann", ann) == 400
    await auth.users.set_roles(ann.id, "acme", frozenset({"viewer"}))
    assert [await as_("heir", ann), await as_("ann", ann)] == [200, 400]


async def test_of_two_subjects_that_come_at_once_one_becomes_the_member(there: There) -> None:
    """At two replicas, twenty times each; no token is ever given to the other."""
    auth, who, (client, secret) = there.one.house.auth, await there.member(), await there.client()
    got: set[str] = set()

    async def come(number: int) -> None:
        subject = f"subject-{number % 2}"
        at = (there.one, there.other)[number // 2 % 2]
        if (await there.shown(there.said(who, client, sub=subject), client, secret, at)).status_code == 200:
            got.add(subject)

    async with anyio.create_task_group() as crowd:
        for number in range(40):
            crowd.start_soon(come, number)
    assert len(got) == 1
    assert (await auth.users.get(who.id)).could_be("acme", there.ours.issuer, got.pop())


async def test_an_assertion_counts_once_at_all_replicas(there: There) -> None:
    """Of forty copies at two of them one is taken; the same name by another provider is another assertion."""
    who, (client, secret) = await there.member(), await there.client()
    name, found = token_hex(8), list[tuple[int, str]]()
    copy = there.said(who, client, jti=name)

    async def one(number: int) -> None:
        answered = await there.shown(copy, client, secret, (there.one, there.other)[number % 2])
        found.append((answered.status_code, answered.json().get("error_description", "")))

    async with anyio.create_task_group() as crowd:
        for number in range(40):
            crowd.start_soon(one, number)
    used = (400, "The assertion cannot be used. It was used already.")
    assert sorted(found) == [(200, ""), *[used] * 39]
    stranger, (its, secret_of_it) = await there.member(tenant="globex"), await there.client("globex")
    same = there.said(stranger, its, by=there.theirs, jti=name)
    assert (await there.shown(same, its, secret_of_it)).status_code == 200


@pytest.mark.parametrize(("person", "program", "named", "asked", "given"), [
    ("developer", "developer", WIDE, "", ROLES["developer"]),
    ("viewer", "admin", WIDE, "", ROLES["viewer"]),
    ("admin", "viewer", WIDE, "", ROLES["viewer"]),
    ("admin", "admin", "agents:read openid", "", {"agents:read"}),
    ("admin", "admin", "agents:read agents:write", "agents:read executions:run", {"agents:read"}),
    ("admin", "admin", "agents:read", "agents:write", set()),
    ("viewer", "viewer", "agents:write", "", set()),
    ("admin", "admin", "platform:admin agents:read", "platform:admin agents:read", {"agents:read"}),
    ("admin", "admin", "platform:admin", "platform:admin", set()),
    ("admin", "admin", None, "", set()),
    ("admin", "admin", "", "agents:read", set()),
])  # fmt: skip
async def test_scopes_are_what_all_of_them_share(
    there: There, person: str, program: str, named: str | None, asked: str, given: set[str]
) -> None:
    """The request, the assertion, the client, the person; an assertion that names none gives none."""
    who, (client, secret) = await there.member(person), await there.client("acme", program)
    more = {"scope": asked} if asked else {}
    answered = await there.shown(there.said(who, client, scope=named), client, secret, **more)
    body = answered.json()
    assert set(body.get("scope", "").split()) == set(given)
    assert body.get("error") == (None if given else "invalid_scope")


async def test_the_resource_that_is_asked_for_is_the_assertions(there: There) -> None:
    """Another one of ours is as wrong as anybody else's."""
    who, (client, secret) = await there.member(), await there.client()
    for wanted in (f"{there.url}/mcp/all", "https://other.example/mcp"):
        refused = await there.shown(there.said(who, client), client, secret, resource=wanted)
        assert refused.json()["error"] == "invalid_target"
    same = f"{there.url}/mcp"
    assert (await there.shown(there.said(who, client, resource=[same]), client, secret, resource=same)).is_success


async def test_only_a_confidential_client_of_the_providers_tenant_shows_assertions(there: There) -> None:
    """Not without its proof, not a public one, not one that was registered for something else; with keys as well."""
    auth, who, (client, secret) = there.one.house.auth, await there.member(), await there.client()
    before = there.ours.asked.copy()
    wrong = await there.shown(there.said(who, client), client, "wrong")
    none = await there.http.post(
        f"{there.url}/oauth/token",
        data={"grant_type": JWT_BEARER, "assertion": there.said(who, client), "client_id": client.id},
    )
    assert [(each.status_code, each.json()["error"]) for each in (wrong, none)] == [(401, "invalid_client")] * 2
    app, _ = await auth.clients.register("acme", "App", redirect_uris=("https://app.example/x",), roles={"viewer"})
    form = {"grant_type": JWT_BEARER, "assertion": there.said(who, app), "client_id": app.id}
    refused = await there.http.post(f"{there.url}/oauth/token", data=form)
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
    machine, its = await auth.clients.register(
        "acme", "M", grant_types=frozenset({"client_credentials"}), roles=frozenset({"viewer"}), confidential=True
    )
    refused = await there.shown(there.said(who, machine), machine, its or "")
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
    for tenant, confidential in (("acme", False), ("", True)):
        with pytest.raises(Invalid, match="CLIENT_GRANT_INVALID"):
            await auth.clients.register(
                tenant, "x", grant_types=frozenset({JWT_BEARER}), roles=frozenset({"viewer"}), confidential=confidential
            )
    foreign, other_secret = await there.client("globex")
    refused = await there.shown(there.said(who, foreign), foreign, other_secret)
    assert "does not speak for the tenant" in refused.json()["error_description"]
    assert there.ours.asked == before
    missing = await there.shown("", client, secret)
    assert missing.json()["error"] == "invalid_request"
    await auth.clients.set_keys("acme", client.id, [public(OWN_KEY)])
    now = int(there.clock.now().timestamp())
    claims = {"iss": client.id, "sub": client.id, "aud": there.url, "exp": now + 60, "iat": now, "jti": token_hex(8)}
    form = {"grant_type": JWT_BEARER, "assertion": there.said(who, client), "client_assertion_type": ASSERTION_TYPE}
    form["client_assertion"] = signed(claims, OWN_KEY)
    assert (await there.http.post(f"{there.url}/oauth/token", data=form)).status_code == 200


async def test_made_up_keys_make_us_fetch_once(there: There) -> None:
    """A client that went bad has no more than that of the provider, and writes nothing."""
    who, (client, secret) = await there.member(), await there.client()
    await there.shown(there.said(who, client), client, secret)
    there.clock.advance(COOL_SECONDS + 1)
    asked, before = there.ours.asked["keys"], await there.written()
    for number in range(50):
        key = RSAKey.import_key(STRANGE_KEY.as_dict(private=True), {"kid": f"made-up-{number}"})
        assert (await there.shown(there.said(who, client, key), client, secret)).status_code == 400
    assert there.ours.asked["keys"] == asked + 1
    assert await there.written() == before


@pytest.mark.parametrize("how", ["in the tenant", "everywhere", "removed", "client", "grant", "tenant", "password"])
async def test_what_is_taken_away_ends_the_token_within_five_seconds(there: There, how: str) -> None:
    """At the replica that did not hear of it; and no new one is given."""
    auth, who, (client, secret) = there.one.house.auth, await there.member(), await there.client()
    assertions = [there.said(who, client) for _ in range(2)]
    token = (await there.shown(assertions[0], client, secret)).json()["access_token"]
    verifier = there.other.house.auth.verifier
    known = await verifier.verify(token)
    match how:
        case "in the tenant":
            await auth.users.set_suspended(who.id, "acme", suspended=True)
        case "everywhere":
            await auth.users.set_active(who.id, active=False)
        case "removed":
            await auth.users.leave(who.id, "acme")
        case "client":
            await auth.clients.revoke("acme", client.id)
        case "tenant":
            await auth.tenants.set_active("acme", active=False)
        case "password":
            await auth.users.set_password(who.id, "another horse battery")
        case _:
            await there.http.post(
                f"{there.url}/oauth/revoke", data={"token": token, "client_id": client.id, "client_secret": secret}
            )
    there.clock.advance(5)
    try:
        with pytest.raises(Denied):
            await verifier.verify(token)
        with pytest.raises(Denied):
            await there.one.house.auth.rights.now(known.principal)
        again = (await there.shown(assertions[1], client, secret, there.other)).status_code
        assert again == {"client": 401, "grant": 200, "password": 200}.get(how, 400)
    finally:
        await auth.tenants.set_active("acme", active=True)
        there.clock.advance(5)


async def test_a_token_can_be_bound_and_who_acts_is_kept(there: There) -> None:
    """By the proof of the request; an assertion that is bound itself is for the holder of that key."""
    who, (client, secret) = await there.member("admin"), await there.client("acme", "admin")
    now, at = there.clock.now().timestamp, f"{there.url}/oauth/token"
    bound = there.said(who, client, cnf={"jkt": OWN_KEY.thumbprint()}, act={"sub": "front", "act": {"sub": "ag_1"}})
    form = {"grant_type": JWT_BEARER, "assertion": bound, "client_id": client.id, "client_secret": secret}
    assert (await there.http.post(at, data=form)).json()["error"] == "invalid_grant"
    assert (await there.http.post(at, data=form, headers={"DPoP": proof(now(), at)})).status_code == 400
    answered = await there.http.post(at, data=form, headers={"DPoP": proof(now(), at, key=OWN_KEY)})
    assert answered.json()["token_type"] == "DPoP"
    token = await there.one.house.auth.verifier.verify(answered.json()["access_token"])
    assert (token.jkt, token.principal.actors) == (OWN_KEY.thumbprint(), ("ag_1", "front"))


async def test_without_the_providers_keys_nobody_is_told_they_are_wrong(tmp_path: Path) -> None:
    """It is for later, and the assertion is not used up by it."""
    provider, clock = IdentityProvider(down=True), AheadClock()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(ports.served(provider.application(), lifespan="off"))
        provider.issuer = f"http://127.0.0.1:{port}"
        auth = {"identity_providers": [{"issuer": provider.issuer, "tenant": "acme"}]}
        house = await stack.enter_async_context(served(tmp_path, workers=0, clock=clock, auth=auth))
        http = await stack.enter_async_context(browserless())
        await house.house.auth.tenants.create("acme")
        alone = There(house, house, provider, provider, clock, http)
        who, (client, secret) = await alone.member(), await alone.client()
        assertion = alone.said(who, client)
        refused = await alone.shown(assertion, client, secret)
        assert (refused.status_code, refused.json()["error"]) == (503, "temporarily_unavailable")
        provider.down = False
        clock.advance(COOL_SECONDS + 1)
        assert (await alone.shown(assertion, client, secret)).status_code == 200


@pytest.mark.parametrize(("text", "says"), [
    ('issuer = "https://id.example"', "tenant"),
    ('tenant = "acme"', "issuer"),
    ('issuer = "http://id.example"\ntenant = "acme"', "https URL"),
    ('issuer = "https://id.example?x"\ntenant = "acme"', "https URL"),
    ('issuer = "https://id.example"\ntenant = "ACME"', "tenant"),
    ('isuer = "https://id.example"\ntenant = "acme"', "did you mean issuer"),
    ('issuer = "https://id.example"\ntenant = "a"\n[[auth.identity_providers]]\n'
     'issuer = "https://id.example"\ntenant = "b"', "each issuer once"),
    ('issuer = "https://id.example"\ntenant = "a"\n[auth]\nmode = "external"\nissuer = "https://x.example"',
     "embedded"),
])  # fmt: skip
def test_settings_that_are_not_right_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """Each provider once, for one tenant, at an address that cannot be tampered with, of the embedded server."""
    path = tmp_path / "settings.toml"
    path.write_text(f"[[auth.identity_providers]]\n{text}\n", "utf-8")
    with pytest.raises(Invalid) as refused:
        load(path, environ={})
    assert refused.value.code == "SETTINGS_INVALID"
    assert says in refused.value.public


def test_providers_are_set_in_the_file_only() -> None:
    """They are a list; a variable cannot say it, and says so."""
    with pytest.raises(Invalid) as refused:
        load(environ={"MCP_AGENTS_AUTH__IDENTITY_PROVIDERS": "https://id.example"})
    assert "list of tables" in refused.value.public
