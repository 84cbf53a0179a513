"""Which client asks, and how it proves that: by a secret, by a signed assertion, or by its id alone when it is public.

One way per request. A client that was registered with a secret or with keys never passes without; of two ways only
the one it was registered with counts. Assertions (RFC 7523) are judged like access tokens: an explicit list of
algorithms, a key that was registered, every claim, and each one used once. Above: the grants.
"""

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote_plus

import jwt
import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.rates import Rates
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.client_keys import ALGORITHMS, key_algorithm, public_key
from mcp_agents_auth.clients import Client, Clients
from mcp_agents_auth.handles import digest
from mcp_agents_auth.oauth import OAuthError, Parameters

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
METHODS: Final = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]

_HEADER_LIMIT: Final = 4096
_ASSERTION_LIMIT: Final = 8192
_LONGEST: Final = timedelta(minutes=5)
_LEEWAY: Final = timedelta(seconds=30)
_TYPES: Final = ("", "JWT", "client-authentication+jwt")


class UsedAssertion(Struct, frozen=True, kw_only=True):
    """That an assertion was shown, for as long as it could be shown again."""

    v: int = 1
    at: datetime


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    # Anything else (jwk, jku, x5u, crit) would ask us to trust what the assertion brings along.
    alg: str
    typ: str = ""
    kid: str = ""


class _Claims(Struct, frozen=True):
    iss: str
    sub: str
    aud: str | list[str]
    exp: int | float
    jti: str
    iat: int | float = 0
    nbf: int | float = 0


class ClientAuthentication:
    """Tells clients apart. `issuer` is the only audience of an assertion."""

    def __init__(self, platform: PlatformSpace, clients: Clients, clock: Clock, issuer: str, rates: Rates) -> None:
        self._rates = rates
        self._used = platform.records("cb_auth", "assertion", kind=UsedAssertion)
        self._clients, self._clock, self._issuer = clients, clock, issuer

    async def of(self, parameters: Parameters, authorization: str | None) -> Client:
        """The client behind a request. `authorization` is the header's value.

        One that proves itself has a limit of its own; whoever only claims to be one cannot use that up. Raises
        `OAuthError`: `invalid_client`, or `invalid_request` for two ways at once, and `Exhausted`.
        """
        client_id, secret = parameters.get("client_id", ""), parameters.get("client_secret")
        assertion = parameters.get("client_assertion")
        if sum(way is not None for way in (authorization, secret, assertion)) > 1:
            raise OAuthError("invalid_request", "Use one way of client authentication.")
        if assertion is not None:
            return await self._counted(await self._asserted(parameters, assertion))
        if authorization is not None:
            named, secret = _basic(authorization)
            if client_id not in ("", named):
                raise OAuthError("invalid_request", "client_id differs from the Authorization header.")
            client_id = named
        client = await self._clients.find(client_id)
        if client is None or not client.active or client.jwks:
            raise unproved()
        if client.confidential != (secret is not None) or (secret is not None and not client.proves(secret)):
            raise unproved()
        return await self._counted(client) if client.confidential else client

    async def _counted(self, client: Client) -> Client:
        await self._rates.take("token_per_client", client.id)
        return client

    async def _asserted(self, parameters: Parameters, assertion: str) -> Client:
        if parameters.get("client_assertion_type") != ASSERTION_TYPE:
            raise unproved()
        header, claimed = _unverified(assertion)
        client = await self._clients.find(claimed)
        if client is None or not client.active or parameters.get("client_id", client.id) != client.id:
            raise unproved()
        key = next((each for each in client.jwks if header.kid in ("", each.get("kid", ""))), None)
        if key is None or (not header.kid and len(client.jwks) > 1) or key_algorithm(key) != header.alg:
            raise unproved()
        claims = _verified(assertion, key)
        self._check(claims, client)
        try:  # whoever is second has copied it
            name = digest(f"{client.id}\0{claims.jti}")
            keep = int((_LONGEST + 2 * _LEEWAY).total_seconds())
            await self._used.create(name, value=UsedAssertion(at=self._clock.now()), ttl=keep)
        except WrongRevision as again:
            raise unproved() from again
        return client

    def _check(self, claims: _Claims, client: Client) -> None:
        now = self._clock.now().timestamp()
        audience = claims.aud if isinstance(claims.aud, str) else claims.aud[0] if len(claims.aud) == 1 else ""
        fits = claims.iss == claims.sub == client.id and audience == self._issuer and 0 < len(claims.jti) <= 256
        begun = max(claims.iat, claims.nbf) <= now + _LEEWAY.total_seconds()
        lives = now < claims.exp <= now + _LONGEST.total_seconds() + _LEEWAY.total_seconds()
        if not (fits and begun and lives):
            raise unproved()


def _unverified(assertion: str) -> tuple[_Header, str]:
    """The header, and who the assertion says it is from: only to find the key by."""
    if len(assertion) > _ASSERTION_LIMIT or not assertion.isascii():
        raise unproved()
    segments = assertion.split(".")
    try:
        decoded = [base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)) for segment in segments]
        header = msgspec.json.decode(decoded[0], type=_Header)
        claimed = msgspec.json.decode(decoded[1], type=_Claims).sub
    except (binascii.Error, ValueError, IndexError, RecursionError) as cause:
        raise unproved() from cause
    if len(segments) != 3 or header.alg not in ALGORITHMS or header.typ not in _TYPES:
        raise unproved()
    return header, claimed


def _verified(assertion: str, key: Mapping[str, str]) -> _Claims:
    ours: Any = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
    try:
        payload = jwt.decode(assertion, public_key(key), algorithms=[key_algorithm(key)], options=ours)
        return msgspec.convert(payload, _Claims)
    except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError, RecursionError) as cause:
        raise unproved() from cause


def _basic(authorization: str) -> tuple[str, str]:
    """Client id and secret of a Basic header; both are form-encoded inside it (RFC 6749 §2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > _HEADER_LIMIT:
        raise unproved()
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as malformed:
        raise unproved() from malformed
    if not colon:
        raise unproved()
    return unquote_plus(client_id), unquote_plus(secret)


def unproved() -> OAuthError:
    """The one answer to a client that did not prove itself."""
    return OAuthError("invalid_client", "Client authentication failed.")
