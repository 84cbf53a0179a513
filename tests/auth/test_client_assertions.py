"""Clients that sign assertions (private_key_jwt): what lets them in, and every forgery that does not."""

import hmac
import json
from base64 import urlsafe_b64encode
from secrets import token_hex
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from jwt.algorithms import RSAAlgorithm
from mcp_agents_auth.client_auth import ASSERTION_TYPE
from mcp_agents_auth.clients import Client

from mcp_agents.kernel.errors import Invalid
from tests.auth.desk import ISSUER, Desk

GRANT = {"grant_type": "client_credentials"}
KEY, OTHER = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
RSA = RSAKey.generate_key(2048)


def public(key: ECKey | RSAKey, **more: str) -> dict[str, str]:
    """The public half as a client registers it."""
    return {**{name: str(value) for name, value in key.as_dict(private=False).items()}, **more}


async def keyed(desk: Desk, *keys: dict[str, str], tenant: str = "acme") -> Client:
    """A client that signs."""
    made, _ = await desk.machine(tenant)
    return await desk.auth.clients.set_keys(tenant, made.id, list(keys) or [public(KEY)])


def claims(desk: Desk, client: Client, **changes: Any) -> dict[str, Any]:
    """What a good assertion says, with changes; None leaves a claim out."""
    now = int(desk.clock.now().timestamp())
    good = {
        "iss": client.id,
        "sub": client.id,
        "aud": ISSUER,
        "iat": now,
        "exp": now + 120,
        "jti": token_hex(8),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(said: dict[str, Any], key: Any = KEY, alg: str = "ES256", **header: Any) -> str:
    """An assertion over these claims."""
    return str(jwt.encode({"alg": alg, **header}, said, key, algorithms=[alg]))


def by_hand(said: dict[str, Any], alg: str, secret: bytes | None) -> str:
    """What no library signs: with a public key as the secret, or not at all."""
    parts = [urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in ({"alg": alg}, said)]
    body = b".".join(parts)
    mac = urlsafe_b64encode(hmac.digest(secret, body, "sha256")).rstrip(b"=") if secret else b""
    return (body + b"." + mac).decode()


async def shown(desk: Desk, assertion: str, **more: str) -> tuple[int, str]:
    """What the token endpoint says to it."""
    given = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
    answered = await desk.token({**GRANT, **given, **more})
    return answered.status_code, answered.json().get("error", "")


@pytest.mark.parametrize("kind", ["ES256", "RS256"])
async def test_a_signed_assertion_lets_its_client_in_once(desk: Desk, kind: str) -> None:
    """With or without the client's id beside it; the same assertion again is a copy."""
    key = KEY if kind == "ES256" else RSA
    client = await keyed(desk, public(key, kid="one"))
    good = signed(claims(desk, client), key, kind, kid="one", typ="JWT")
    assert await shown(desk, good) == (200, "")
    assert await shown(desk, good) == (401, "invalid_client")
    assert await shown(desk, signed(claims(desk, client, aud=[ISSUER]), key, kind), client_id=client.id) == (200, "")


async def test_of_fifty_copies_at_once_one_is_taken(desk: Desk) -> None:
    """Whoever is second has copied it."""
    client = await keyed(desk)
    good = signed(claims(desk, client))
    found: list[int] = []

    async def one() -> None:
        found.append((await shown(desk, good))[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert sorted(found) == [200] + [401] * 49


CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "cl_other"},
    "another subject": {"sub": "cl_other"},
    "no issuer": {"iss": None},
    "no subject": {"sub": None},
    "the token endpoint": {"aud": f"{ISSUER}/oauth/token"},
    "a slash more": {"aud": f"{ISSUER}/"},
    "another server": {"aud": "https://evil.example"},
    "two audiences": {"aud": [ISSUER, "https://evil.example"]},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "no end": {"exp": None},
    "ended": {"exp": 1},
    "an end that is a text": {"exp": "9999999999"},
    "an end that is true": {"exp": True},
    "no name": {"jti": None},
    "an empty name": {"jti": ""},
    "a long name": {"jti": "x" * 257},
    "a name that is a number": {"jti": 7},
}


@pytest.mark.parametrize("which", CLAIMS)
async def test_an_assertion_that_says_something_else_is_refused(desk: Desk, which: str) -> None:
    """Claim by claim."""
    client = await keyed(desk)
    assert await shown(desk, signed(claims(desk, client, **CLAIMS[which]))) == (401, "invalid_client")


@pytest.mark.parametrize(("claim", "ahead", "good"), [
    ("exp", 330, True), ("exp", 331, False), ("exp", 0, False), ("exp", 1, True), ("iat", 30, True), ("iat", 31, False),
    ("nbf", 30, True), ("nbf", 31, False),
])  # fmt: skip
async def test_an_assertion_lives_five_minutes_at_most(desk: Desk, claim: str, ahead: int, good: bool) -> None:
    """Give or take half a minute between two clocks."""
    client = await keyed(desk)
    said = claims(desk, client, **{claim: int(desk.clock.now().timestamp()) + ahead})
    assert (await shown(desk, signed(said)))[0] == (200 if good else 401)


async def test_only_a_registered_key_signs(desk: Desk) -> None:
    """Not another's, not one that came along, not the public key as a secret, and not nothing."""
    client = await keyed(desk, public(KEY, kid="one"))
    said = claims(desk, client)
    forged = [
        signed(said, OTHER),
        signed(said, OTHER, kid="one"),
        signed(said, KEY, kid="two"),
        signed(said, OTHER, kid="one", jwk=public(OTHER)),
        signed(said, KEY, kid="one", jku="https://evil.example/keys"),
        signed(said, KEY, kid="one", x5u="https://evil.example/cert"),
        signed(said, KEY, typ="at+jwt"),
        signed(said, KEY, typ="dpop+jwt"),
        signed(said, RSA, "RS256"),
        by_hand(said, "HS256", KEY.as_pem(private=False)),
        by_hand(said, "HS256", json.dumps(public(KEY)).encode()),
        by_hand(said, "none", None),
        by_hand(said, "None", None),
        signed(said).rsplit(".", 1)[0] + ".",
        signed(said)[:-4] + "AAAA",
        "", ".", "..", "a.b.c", "x" * 9000, signed(said) + ".x", signed(said).replace(".", ".\u00e9", 1),
    ]  # fmt: skip
    for each in forged:
        assert (await shown(desk, each))[0] in (400, 401), each
    assert (await shown(desk, signed(said)))[0] == 200


async def test_a_client_has_one_way_to_prove_itself(desk: Desk) -> None:
    """Keys end the secret; two ways at once are an invalid request; another type of assertion is none."""
    made, secret = await desk.machine()
    client = await desk.auth.clients.set_keys("acme", made.id, [public(KEY)])
    by_secret = await desk.token({**GRANT, "client_id": client.id, "client_secret": secret})
    assert (by_secret.status_code, by_secret.json()["error"]) == (401, "invalid_client")
    assert (await desk.token({**GRANT, "client_id": client.id})).status_code == 401
    both = await shown(desk, signed(claims(desk, client)), client_secret=secret)
    assert both == (400, "invalid_request")
    other = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}
    assert (await shown(desk, signed(claims(desk, client)), **other))[0] == 401
    assert (await shown(desk, signed(claims(desk, client)), client_id="cl_other"))[0] == 401


async def test_an_assertion_of_one_client_is_not_anothers(desk: Desk) -> None:
    """Nor a revoked client's; each client's names are its own."""
    await desk.auth.tenants.create("globex")
    one, two = await keyed(desk), await keyed(desk, tenant="globex")
    same = {"jti": "same"}
    assert (await shown(desk, signed(claims(desk, one, **same))))[0] == 200
    assert (await shown(desk, signed(claims(desk, two, **same))))[0] == 200
    await desk.auth.clients.revoke("acme", one.id)
    assert (await shown(desk, signed(claims(desk, one))))[0] == 401


WEAK: dict[str, str] = {
    name: str(value)
    for name, value in RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True).items()
}
USELESS: dict[str, list[dict[str, str]]] = {
    "none": [],
    "two alike": [public(KEY)] * 2,
    "too many": [public(KEY, kid=str(number)) for number in range(9)],
    "private": [public(KEY, d="x")],
    "another curve": [public(KEY, crv="P-384")],
    "a secret": [{"kty": "oct", "k": "AA"}],
    "no point of the curve": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}],
    "a broken RSA key": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}],
    "a weak RSA key": [WEAK],
    "nothing in it": [{}],
}


@pytest.mark.parametrize("which", USELESS)
async def test_keys_that_cannot_be_verified_with_are_not_registered(desk: Desk, which: str) -> None:
    """Private, weak, of another kind, broken, or not to be told apart."""
    made, secret = await desk.machine()
    with pytest.raises(Invalid):
        await desk.auth.clients.set_keys("acme", made.id, USELESS[which])
    assert (await desk.token({**GRANT, "client_id": made.id, "client_secret": secret})).status_code == 200
