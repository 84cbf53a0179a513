"""JWTs of an issuer that is not us: header, signature and times. What their claims mean is for whoever asks.

Above: `external` (access tokens that open our door) and `identity_assertion` (assertions that are exchanged for one of
ours). Below: `issuer_keys`.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

import jwt

from mcp_agents_auth.issuer_keys import IssuerKeys

ALGORITHMS: Final = ["ES256", "ES384", "RS256", "PS256", "EdDSA"]
LEEWAY_SECONDS: Final = 30
_TRUSTING: Final = frozenset({"crit", "jwk", "jku", "x5u", "x5c", "b64"})
"""Headers that would ask us to trust what the token brings along, or to understand what we do not."""


class RefusedError(Exception):
    """Why a token is refused; for the log, and for a client that has proved itself."""


async def claims_of(token: str, keys: IssuerKeys, types: frozenset[str]) -> dict[str, Any]:
    """The claims of a token that this issuer signed, of one of these `typ`s (in lower case).

    `iss`, `sub`, `aud`, `iat` and `exp` are there; times and audience are not looked at. Raises `RefusedError`, and
    `Unavailable` while the issuer's keys were never read.
    """
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as cause:
        raise RefusedError("it is no JWT") from cause
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS or not isinstance(kid, str) or _TRUSTING & set(header):
        raise RefusedError("its alg or kid, or a header that brings trust along")
    if str(header.get("typ", "")).lower() not in types:
        raise RefusedError("its typ")
    key = await keys.key(kid, algorithm)
    if key is None:
        raise RefusedError("its key is unknown")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=keys.issuer,
            # Times go by our own clock and audiences are many: both are checked elsewhere.
            options={
                "require": ["iss", "sub", "aud", "iat", "exp"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as cause:
        raise RefusedError("its signature or its claims") from cause
    if claims["iss"] != keys.issuer:
        raise RefusedError("its issuer")
    return claims


def check_times(claims: Mapping[str, Any], now: float) -> None:
    """Raises `RefusedError` unless it is valid at `now` (seconds since 1970): half a minute early, never late."""
    times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and isfinite(each) for each in times):
        raise RefusedError("its times are none")
    if times[0] <= now:
        raise RefusedError("it has expired")
    if times[1] > now + LEEWAY_SECONDS or times[2] > now + LEEWAY_SECONDS:
        raise RefusedError("it is not valid yet")
