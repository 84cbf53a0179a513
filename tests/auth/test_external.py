"""Tokens of an issuer that is not us: what of them is believed, and what never is."""

import base64
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, RSAKey
from jwt.algorithms import RSAAlgorithm
from mcp_agents_auth.external import Claims, ExternalVerifier
from mcp_agents_auth.issuer_keys import COOL_SECONDS, FRESH_SECONDS, IssuerKeys, addresses
from mcp_agents_auth.resources import Resources
from mcp_agents_auth.tenants import Tenants

from mcp_agents.kernel.errors import AgentsError, Denied, Unavailable
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import ROLES
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.fetching import GuardedFetch
from tests.auth.desk import YieldingStore, platform
from tests.support.clock import TestClock
from tests.support.identity_provider import IdentityProvider
from tests.support.tool_servers.served import served

RESOURCE = "https://agents.example/mcp"
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "first"})
STRANGE_KEY = RSAKey.generate_key(2048, {"kid": "strange"})
CURVED = ECKey.generate_key("P-256", {"kid": "curved"})


@dataclass
class Away:
    """A provider, and a verifier of ours that trusts it."""

    provider: IdentityProvider
    clock: TestClock
    tenants: Tenants
    keys: IssuerKeys

    def verifier(self, **claims: Any) -> ExternalVerifier:
        """With these claims."""
        return ExternalVerifier(self.keys, Claims(**claims), Resources(RESOURCE), self.tenants, self.clock)

    def token(self, *args: Any, **claims: Any) -> str:
        """A token for us, at this clock's time."""
        return self.provider.token(*args, **{"aud": RESOURCE, "now": self.clock.now().timestamp(), **claims})

    async def who(self, token: str, **claims: Any) -> Principal:
        """The caller of a good token."""
        return (await self.verifier(**claims).verify(token)).principal


@pytest.fixture
async def away(clock: TestClock) -> AsyncIterator[Away]:
    """A provider on a real port; tenant `acme` is there, `closed` is suspended."""
    provider = IdentityProvider()
    tenants = Tenants(platform(YieldingStore(clock), clock), clock)
    await tenants.create("acme")
    await tenants.create("closed")
    await tenants.set_active("closed", active=False)
    async with served(provider.application()) as port:
        provider.issuer = f"http://127.0.0.1:{port}"
        fetch = GuardedFetch(AddressRule(allowed_origins=frozenset({provider.issuer})))
        yield Away(provider, clock, tenants, IssuerKeys(provider.issuer, fetch, clock))


@pytest.mark.parametrize(
    ("claims", "settings", "roles", "scopes"),
    [
        ({"roles": ["operator"]}, {}, {"operator"}, ROLES["operator"]),
        ({"roles": "operator viewer"}, {}, {"operator", "viewer"}, ROLES["operator"]),
        ({"roles": ["operator"], "scope": "openid agents:read executions:run"}, {}, {"operator"},
         {"agents:read", "executions:run"}),
        ({"roles": ["viewer"], "scope": "agents:write"}, {}, {"viewer"}, set()),
        ({"roles": ["operator"], "scope": "openid profile"}, {}, {"operator"}, ROLES["operator"]),
        ({"roles": ["boss", "root"]}, {}, set(), set()),
        ({"scope": "agents:read platform:admin"}, {}, set(), {"agents:read"}),
        ({"scp": ["agents:read"]}, {}, set(), {"agents:read"}),
        ({}, {"roles": "groups", "role_map": {"mcp-operators": "operator"}}, {"operator"}, ROLES["operator"]),
        ({"groups": ["admin"]}, {"roles": "groups", "role_map": {"mcp-operators": "operator"}}, set(), set()),
        ({"realm_access": {"roles": ["viewer"]}}, {"roles": "realm_access.roles"}, {"viewer"}, ROLES["viewer"]),
        ({"https://x.example/roles": ["viewer"]}, {"roles": "https://x.example/roles"}, {"viewer"}, ROLES["viewer"]),
        ({"roles": {"viewer": True}}, {}, set(), set()),
        ({"roles": [["viewer"], 7, None]}, {}, set(), set()),
    ],
)  # fmt: skip
async def test_rights_come_from_roles_and_are_narrowed_by_scopes(
    away: Away, claims: dict[str, Any], settings: dict[str, Any], roles: set[str], scopes: set[str]
) -> None:
    """In whatever shape they come; nothing that we do not know is a right."""
    found = await away.who(away.token(**claims), **settings)
    assert (found.roles, found.scopes) == (roles, scopes)


async def test_who_it_is_cannot_be_mixed_up_with_anybody_else(away: Away) -> None:
    """The same name at another issuer, or the id of one of our own people, is somebody else."""
    ann = await away.who(away.token(roles=["viewer"]))
    assert ann.subject.endswith("|auth0|ann")
    assert (ann.tenant, ann.client, ann.actors, ann.grant) == ("acme", "an-ide", (), "")
    ours = await away.who(away.token(sub="us_06f0a1b2c3d4e5f6g7h8i9jkl0"))
    assert ours.subject != "us_06f0a1b2c3d4e5f6g7h8i9jkl0"
    mark = ann.subject.partition("|")[0]
    away.provider.issuer = away.provider.issuer.replace("127.0.0.1", "localhost")
    fetch = GuardedFetch(AddressRule(allowed_origins=frozenset({away.provider.issuer})))
    away.keys = IssuerKeys(away.provider.issuer, fetch, away.clock)
    assert (await away.who(away.token())).subject.partition("|")[0] != mark


async def test_who_acts_is_kept(away: Away) -> None:
    """The chain as it is, and of a chain that cannot be read that somebody does."""
    chain = {"sub": "front", "act": {"sub": "ag_1"}}
    assert (await away.who(away.token(act=chain))).actors == ("ag_1", "front")
    assert (await away.who(away.token(act="somebody"))).actors == ("unknown",)


def unsigned(token: str, **header: Any) -> str:
    """The same claims with another header and no signature."""
    text = base64.urlsafe_b64encode(json.dumps({"typ": "at+jwt", "kid": "first", **header}).encode())
    return f"{text.rstrip(b'=').decode()}.{token.split('.')[1]}."


def confused(token: str, key: RSAKey) -> str:
    """Signed with the public key as if it were a shared secret."""
    public = key.raw_value.public_key() if isinstance(key.raw_value, rsa.RSAPrivateKey) else key.raw_value
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = base64.urlsafe_b64encode(json.dumps({"typ": "at+jwt", "kid": "first", "alg": "HS256"}).encode())
    body = f"{text.rstrip(b'=').decode()}.{token.split('.')[1]}"
    mac = hmac.digest(secret, body.encode(), "sha256")
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def hostile(away: Away) -> dict[str, str]:
    """Tokens that must not get in."""
    now, good = int(away.clock.now().timestamp()), away.token()
    head, body, mark = good.split(".")
    made = {
        "no tenant": away.token(tenant=None),
        "unknown tenant": away.token(tenant="nobody"),
        "suspended tenant": away.token(tenant="closed"),
        "tenant in a list": away.token(tenant=["acme"]),
        "tenant with a dot": away.token(tenant="acme.x"),
        "tenant with a star": away.token(tenant="*"),
        "tenant in capitals": away.token(tenant="ACME"),
        "empty tenant": away.token(tenant=""),
        "tenant as an object": away.token(tenant={"name": "acme"}),
        "no subject": away.token(sub=None),
        "empty subject": away.token(sub=""),
        "subject of a number": away.token(sub=7),
        "long subject": away.token(sub="s" * 256),
        "subject with a line": away.token(sub="a\nb"),
        "no audience": away.token(aud=None),
        "another audience": away.token(aud="https://other.example/mcp"),
        "the client as audience": away.token(aud="an-ide"),
        "audience almost ours": away.token(aud="https://agents.example/mcpx"),
        "audience in capitals": away.token(aud="https://AGENTS.example/mcp"),
        "audience with a slash": away.token(aud=f"{RESOURCE}/"),
        "audiences without ours": away.token(aud=["a", "b", 7]),
        "audience above ours": away.token(aud="https://agents.example"),
        "no issuer": away.token(iss=None),
        "another issuer": away.token(iss="https://other.example"),
        "issuer with a slash": away.token(iss=away.provider.issuer + "/"),
        "issuer in capitals": away.token(iss=away.provider.issuer.upper()),
        "issuers": away.token(iss=[away.provider.issuer]),
        "expired": away.token(exp=now),
        "long expired": away.token(now=now - 10_000),
        "never expires": away.token(exp=None),
        "expires as text": away.token(exp=str(now + 600)),
        "expires as true": away.token(exp=True),
        "expires at no number": away.token(exp=float("nan")),
        "never expires indeed": away.token(exp=float("inf")),
        "expires beyond all": away.token(exp=10**400),
        "from before all": away.token(iat=float("-inf")),
        "from no number": away.token(iat=float("nan")),
        "no beginning": away.token(iat=None),
        "from the future": away.token(iat=now + 31),
        "not yet": away.token(nbf=now + 31),
        "not yet as text": away.token(nbf="now"),
        "an ID token": away.token(nonce="n"),
        "an ID token with a hash": away.token(at_hash="h"),
        "another key": away.token(OTHER_KEY),
        "unknown key": away.token(STRANGE_KEY),
        "no key id": away.token(header={"kid": None}),
        "key id of a number": away.token(header={"kid": "7" * 3}),
        "another type": away.token(header={"typ": "logout+jwt"}),
        "a proof": away.token(header={"typ": "dpop+jwt"}),
        "key brought along": away.token(OTHER_KEY, header={"jwk": OTHER_KEY.as_dict(private=False)}),
        "key elsewhere": away.token(header={"jku": "https://evil.example/keys"}),
        "certificate elsewhere": away.token(header={"x5u": "https://evil.example/cert"}),
        "unsigned": unsigned(good, alg="none"),
        "unsigned, another case": unsigned(good, alg="nOnE"),
        "unsigned, no algorithm": unsigned(good),
        "public key as secret": confused(good, away.provider.keys[0]),
        "signature cut off": f"{head}.{body}.",
        "signature of another": f"{head}.{body}.{away.token().split('.')[2]}",
        "body of another": f"{head}.{away.token(tenant='closed').split('.')[1]}.{mark}",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{mark}",
        "not base64": f"{head}.{body}.{mark[:-3]}!!!",
        "empty": "",
        "dots": "..",
        "too long": good + "A" * 9000,
        "not ASCII": good[:-1] + "é",
        "the header alone": head,
        "JSON": json.dumps({"iss": away.provider.issuer}),
    }  # fmt: skip
    return made


async def test_nothing_crafted_gets_in(away: Away) -> None:
    """Over sixty of them, each for one and the same reason as far as the sender can see; the good one does."""
    verifier, crafted = away.verifier(), hostile(away)
    assert len(crafted) >= 60
    await verifier.verify(away.token())
    said: dict[str, tuple[str, str]] = {}
    for name, token in crafted.items():
        try:
            await verifier.verify(token)
        except Denied as refused:
            said[name] = refused.code, refused.public
    assert set(said.values()) == {("TOKEN_INVALID", "The access token is not valid.")}, said
    assert said.keys() == crafted.keys()
    await verifier.verify(away.token())


async def test_a_token_lasts_as_long_as_it_says_and_its_tenant_does(away: Away) -> None:
    """Though it was verified before and is remembered."""
    verifier, token = away.verifier(), away.token()
    found = await verifier.verify(token)
    await away.tenants.set_active("acme", active=False)
    with pytest.raises(Denied):
        await verifier.again(found)
    away.clock.advance(5)
    with pytest.raises(Denied):
        await verifier.verify(token)
    await away.tenants.set_active("acme", active=True)
    away.clock.advance(5)
    await verifier.verify(token)
    away.clock.advance(600)
    for ask in (verifier.verify(token), verifier.again(found)):
        with pytest.raises(Denied):
            await ask


async def test_ten_thousand_made_up_keys_cost_one_fetch(away: Away) -> None:
    """In thirty seconds, also when they come at once; a key that is new afterwards is found."""
    verifier = away.verifier()
    await verifier.verify(away.token())
    away.clock.advance(COOL_SECONDS)
    before, strange = away.provider.asked["keys"], away.token(STRANGE_KEY).split(".")

    async def one(number: int) -> None:
        header = {"typ": "at+jwt", "alg": "RS256", "kid": f"made-up-{number}"}
        text = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
        with pytest.raises(Denied):
            await verifier.verify(f"{text}.{strange[1]}.{strange[2]}")

    async with anyio.create_task_group() as crowd:
        for number in range(10_000):
            crowd.start_soon(one, number)
    assert away.provider.asked["keys"] <= before + 1
    away.provider.keys.append(STRANGE_KEY)
    away.clock.advance(COOL_SECONDS)
    await verifier.verify(away.token(STRANGE_KEY))


async def test_keys_change_without_a_failed_call(away: Away) -> None:
    """A new one is taken up when its first token comes, an old one is forgotten when the issuer has."""
    verifier, first = away.verifier(), away.provider.keys[0]
    await verifier.verify(away.token())
    away.clock.advance(COOL_SECONDS)
    away.provider.keys.append(CURVED)
    await verifier.verify(away.token(CURVED))
    await verifier.verify(away.token(first))
    away.provider.keys.remove(first)
    away.clock.advance(FRESH_SECONDS + 1)
    await verifier.verify(away.token(CURVED))
    with pytest.raises(Denied):
        await verifier.verify(away.token(first))


async def test_the_last_keys_go_on_while_the_issuer_is_away(away: Away) -> None:
    """Without any, nobody can be told in, and that is said otherwise than "not valid"."""
    away.provider.down = True
    verifier = away.verifier()
    with pytest.raises(Unavailable):
        await verifier.verify(away.token())
    away.provider.down = False
    away.clock.advance(COOL_SECONDS)
    await verifier.verify(away.token())
    away.provider.down = True
    away.clock.advance(FRESH_SECONDS + 1)
    await verifier.verify(away.token())
    away.provider.down, away.provider.extra_keys = False, [{"kid": 7}, {"kty": "none"}, "key"]  # type: ignore[list-item]
    away.clock.advance(FRESH_SECONDS + 1)
    await verifier.verify(away.token())


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://keys.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://169.254.169.254/keys"},
        {"jwks_uri": ["https://keys.example"]},
    ],
    ids=str,
)
async def test_a_document_that_is_not_right_is_not_followed(away: Away, said: dict[str, Any]) -> None:
    """Not one of another issuer, not to keys over plain http, not to addresses that are off limits."""
    away.provider.said = said
    with pytest.raises(AgentsError) as refused:
        await away.verifier().verify(away.token())
    assert refused.value.code == "ISSUER_UNREACHABLE"
    assert away.provider.asked["keys"] == 0


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "kid": "weak", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "alg": "HS256"},
        {**RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True), "kid": "weak"},
        {**RSAKey.generate_key(2048, {"kid": "weak"}).as_dict(private=False), "kid": "weak", "use": "enc"},
        {**RSAKey.generate_key(2048, {"kid": "weak"}).as_dict(private=False), "kid": "weak", "alg": "RSA-OAEP"},
        {**ECKey.generate_key("secp256k1").as_dict(private=False), "kid": "weak"},
    ],
    ids=["symmetric", "short", "for encryption", "another algorithm", "another curve"],
)
async def test_a_key_that_is_none_for_signatures_is_not_used(away: Away, jwk: dict[str, Any]) -> None:
    """Whatever the issuer publishes."""
    away.provider.extra_keys = [jwk]
    await away.verifier().verify(away.token())
    for algorithm in ("RS256", "ES256", "HS256", "PS256", "EdDSA"):
        assert await away.keys.key("weak", algorithm) is None
    assert await away.keys.key("first", "RS256") is not None
    assert await away.keys.key("first", "ES256") is None


def test_where_metadata_is_looked_for() -> None:
    """As RFC 8414 and OpenID Connect say, with and without a path."""
    assert addresses("https://id.example") == [
        "https://id.example/.well-known/oauth-authorization-server",
        "https://id.example/.well-known/openid-configuration",
    ]
    assert addresses("https://id.example/realms/a") == [
        "https://id.example/.well-known/oauth-authorization-server/realms/a",
        "https://id.example/.well-known/openid-configuration/realms/a",
        "https://id.example/realms/a/.well-known/openid-configuration",
    ]
