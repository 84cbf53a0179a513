"""Bearer tokens: good ones become a Principal, forged ones are refused for one and the same reason.

joserfc judges every token beside PyJWT; the two have to agree.
"""

import base64
import json
from datetime import timedelta
from typing import Any

import anyio
import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OctKey
from mcp_agents_auth.signing import KeySet as StoredKeys

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.errors import Conflict, Denied, Invalid, NotFound
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, TENANT_SCOPES
from mcp_agents.security.keys import MasterKey, Vault
from tests.auth.desk import ISSUER, RESOURCE, Desk, build, platform


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(token: str, number: int) -> dict[str, Any]:
    """The header (0) or the payload (1) of a token."""
    text = token.split(".")[number]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


async def good(desk: Desk) -> str:
    """A token that works."""
    return (await desk.auth.tokens.issue_direct("acme")).access_token


async def private_key(desk: Desk) -> ECKey:
    """The server's own private key: with it, only the claims can give a forgery away."""
    found = await platform(desk.store, desk.clock).records("cb_auth", "signing", kind=StoredKeys).get("set")
    assert found is not None
    sealed = found.value.keys[0].sealed
    return ECKey.import_key(json.loads(Vault(MasterKey(b"k" * 32)).unseal(PLATFORM, "signing-key", sealed)))


async def joserfc_accepts(desk: Desk, token: str) -> bool:
    """The same judgement, made with the other library."""
    keys = KeySet.import_key_set(await desk.auth.signing.jwks())  # type: ignore[arg-type]
    try:
        decoded = jwt.decode(token, keys, algorithms=["ES256"])
    except (JoseError, ValueError):
        return False
    claims, now = decoded.claims, desk.clock.now().timestamp()
    return bool(
        decoded.header.get("typ") == "at+jwt"
        and decoded.header.keys() == {"alg", "typ", "kid"}
        and claims.get("iss") == ISSUER
        and isinstance(claims.get("aud"), str)
        and (claims["aud"] == RESOURCE or claims["aud"].startswith(f"{RESOURCE}/"))
        and isinstance(claims.get("exp"), int)
        and claims["exp"] > now
        and claims.get("iat", now + 99) <= now + 30
        and claims.get("nbf", 0) <= now + 30
        and {"sub", "jti", "sid", "client_id", "tenant", "scope"} <= claims.keys()
    )


async def refused(desk: Desk, token: str) -> None:
    """Refused with the one reason there is."""
    with pytest.raises(Denied) as caught:
        await desk.auth.verifier.verify(token)
    assert caught.value.code == "TOKEN_INVALID"


async def test_a_good_token_is_accepted_by_both_libraries(desk: Desk) -> None:
    """Claims, header and Principal say the same thing."""
    token = await good(desk)
    verified = await desk.auth.verifier.verify(token)
    assert await joserfc_accepts(desk, token)
    assert (verified.principal.tenant, verified.principal.scopes) == ("acme", TENANT_SCOPES)
    assert verified.expires_at - verified.issued_at == 3600
    assert part(token, 0)["typ"] == "at+jwt"
    claims = part(token, 1)
    assert {"iss", "sub", "aud", "client_id", "scope", "tenant", "roles", "iat", "exp", "jti", "sid"} == claims.keys()


HEADERS: list[dict[str, Any]] = [
    {"typ": "JWT"},
    {"typ": "refresh+jwt"},
    {"typ": None},
    {"kid": "unknown"},
    {"kid": None},
    {"kid": 7},
    {"jku": "https://evil.example/jwks"},
    {"x5u": "https://evil.example/cert"},
    {"crit": ["exp"]},
    {"b64": False, "crit": ["b64"]},
    {"jwk": {"kty": "EC"}},
]


@pytest.mark.parametrize("change", HEADERS)
async def test_a_token_with_another_header_is_refused_though_we_signed_it(desk: Desk, change: dict[str, Any]) -> None:
    """Type, key id and everything that would bring its own trust along."""
    token = await good(desk)
    header = {name: value for name, value in (part(token, 0) | change).items() if value is not None}
    signed = f"{b64(json.dumps(header).encode())}.{token.split('.')[1]}"
    key = (await private_key(desk)).get_op_key("sign")
    forged = (
        f"{signed}.{b64(pyjwt.algorithms.ECAlgorithm(pyjwt.algorithms.ECAlgorithm.SHA256).sign(signed.encode(), key))}"
    )
    await refused(desk, forged)
    # "Unknown kid" is the one the other library may resolve by itself: it has a single key to try.
    assert not await joserfc_accepts(desk, forged) or "kid" in change


CLAIMS: list[dict[str, Any]] = [
    {"iss": "https://evil.example"},
    {"iss": ISSUER + "/"},
    {"iss": None},
    {"aud": "https://evil.example/mcp"},
    {"aud": RESOURCE + "x"},
    {"aud": RESOURCE.replace("agents", "bgents") + "/all"},
    {"aud": RESOURCE + "/../admin"},
    {"aud": [RESOURCE]},
    {"aud": None},
    {"exp": 1},
    {"exp": None},
    {"exp": "9999999999"},
    {"exp": 1e400},
    {"iat": 9999999999},
    {"iat": None},
    {"nbf": 9999999999},
    {"sub": None},
    {"sub": ""},
    {"jti": None},
    {"sid": None},
    {"sid": "nobody"},
    {"sid": "cb_auth.>"},
    {"sid": "line\n"},
    {"tenant": "other"},
    {"tenant": None},
    {"client_id": "cl_other"},
    {"scope": None},
    {"scope": ["agents:read"]},
]


@pytest.mark.parametrize("change", CLAIMS)
async def test_a_token_with_another_claim_is_refused_though_we_signed_it(desk: Desk, change: dict[str, Any]) -> None:
    """A right signature does not make a wrong claim right."""
    token = await good(desk)
    claims = {name: value for name, value in (part(token, 1) | change).items() if value is not None}
    forged = jwt.encode(part(token, 0), claims, await private_key(desk), algorithms=["ES256"])
    await refused(desk, forged)
    untouched = jwt.encode(part(token, 0), part(token, 1), await private_key(desk), algorithms=["ES256"])
    assert (await desk.auth.verifier.verify(untouched)).principal.tenant == "acme"


async def _forgeries(desk: Desk, token: str) -> dict[str, str]:
    head, body, signature = token.split(".")
    header, claims = part(token, 0), part(token, 1)
    mine, other = await private_key(desk), ECKey.generate_key("P-256")
    public = (await desk.auth.signing.jwks())["keys"][0]
    public_pem = mine.get_op_key("verify").public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    raw = base64.urlsafe_b64decode(signature + "==")
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    own_jwk = b64(json.dumps(header | {"jwk": other.as_dict(private=False)}).encode())

    def unsigned(**change: Any) -> str:
        return b64(json.dumps(header | change).encode()) + "." + body

    def signed_by_secret(secret: bytes) -> str:
        return jwt.encode(header | {"alg": "HS256"}, claims, OctKey.import_key(secret), algorithms=["HS256"])

    return {
        "none": unsigned(alg="none") + ".",
        "None": unsigned(alg="None") + "." + signature,
        "nONE empty": unsigned(alg="nONE") + ".",
        "no signature": f"{head}.{body}.",
        "two segments": f"{head}.{body}",
        "four segments": f"{token}.{signature}",
        "hmac by jwk": signed_by_secret(json.dumps(public).encode()),
        "hmac by x": signed_by_secret(public["x"].encode()),
        "hmac label": unsigned(alg="HS256") + "." + signature,
        "hmac by pem": f"{unsigned(alg='HS256')}."
        + b64(pyjwt.algorithms.HMACAlgorithm(pyjwt.algorithms.HMACAlgorithm.SHA256).sign(public_pem, public_pem)),
        "other key": jwt.encode(header, claims, other, algorithms=["ES256"]),
        "other key in header": f"{own_jwk}.{body}.{signature}",
        "rsa": pyjwt.encode(claims, rsa_key, algorithm="RS256", headers=header | {"alg": "RS256"}),
        "es384": unsigned(alg="ES384") + "." + signature,
        "zero signature": f"{head}.{body}." + b64(bytes(64)),
        "ones signature": f"{head}.{body}." + b64(b"\xff" * 64),
        "short signature": f"{head}.{body}." + b64(raw[:63]),
        "long signature": f"{head}.{body}." + b64(raw + b"\x00"),
        "der signature": f"{head}.{body}."
        + b64(mine.get_op_key("sign").sign(f"{head}.{body}".encode(), ec.ECDSA(pyjwt.algorithms.ECAlgorithm.SHA256()))),
        "halves swapped": f"{head}.{body}." + b64(raw[32:] + raw[:32]),
        "padding": token + "==",
        "newline": token + "\n",
        "spare bits": token[:-1] + chr(ord(token[-1]) + 1),
        "leading blank": " " + token,
        "not ascii": token + "é",
        "empty": "",
        "dots": "..",
        "deep": b64(b'{"alg":' + b"[" * 3000 + b"]" * 3000 + b"}") + f".{body}.{signature}",
        "duplicate alg": b64(b'{"alg":"none","alg":"ES256","typ":"at+jwt"}') + f".{body}.{signature}",
        "list header": b64(b"[]") + f".{body}.{signature}",
        "too long": f"{head}.{body}{'A' * 8192}.{signature}",
    }


async def test_no_forged_token_passes_and_both_libraries_agree(desk: Desk) -> None:
    """Algorithms, keys, signatures and encodings: every one refused, none an unexpected error."""
    token = await good(desk)
    for name, forged in (await _forgeries(desk, token)).items():
        await refused(desk, forged)
        lenient = name in (
            "padding",
            "newline",
            "spare bits",
            "leading blank",
            "not ascii",
        )  # the text, not the signature
        assert lenient or not await joserfc_accepts(desk, forged), name
    assert (await desk.auth.verifier.verify(token)).principal.tenant == "acme"


async def test_every_changed_character_is_noticed(desk: Desk) -> None:
    """A token with one character replaced, at each place in turn, is refused."""
    token = await good(desk)
    for place, character in enumerate(token):
        other = "A" if character != "A" else "B"
        await refused(desk, token[:place] + other + token[place + 1 :])


async def test_refresh_tokens_codes_and_secrets_are_no_bearer_tokens(desk: Desk) -> None:
    """Nothing else we hand out opens the door."""
    client = await desk.public_client()
    body = await desk.tokens(client)
    _, secret = await desk.machine()
    for other in (body["refresh_token"], await desk.code(client), secret):
        await refused(desk, other)


async def test_another_servers_token_is_refused(desk: Desk) -> None:
    """Same software, same tenant name, another issuer."""
    foreign = build(MemoryStore(desk.clock), desk.clock, issuer="https://elsewhere.example")
    await foreign.tenants.create("acme")
    token = (await foreign.tokens.issue_direct("acme")).access_token
    assert (await foreign.verifier.verify(token)).principal.tenant == "acme"
    await refused(desk, token)


@pytest.mark.parametrize("seen_before", [True, False])
async def test_a_token_ends_at_its_second(desk: Desk, *, seen_before: bool) -> None:
    """Good at 3599 s, refused at 3600 s, whether or not it was cached."""
    token = await good(desk)
    desk.clock.advance(3599)
    if seen_before:
        await desk.auth.verifier.verify(token)
    desk.clock.advance(1)
    await refused(desk, token)


async def test_a_suspended_tenants_tokens_stop_and_resume(desk: Desk) -> None:
    """Within five seconds both ways."""
    token = await good(desk)
    await desk.auth.verifier.verify(token)
    await desk.auth.tenants.set_active("acme", active=False)
    desk.clock.advance(5)
    await refused(desk, token)
    await desk.auth.tenants.set_active("acme", active=True)
    desk.clock.advance(5)
    assert (await desk.auth.verifier.verify(token)).principal.tenant == "acme"


async def test_tokens_of_a_retired_key_go_on_and_new_ones_use_the_new_key(desk: Desk) -> None:
    """It is published at once and signs ten minutes later; rotation breaks nothing, here or in another process."""
    elsewhere = build(desk.store, desk.clock)
    old = await good(desk)
    await elsewhere.verifier.verify(old)
    kid = await desk.auth.signing.rotate()
    with pytest.raises(Conflict):
        await elsewhere.signing.rotate()
    desk.clock.advance(599)
    late = await good(desk)
    desk.clock.advance(1)
    new = await good(desk)
    assert part(new, 0)["kid"] == kid != part(late, 0)["kid"] == part(old, 0)["kid"]
    for server in (desk.auth, elsewhere):
        for token in (old, late, new):
            assert (await server.verifier.verify(token)).principal.tenant == "acme"
    assert len((await desk.auth.signing.jwks())["keys"]) == 2


async def test_no_verifier_meets_a_key_it_cannot_know(desk: Desk) -> None:
    """Over a rotation, every token's key is in the document as anybody may have kept it for five minutes."""
    documents: list[set[str]] = []
    for minute in range(40):
        if minute == 10:
            await desk.auth.signing.rotate()
        documents.append({key["kid"] for key in (await desk.auth.signing.jwks())["keys"]})
        signed = part(await good(desk), 0)["kid"]
        assert all(signed in document for document in documents[-6:]), minute
        desk.clock.advance(60)
    assert len(documents[-1]) == 2


async def test_a_key_that_has_signed_for_ninety_days_is_replaced(desk: Desk) -> None:
    """By whoever signs next; nobody has to do anything."""
    first = part(await good(desk), 0)["kid"]
    desk.clock.advance(90 * 86400 + 1)
    assert part(await good(desk), 0)["kid"] == first
    assert len((await desk.auth.signing.jwks())["keys"]) == 2
    desk.clock.advance(600)
    assert part(await good(desk), 0)["kid"] != first


async def test_a_retired_key_leaves_after_thirty_one_days(desk: Desk) -> None:
    """At the rotation after that it is no longer published."""
    await good(desk)
    await desk.auth.signing.rotate()
    desk.clock.advance(31 * 86400 + 600)
    await desk.auth.signing.rotate()
    assert len((await desk.auth.signing.jwks())["keys"]) == 2


async def test_processes_that_start_together_agree_on_one_key(desk: Desk) -> None:
    """Each signs, each verifies the other's token, one key is published."""
    servers = [build(desk.store, desk.clock) for _ in range(5)]
    tokens: list[str] = []

    async def sign(number: int) -> None:
        tokens.append((await servers[number].tokens.issue_direct("acme")).access_token)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(sign, number)
    assert len({part(token, 0)["kid"] for token in tokens}) == 1
    for token in tokens:
        assert (await desk.auth.verifier.verify(token)).principal.tenant == "acme"


async def test_private_keys_are_unreadable_in_the_store_and_absent_from_the_jwks(desk: Desk) -> None:
    """The public document has no private member, the stored record only a sealed one."""
    await good(desk)
    (key,) = (await desk.auth.signing.jwks())["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert key["kid"] == ECKey.import_key({"kty": "EC", "crv": "P-256", "x": key["x"], "y": key["y"]}).thumbprint()
    secret = (await private_key(desk)).as_dict(private=True)["d"]
    record = await desk.store.get("cb_auth", "signing.set")
    assert record is not None
    assert str(secret).encode() not in record.value


async def test_a_direct_token_has_the_scopes_it_was_asked_for(desk: Desk) -> None:
    """All of the tenant's own without a scope, `platform:admin` only by name, nothing unknown."""
    issued = await desk.auth.tokens.issue_direct("acme", frozenset({"agents:read"}), ttl=60)
    assert (issued.scope, issued.expires_in, issued.tenant) == ("agents:read", 60, "acme")
    everything = await desk.auth.verifier.verify(await good(desk))
    assert not everything.principal.allows(PLATFORM_ADMIN)
    for scopes in (frozenset({"agents:fly"}), frozenset[str]()):
        with pytest.raises(Invalid):
            await desk.auth.tokens.issue_direct("acme", scopes)
    with pytest.raises(NotFound):
        await desk.auth.tokens.issue_direct("nobody")
    await desk.auth.service.end(issued.sid)
    await refused(desk, issued.access_token)


async def test_a_retired_key_leaves_by_itself(desk: Desk) -> None:
    """Whether or not anybody rotates again."""
    first = part(await good(desk), 0)["kid"]
    await desk.auth.signing.rotate()
    desk.clock.advance(timedelta(days=31, minutes=10).total_seconds() - 1)
    assert first in [key["kid"] for key in (await desk.auth.signing.jwks())["keys"]]
    desk.clock.advance(2)
    assert first not in [key["kid"] for key in (await desk.auth.signing.jwks())["keys"]]
    assert await desk.auth.signing.verifying_key(str(first)) is None


async def test_a_key_that_got_out_is_worth_nothing_within_a_minute(desk: Desk) -> None:
    """At every process, in the middle of a rotation too; refresh tokens go on, with tokens of the new key."""
    client = await desk.public_client()
    tokens = await desk.tokens(client)
    other = build(desk.store, desk.clock)
    await desk.auth.signing.rotate()
    leaked = await private_key(desk)
    for each in (desk.auth, other):
        await each.verifier.verify(tokens["access_token"])
    kid = await desk.auth.signing.replace()
    desk.clock.advance(60)
    for each in (desk.auth, other):
        with pytest.raises(Denied):
            await each.verifier.verify(tokens["access_token"])
        assert [key["kid"] for key in (await each.signing.jwks())["keys"]] == [kid]
    claims = part(tokens["access_token"], 1) | {"exp": 2**33}
    header = {"alg": "ES256", "typ": "at+jwt", "kid": leaked.thumbprint()}
    with pytest.raises(Denied):
        await other.verifier.verify(jwt.encode(header, claims, leaked, algorithms=["ES256"]))
    fresh = (await desk.refresh(client, tokens["refresh_token"])).json()["access_token"]
    assert part(fresh, 0)["kid"] == kid
    for each in (desk.auth, other):
        await each.verifier.verify(fresh)
