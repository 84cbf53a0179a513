"""What everything that another issuer signed goes through before anybody asks what it is for.

An explicit list of algorithms, no header that brings trust along, a key out of that issuer's own set, times that are
numbers. Whom it names and whether it is meant for us is judged by those above: `external` for access tokens,
`identity_assertion` for who somebody is. Below: `issuer_keys`.
"""

from collections.abc import Mapping
from typing import Any, Final

import jwt
import msgspec

from mcp_agents_auth.issuer_keys import IssuerKeys
from mcp_agents_auth.verifier import MAX_TOKEN_BYTES, Confirmation

ALGORITHMS: Final = ["ES256", "ES384", "RS256", "PS256", "EdDSA"]
LEEWAY_SECONDS: Final = 30
_TRUSTING: Final = frozenset({"crit", "jwk", "jku", "x5u", "x5c", "b64"})
"""Headers that would ask us to trust what the token brings along, or to understand what we do not."""
_BEYOND: Final = 2.0**53
"""No time is so far away: from here on numbers are not exact, and some are none."""


class RefusedError(Exception):
    """Why a token is refused, in a sentence that repeats nothing of it."""


def claimed_issuer(token: str) -> str:
    """Whose a token says it is: only to find the keys by. Raises `RefusedError`."""
    _check_form(token)
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as cause:
        raise RefusedError("It is no signed JWT.") from cause
    return issuer if isinstance(issuer, str) else ""


async def signed_claims(token: str, keys: IssuerKeys, types: frozenset[str]) -> dict[str, Any]:
    """What the issuer of `keys` signed. `types` are those that `typ` may name, in small letters.

    Raises `RefusedError`, or `Unavailable` while the issuer's keys were never read.
    """
    _check_form(token)
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as cause:
        raise RefusedError("Its header cannot be read.") from cause
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS or not isinstance(kid, str) or _TRUSTING & set(header):
        raise RefusedError(f"Its header needs a kid and one of {', '.join(ALGORITHMS)}, and brings no key along.")
    if str(header.get("typ", "")).lower() not in types:
        raise RefusedError("Its typ is of another kind of token.")
    key = await keys.key(kid, algorithm)
    if key is None:
        raise RefusedError("Its key is not one of the issuer's for this algorithm.")
    try:
        said: dict[str, Any] = jwt.decode(
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
        raise RefusedError("Its signature is not good, or iss, sub, aud, iat or exp is missing.") from cause
    if said["iss"] != keys.issuer:
        raise RefusedError("It is of another issuer.")
    return said


def check_times(said: Mapping[str, Any], now: float) -> None:
    """Raises `RefusedError` unless `exp`, `iat` and `nbf` are numbers and `now`, in seconds since 1970, is in time."""
    times = [said["exp"], said["iat"], said.get("nbf", 0)]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < _BEYOND for each in times):
        raise RefusedError("Its times are not numbers.")
    if times[0] <= now:
        raise RefusedError("It has expired.")
    if times[1] > now + LEEWAY_SECONDS or times[2] > now + LEEWAY_SECONDS:
        raise RefusedError("It is not valid yet.")


def subject_of(said: Mapping[str, Any]) -> str:
    """Whom it is about, as the issuer calls them. Raises `RefusedError`."""
    subject = said["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise RefusedError("Its sub is not 1 to 255 printable characters.")
    return subject


def bound_to(claim: object) -> str:
    """The key that a token is bound to; a binding of a kind that we do not know is one that nobody can prove."""
    if claim is None:
        return ""
    try:
        return msgspec.convert(claim, Confirmation).jkt or "unknown"
    except msgspec.ValidationError:
        return "unknown"


def _check_form(token: str) -> None:
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        raise RefusedError("It is too long, or not ASCII.")
