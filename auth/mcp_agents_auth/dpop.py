"""Proofs of possession (DPoP, RFC 9449): a request shows that its sender holds the key that its token is bound to.

A stolen token is then of no use without the key. Each proof is for one method and one address, lives a minute, and
counts once over all processes. No nonces are asked for. Above: the token endpoint, which binds, and the HTTP door,
which asks.
"""

import base64
import hashlib
import json
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import jwt
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.client_keys import ALGORITHMS, key_algorithm, public_key
from mcp_agents_auth.handles import same

WINDOW_SECONDS: Final = 60
_TYPE: Final = "dpop+jwt"
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k", "oth"})
_LONGEST: Final = 4096


class UsedProof(Struct, frozen=True, kw_only=True):
    """That a proof was shown; its key is the digest of key and `jti`."""

    v: int = 1


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    typ: str
    alg: str
    jwk: dict[str, Any]


class _Claims(Struct, frozen=True):
    jti: str
    htm: str
    htu: str
    iat: int | float
    ath: str = ""


class Proofs:
    """Checks proofs, and remembers those that were shown."""

    def __init__(self, platform: PlatformSpace, clock: Clock) -> None:
        self._used = platform.records("cb_auth", "proof", kind=UsedProof)
        self._clock = clock

    async def key_of(self, proofs: list[str], method: str, url: str, *, token: str = "") -> str:
        """The thumbprint (RFC 7638) of the key that a request proves to hold. `proofs` are all its `DPoP` headers.

        With `token` the proof must be for that access token. Raises `Denied` (`PROOF_INVALID`) for none, several, one
        for another request, an old one, and one that was shown before.
        """
        if len(proofs) != 1 or len(proofs[0]) > _LONGEST or not proofs[0].isascii():
            raise _refused()
        try:
            header, claims = _verified(proofs[0])
            thumbprint = _thumbprint(header.jwk)
            name = hashlib.sha256(f"{thumbprint}\0{claims.jti}".encode()).hexdigest()
            late = not abs(claims.iat - self._clock.now().timestamp()) <= WINDOW_SECONDS  # true of what is no number
        except (ValueError, TypeError, KeyError, OverflowError, JoseError) as cause:
            raise _refused() from cause
        if late or claims.htm != method or _bare(claims.htu) != url:
            raise _refused()
        if token and not same(claims.ath, hash_of(token)):
            raise _refused()
        if not 8 <= len(claims.jti) <= 256:
            raise _refused()
        try:
            await self._used.create(name, value=UsedProof(), ttl=2 * WINDOW_SECONDS + 5)
        except WrongRevision as replayed:
            raise _refused() from replayed
        return thumbprint


def hash_of(token: str) -> str:
    """What a proof says of the token that it goes with (`ath`)."""
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


def _verified(proof: str) -> tuple[_Header, _Claims]:
    try:
        raw = proof.split(".")[0]
        text = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
        header = msgspec.convert(json.loads(text), _Header)
        algorithm = key_algorithm(header.jwk)
        if header.typ != _TYPE or header.alg not in ALGORITHMS or header.alg != algorithm or _PRIVATE & set(header.jwk):
            raise _refused()
        options: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
        payload = jwt.decode(proof, public_key(header.jwk), algorithms=[algorithm], options=options)
        return header, msgspec.convert(payload, _Claims)
    except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError, RecursionError) as cause:
        raise _refused() from cause


def _thumbprint(jwk: dict[str, Any]) -> str:
    """By RFC 7638, of the members that make the key and no others."""
    made_of: dict[str, str | list[str]] = {
        name: str(jwk[name]) for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk
    }
    return str(JWKRegistry.import_key(made_of).thumbprint())


def _bare(url: str) -> str:
    """Without query and fragment (RFC 9449 §4.3)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def _refused() -> Denied:
    return Denied(
        "PROOF_INVALID", "The proof of possession is missing or not valid.", "Sign a new one for each request."
    )
