"""Tokens that are bound to a key: whoever stole one, or a proof, has nothing."""

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import anyio
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from mcp_agents_auth.dpop import WINDOW_SECONDS, hash_of

from mcp_agents.kernel.errors import Denied
from tests.auth.desk import ISSUER, Desk, build
from tests.hostile.wire import Wire, browserless, envelope, routing
from tests.support.clock import AheadClock
from tests.support.served import Served, served

KEY, OTHER = ECKey.generate_key("P-256"), ECKey.generate_key("P-256")
RSA = RSAKey.generate_key(2048)
TOKEN_URL = f"{ISSUER}/oauth/token"


def proof(
    now: float,
    url: str = TOKEN_URL,
    *,
    key: Any = KEY,
    token: str = "",
    header: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """A good proof, with changes; None leaves a claim or a part of the header out."""
    said = {
        "jti": token_hex(12),
        "htm": "POST",
        "htu": url,
        "iat": int(now),
        **({"ath": hash_of(token)} if token else {}),
    }
    public = key.as_dict(private=False) if not isinstance(key, OctKey) else key.as_dict()
    algorithm = {"EC": "ES256", "RSA": "RS256", "oct": "HS256"}[public["kty"]]
    head = {"typ": "dpop+jwt", "alg": algorithm, "jwk": public, **(header or {})}
    claims = {name: value for name, value in {**said, **more}.items() if value is not None}
    return jwt.encode(
        {name: value for name, value in head.items() if value is not None}, claims, key, algorithms=[str(head["alg"])]
    )


def at(desk: Desk) -> float:
    """The desk's time."""
    return desk.clock.now().timestamp()


async def bound(desk: Desk, key: Any = KEY) -> tuple[Any, dict[str, Any]]:
    """A public client and tokens that are bound to a key."""
    client = await desk.public_client()
    form = {
        "grant_type": "authorization_code", "client_id": client.id, "code": await desk.code(client),
        "redirect_uri": client.redirect_uris[0], "code_verifier": "v" * 43,
    }  # fmt: skip
    answered = await desk.token(form, headers={"DPoP": proof(at(desk), key=key)})
    assert answered.status_code == 200, answered.text
    tokens: dict[str, Any] = answered.json()
    return client, tokens


async def test_a_grant_is_bound_to_the_key_that_was_proved(desk: Desk) -> None:
    """The token says so by the key's thumbprint; without a proof nothing is bound."""
    _, tokens = await bound(desk)
    assert tokens["token_type"] == "DPoP"
    verified = await desk.auth.verifier.verify(tokens["access_token"])
    assert verified.jkt == KEY.thumbprint()
    plain = await desk.tokens(await desk.public_client())
    assert plain["token_type"] == "Bearer"
    assert (await desk.auth.verifier.verify(plain["access_token"])).jkt == ""


async def test_a_stolen_refresh_token_is_of_no_use_without_the_key(desk: Desk) -> None:
    """Nor with another key; the owner is not disturbed by the attempts, and stays bound."""
    client, tokens = await bound(desk)
    form = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": tokens["refresh_token"]}
    for headers in ({}, {"DPoP": proof(at(desk), key=OTHER)}):
        assert (await desk.token(form, headers=headers)).json()["error"] == "invalid_grant"
    again = await desk.token(form, headers={"DPoP": proof(at(desk))})
    assert again.json()["token_type"] == "DPoP"
    assert (await desk.auth.verifier.verify(again.json()["access_token"])).jkt == KEY.thumbprint()


async def test_a_grant_that_is_not_bound_is_not_bound_later(desk: Desk) -> None:
    """Whoever stole its refresh token cannot make it theirs."""
    client = await desk.public_client()
    tokens = await desk.tokens(client)
    form = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": tokens["refresh_token"]}
    assert (await desk.token(form, headers={"DPoP": proof(at(desk))})).json()["error"] == "invalid_grant"
    assert (await desk.token(form)).status_code == 200


async def test_a_program_is_bound_as_well_and_a_bound_token_is_not_exchanged(desk: Desk) -> None:
    """What is bound to one key does not become a token of somebody else's."""
    client, secret = await desk.machine()
    form = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": secret}
    made = (await desk.token(form, headers={"DPoP": proof(at(desk), key=RSA)})).json()
    assert made["token_type"] == "DPoP"
    middle, its = await desk.auth.clients.register(
        "acme",
        "Middle",
        grant_types=frozenset({"urn:ietf:params:oauth:grant-type:token-exchange"}),
        roles=frozenset({"operator"}),
        confidential=True,
    )
    exchange = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": middle.id,
        "client_secret": its or "", "subject_token": made["access_token"],
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }  # fmt: skip
    assert (await desk.token(exchange)).status_code == 400
    assert (await desk.token(exchange, headers={"DPoP": proof(at(desk))})).status_code == 400


def confused() -> OctKey:
    """The public key as if it were a shared secret."""
    return OctKey.import_key(json.dumps(KEY.as_dict(private=False)))


BAD: dict[str, Callable[[float], str]] = {
    "another method": lambda now: proof(now, htm="GET"),
    "method in small letters": lambda now: proof(now, htm="post"),
    "another address": lambda now: proof(now, f"{ISSUER}/oauth/revoke"),
    "another host": lambda now: proof(now, "https://evil.example/oauth/token"),
    "address in capitals": lambda now: proof(now, TOKEN_URL.upper()),
    "no address": lambda now: proof(now, htu=None),
    "address that is none": lambda now: proof(now, "https://[::1/oauth/token"),
    "no method": lambda now: proof(now, htm=None),
    "too old": lambda now: proof(now - WINDOW_SECONDS - 1),
    "from the future": lambda now: proof(now + WINDOW_SECONDS + 1),
    "no time": lambda now: proof(now, iat=None),
    "time as text": lambda now: proof(now, iat=str(int(now))),
    "not a number": lambda now: proof(now, iat=float("nan")),
    "no name": lambda now: proof(now, jti=None),
    "a short name": lambda now: proof(now, jti="1"),
    "a long name": lambda now: proof(now, jti="x" * 300),
    "another type": lambda now: proof(now, header={"typ": "JWT"}),
    "no type": lambda now: proof(now, header={"typ": None}),
    "no key": lambda now: proof(now, header={"jwk": None}),
    "another's key": lambda now: proof(now, header={"jwk": OTHER.as_dict(private=False)}),
    "a private key": lambda now: proof(now, header={"jwk": KEY.as_dict(private=True)}),
    "a shared key": lambda now: proof(now, key=OctKey.generate_key(256)),
    "the public key as a secret": lambda now: proof(now, key=confused(), header={"jwk": KEY.as_dict(private=False)}),
    "a key elsewhere": lambda now: proof(now, header={"jku": "https://evil.example/keys"}),
    "something critical": lambda now: proof(now, header={"crit": ["b64"], "b64": True}),
    "unsigned": lambda now: proof(now).rpartition(".")[0] + ".",
    "cut": lambda now: proof(now)[:-5],
    "two in one": lambda now: f"{proof(now)}, {proof(now)}",
    "nothing": lambda now: " ",
    "no token at all": lambda now: "x.y.z",
    "a time beyond all": lambda now: proof(now, iat=10**400),
    "a padded key": lambda now: proof(
        now, header={"jwk": {**KEY.as_dict(private=False), "x": str(KEY.as_dict(private=False)["x"]) + "=="}}
    ),
    "very long": lambda now: proof(now, more="x" * 5000),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_proof_that_is_not_good_binds_nothing(desk: Desk, what: str) -> None:
    """The request is refused as a whole, however good its credentials."""
    client, secret = await desk.machine()
    form = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": secret}
    refused = await desk.token(form, headers={"DPoP": BAD[what](at(desk))})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")


async def test_a_proof_counts_once_wherever_it_is_shown(desk: Desk) -> None:
    """Of fifty copies at two processes one is taken; the same name under another key is another proof."""
    other, shown, taken = build(desk.store, desk.clock), proof(at(desk), jti="a-name-of-mine"), 0

    async def one(number: int) -> None:
        nonlocal taken
        proofs = (desk.auth if number % 2 else other).proofs
        try:
            await proofs.key_of([shown], "POST", TOKEN_URL)
            taken += 1
        except Denied:
            return

    async with anyio.create_task_group() as crowd:
        for number in range(50):
            crowd.start_soon(one, number)
    assert taken == 1
    await desk.auth.proofs.key_of([proof(at(desk), key=OTHER, jti="a-name-of-mine")], "POST", TOKEN_URL)
    desk.clock.advance(WINDOW_SECONDS + 1)
    with pytest.raises(Denied):
        await desk.auth.proofs.key_of([shown], "POST", TOKEN_URL)


def test_what_a_proof_says_of_its_token() -> None:
    """As RFC 9449 writes it."""
    digest = hashlib.sha256(b"token").digest()
    assert hash_of("token") == urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Served]:
    """A served house."""
    async with served(tmp_path, clock=AheadClock()) as running:
        yield running


async def test_at_the_door_a_bound_token_needs_its_proof_each_time(house: Served) -> None:
    """For this method, this path and this token; stolen, with another's proof, as a bearer or twice: nothing."""
    auth = house.house.auth
    await auth.tenants.create("acme")
    client, secret = await auth.clients.register(
        "acme", "m", grant_types=frozenset({"client_credentials"}), roles=frozenset({"viewer"}), confidential=True
    )
    now = auth.clock.now().timestamp
    form = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": secret or ""}
    url = f"{house.url}/mcp/all"
    async with browserless() as http:
        made = await http.post(
            f"{house.url}/oauth/token", data=form, headers={"DPoP": proof(now(), f"{house.url}/oauth/token")}
        )
        token, plain = made.json()["access_token"], await house.token("acme")
        wire, body = Wire(http, house.url, ""), json.dumps(envelope("tools/list", {}, None)).encode()

        async def status(scheme: str, shown: str | None, bearer: str = token, path: str = "/mcp/all") -> int:
            headers = {**routing("tools/list", {}), "Authorization": f"{scheme} {bearer}"}
            answer = await wire.send(body, {**headers, **({"DPoP": shown} if shown else {})}, path=path)
            if answer.status == 401 and shown:
                assert "invalid_" in answer.challenge
            return answer.status

        good = proof(now(), url, token=token)
        assert await status("DPoP", good) == 200
        assert await status("dpop", proof(now(), url, token=token)) == 200
        refused = {
            "twice": await status("DPoP", good),
            "as a bearer": await status("Bearer", proof(now(), url, token=token)),
            "without a proof": await status("DPoP", None),
            "a thief's proof": await status("DPoP", proof(now(), url, key=OTHER, token=token)),
            "for another token": await status("DPoP", proof(now(), url, token=plain)),
            "for no token": await status("DPoP", proof(now(), url)),
            "for another path": await status("DPoP", proof(now(), f"{house.url}/mcp", token=token)),
            "for another method": await status("DPoP", proof(now(), url, token=token, htm="GET")),
            "a plain token as one that is bound": await status("DPoP", proof(now(), url, token=plain), plain),
        }
        assert refused == dict.fromkeys(refused, 401)
        assert await status("Bearer", None, plain) == 200
