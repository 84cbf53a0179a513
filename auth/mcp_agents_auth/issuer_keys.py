"""The public keys of an issuer that is not us: found by discovery, fetched seldom, kept when it cannot be reached.

Whatever key ids callers make up, there is at most one fetch in thirty seconds; the last good keys go on being used
while the issuer is away. A key counts only for the one algorithm that is its own. Below: the kernel's `Fetch`.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Unavailable
from mcp_agents.kernel.fetch import Fetch

log = logging.getLogger("mcp_agents.auth")

COOL_SECONDS: Final = 30.0
FRESH_SECONDS: Final = 600.0
_LIMIT: Final = 256 * 1024
_SECONDS: Final = 5.0
_KEYS: Final = 64
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384"}
_RSA_BITS: Final = (2048, 8192)


class IssuerKeys:
    """Keys by id. `issuer` is compared character by character with what its document says."""

    def __init__(self, issuer: str, fetch: Fetch, clock: Clock) -> None:
        self.issuer = issuer
        self._fetch, self._clock = fetch, clock
        self._keys: dict[str, tuple[Any, frozenset[str]]] = {}
        self._fetched_at, self._tried_at = float("-inf"), float("-inf")
        self._one = anyio.Lock()

    async def key(self, kid: str, algorithm: str) -> Any | None:
        """The key with this id, if it is one for this algorithm. Raises `Unavailable` while none are known at all."""
        if kid not in self._keys or self._clock.monotonic() - self._fetched_at > FRESH_SECONDS:
            await self._refresh(kid)
        if not self._keys:
            raise Unavailable("ISSUER_UNREACHABLE", "The authorization server's keys cannot be read.", "Try again.")
        key, algorithms = self._keys.get(kid, (None, frozenset[str]()))
        return key if algorithm in algorithms else None

    async def discover(self) -> dict[str, Any]:
        """The issuer's metadata, by RFC 8414 or OpenID Connect. Raises `Unavailable` (`ISSUER_UNREACHABLE`)."""
        for address in addresses(self.issuer):
            try:
                document = await self._document(address)
            except AgentsError as error:
                log.info("no metadata of the issuer at %s: %s", address, error.code)
                continue
            if document.get("issuer") == self.issuer and _secure(str(document.get("jwks_uri", ""))):
                return document
            log.warning("the metadata at %s is of another issuer, or its keys are over plain http", address)
        raise Unavailable(
            "ISSUER_UNREACHABLE",
            "The authorization server's metadata cannot be read, or is another's.",
            "Check the issuer in [auth]: it must be, to the letter, what the document there calls itself.",
        )

    async def _refresh(self, kid: str) -> None:
        async with self._one:
            now = self._clock.monotonic()
            known = kid in self._keys and now - self._fetched_at <= FRESH_SECONDS
            if known or now - self._tried_at < COOL_SECONDS:
                return
            self._tried_at = now
            try:
                document = await self.discover()
                keys = _usable(await self._document(document["jwks_uri"]))
            except AgentsError as error:
                log.warning("the issuer's keys are kept as they are: %s", error.code)
                return
            if keys:
                self._keys, self._fetched_at = keys, now

    async def _document(self, address: str) -> dict[str, Any]:
        answer = await self._fetch.get(address, limit=_LIMIT, seconds=_SECONDS)
        try:
            document = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, RecursionError):
            document = None
        if answer.status != 200 or not isinstance(document, dict):
            raise Unavailable("ISSUER_UNREACHABLE", "The authorization server's document cannot be read.", "Try again.")
        return document


def addresses(issuer: str) -> list[str]:
    """Where an issuer's metadata may be, the more specific first."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    inserted = [f"/.well-known/{name}{path}" for name in ("oauth-authorization-server", "openid-configuration")]
    every = dict.fromkeys([*inserted, f"{path}/.well-known/openid-configuration"])
    return [urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in every]


def _secure(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _usable(document: Mapping[str, Any]) -> dict[str, tuple[Any, frozenset[str]]]:
    keys: dict[str, tuple[Any, frozenset[str]]] = {}
    listed = document.get("keys")
    for each in listed[:_KEYS] if isinstance(listed, list) else []:
        if not isinstance(each, dict) or not isinstance(each.get("kid"), str) or each.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(each, algorithm=_named(each)).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        algorithms = _algorithms(key)
        if "alg" in each:
            algorithms &= {str(each["alg"])}
        if algorithms:
            keys[each["kid"]] = key, algorithms
    return keys


def _named(jwk: Mapping[str, Any]) -> str | None:
    """An algorithm for PyJWT to read the key by, where the key names none that it knows."""
    return {"RSA": "RS256", "OKP": "EdDSA"}.get(str(jwk.get("kty"))) if "alg" not in jwk else None


def _algorithms(key: Any) -> frozenset[str]:
    """What a public key may have signed; nothing for one that is private, symmetric, or of another kind."""
    match key:
        case rsa.RSAPublicKey() if _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]:
            return frozenset({"RS256", "PS256"})
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return frozenset({_CURVES[key.curve.name]})
        case ed25519.Ed25519PublicKey():
            return frozenset({"EdDSA"})
    return frozenset()
