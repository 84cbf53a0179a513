"""Twelve thousand tokens that are nearly good, before two verifiers: ours (PyJWT) and a second one (joserfc).

Neither accepts one that is not what we signed, and they agree on all, but for one difference that is wanted: ours also
refuses another spelling of the very same bytes.
"""

import base64
import json
import random
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from mcp_agents.kernel.errors import Denied
from tests.auth.desk import ISSUER, RESOURCE, Desk
from tests.auth.test_verifier import b64, good, part, private_key

ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ODD: Final = [*ALPHABET, ".", "=", "+", "/", " ", "\n", "\x00", "é", "\U0001f600"]
_NEEDED: Final = {"sub", "jti", "sid", "client_id", "tenant", "scope"}


class Second:
    """The other judge: signature by joserfc, claims by hand."""

    def __init__(self, jwks: dict[str, Any], now: float) -> None:
        self._keys, self._now = KeySet.import_key_set(jwks), now  # type: ignore[arg-type]

    def accepts(self, token: str) -> bool:
        """Whether the token is one of ours, good now."""
        try:
            decoded = jwt.decode(token, self._keys, algorithms=["ES256"])
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
            return False
        header, claims = decoded.header, decoded.claims
        return bool(
            header.get("typ") == "at+jwt"
            and header.keys() == {"alg", "typ", "kid"}
            and isinstance(header["kid"], str)
            and claims.get("iss") == ISSUER
            and isinstance(claims.get("aud"), str)
            and claims["aud"] == RESOURCE
            and all(type(claims.get(name)) is int for name in ("exp", "iat"))
            and type(claims.get("nbf", 0)) is int
            and claims["exp"] > self._now
            and max(claims["iat"], claims.get("nbf", 0)) <= self._now + 30
            and all(isinstance(claims.get(name), str) for name in _NEEDED)
        )


def spelled(token: str) -> list[bytes] | None:
    """What a lenient reader makes of the segments: equal for different spellings of the same bytes."""
    try:
        return [base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)) for segment in token.split(".")]
    except ValueError:
        return None


def mutated(token: str, other: str, dice: random.Random) -> str:
    """The token with one to three characters changed, left out, doubled or moved, or a segment of another token."""
    text = token
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at = dice.randrange(len(text))
        match dice.randrange(7):
            case 0 | 1:
                text = text[:at] + dice.choice(ALPHABET) + text[at + 1 :]
            case 2:
                text = text[:at] + dice.choice(ODD) + text[at + 1 :]
            case 3:
                text = text[:at] + text[at + 1 :]
            case 4:
                text = text[:at] + dice.choice(ODD) + text[at:]
            case 5:
                text = text[:at] if at else text + token
            case _:
                ours, theirs = text.split("."), other.split(".")
                place = dice.randrange(min(len(ours), 3))
                ours[place] = theirs[place]
                text = ".".join(ours)
    return text


@pytest.mark.parametrize("seed", range(4))
async def test_of_three_thousand_mutants_none_is_accepted(desk: Desk, seed: int) -> None:
    """Four times three thousand, from two tokens of different tenants; every refusal is the one there is."""
    await desk.auth.tenants.create("other")
    ours, theirs = await good(desk), (await desk.auth.tokens.issue_direct("other")).access_token
    second = Second(await desk.auth.signing.jwks(), desk.clock.now().timestamp())
    assert second.accepts(ours)
    dice, tried, same_bytes = random.Random(seed), 0, 0
    whole = [spelled(ours), spelled(theirs)]
    while tried < 3000:
        token = mutated(ours, theirs, dice)
        if token in (ours, theirs):
            continue
        tried += 1
        with pytest.raises(Denied) as caught:
            await desk.auth.verifier.verify(token)
        assert caught.value.code == "TOKEN_INVALID"
        if second.accepts(token):
            assert spelled(token) in whole, token
            same_bytes += 1
    assert same_bytes < 100
    assert (await desk.auth.verifier.verify(ours)).principal.tenant == "acme"


VALUES: Final[list[Any]] = [
    *(None, True, False, 0, 1, -1, 1.5, 10**12, -(10**12), 2**63, 10**30, "", " ", "x", "acme", "other"),
    *(ISSUER, f"{ISSUER}/", RESOURCE, f"{RESOURCE}/", f"{RESOURCE}/../x", f"{RESOURCE}?x", "https://evil.example"),
    *([], [ISSUER], [RESOURCE]),
    *({}, {"a": 1}, "\ud7ff", "\u0000", "a b", "platform:admin"),
]


async def test_two_thousand_claims_and_headers_that_we_signed_are_judged_alike(desk: Desk) -> None:
    """With our own key under it, only the contents can give a forgery away: what one refuses the other does not take.

    Names in place of ours (`sub`, `tenant`, …) the second judge cannot look up; ours finds them not to be the grant's.
    """
    token, key = await good(desk), await private_key(desk)
    assert isinstance(key, ECKey)
    second = Second(await desk.auth.signing.jwks(), desk.clock.now().timestamp())
    claims, header = part(token, 1), part(token, 0)
    dice, accepted, by_second = random.Random(7), 0, 0
    for _ in range(2000):
        changed_claims, changed_header = dict(claims), dict(header)
        for _ in range(dice.choice((1, 1, 2))):
            target = changed_header if dice.random() < 0.2 else changed_claims
            name = dice.choice([*target, "nbf", "crit", "jku", "act"])
            if dice.random() < 0.15:
                target.pop(name, None)
            else:
                target[name] = dice.choice(VALUES)
        forged = signed(changed_header, changed_claims, key)
        theirs = second.accepts(forged)
        by_second += theirs
        try:
            verified = await desk.auth.verifier.verify(forged)
        except Denied:
            continue
        accepted += 1
        assert theirs, (changed_header, changed_claims)
        principal = verified.principal
        assert (principal.tenant, principal.subject, principal.client) == ("acme", claims["sub"], claims["client_id"])
        assert principal.scopes <= frozenset(claims["scope"].split())
        assert verified.expires_at > desk.clock.now().timestamp()
    assert 0 < accepted <= by_second < 1000


def signed(header: dict[str, Any], claims: dict[str, Any], key: ECKey) -> str:
    """A token under any header at all, signed by this key."""
    message = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    private = key.get_op_key("sign")
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(private.sign(message.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{message}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
