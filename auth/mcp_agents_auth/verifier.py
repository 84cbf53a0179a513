"""From a bearer token to a `Principal`: signature, every claim, and the grant's standing now.

One refusal for every reason; the reason itself is only logged, without the token. What was verified is cached
under the SHA-256 of the whole token, since a prefix can be shared and the text of a signature can be varied.
Below it stand the signing keys and the standings; above it the HTTP door.
"""

import base64
import binascii
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import jwt
import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, TENANT_SCOPES
from mcp_agents_auth.resources import Resources
from mcp_agents_auth.signing import TOKEN_TYPE, SigningKeys
from mcp_agents_auth.standing import Standings

MAX_TOKEN_BYTES: Final = 8192
ALGORITHMS: Final = ["ES256", "RS256"]
_REQUIRED: Final = ["iss", "sub", "aud", "client_id", "scope", "tenant", "iat", "exp", "jti", "sid"]
_LEEWAY_SECONDS: Final = 30
_CACHED: Final = 4096
_CACHE_SECONDS: Final = 60.0

_log = logging.getLogger("mcp_agents.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """What a good token says. `expires_at` is seconds since 1970."""

    principal: Principal
    expires_at: int
    issued_at: int
    client_id: str
    resource: str
    jti: str
    sid: str
    jkt: str = ""
    """The key that whoever shows it must prove to hold; "" for a bearer token."""


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    # Anything else (jwk, jku, x5u, crit, b64) would ask us to trust what the token brings along.
    alg: str
    typ: str
    kid: str


class _Act(Struct, frozen=True):
    """Who acts, and who acted before (RFC 8693 §4.1)."""

    sub: str
    act: "_Act | None" = None


class Confirmation(Struct, frozen=True):
    """What a token is bound to (RFC 9449 §6.1)."""

    jkt: str


class _Claims(Struct, frozen=True):
    iss: str
    sub: str
    aud: str
    client_id: str
    scope: str
    tenant: str
    iat: int
    exp: int
    jti: str
    sid: str
    nbf: int = 0
    act: "_Act | None" = None
    cnf: Confirmation | None = None


class _RefusedError(Exception):
    """Why a token is refused; for the log."""


class Verifier(Protocol):
    """What the door asks about bearer tokens, whoever signs them."""

    @property
    def issuer(self) -> str:
        """The authorization server that clients are sent to."""
        ...

    async def verify(self, token: str) -> VerifiedToken:
        """The caller. Raises `Denied` (`TOKEN_INVALID`), `Unavailable`."""
        ...

    async def again(self, token: VerifiedToken) -> VerifiedToken:
        """A token that was good, as it stands at this moment. Raises as `verify`."""
        ...


class TokenVerifier:
    """Verifies tokens of one issuer for one server's resources."""

    def __init__(
        self, *, issuer: str, resources: Resources, signing: SigningKeys, standings: Standings, clock: Clock
    ) -> None:
        self.issuer, self._resources = issuer, resources
        self._signing, self._standings, self._clock = signing, standings, clock
        self._cache: OrderedDict[bytes, tuple[_Claims, float]] = OrderedDict()

    async def verify(self, token: str, *, exchanged: bool = False) -> VerifiedToken:
        """The caller behind a bearer token. Raises `Denied` (`TOKEN_INVALID`), whatever the reason.

        `exchanged`: the token is shown to the issuer itself, and may be one that is for the issuer alone.
        """
        try:
            claims = await self._claims(token)
            if not (self._resources.accepts(claims.aud) or (exchanged and claims.aud == self.issuer)):
                raise _RefusedError("aud")
            return await self._with_standing(claims)
        except _RefusedError as reason:
            _log.debug("token refused: %s", reason)
            raise invalid_token() from None

    async def again(self, token: VerifiedToken) -> VerifiedToken:
        """A token that was good, as it stands at this moment: with what is left of its scopes.

        For what stays open longer than an answer may be reused. Raises `Denied` (`TOKEN_INVALID`).
        """
        standing = await self._standings.now(token.sid)
        if standing is None or token.expires_at <= self._clock.now().timestamp():
            raise invalid_token()
        scopes = token.principal.scopes & standing.scopes
        return replace(token, principal=replace(token.principal, scopes=scopes, roles=standing.roles))

    async def _with_standing(self, claims: _Claims) -> VerifiedToken:
        standing = await self._standings.of(claims.sid)
        if standing is None:
            raise _RefusedError("grant ended")
        family = standing.family
        if (family.tenant, family.subject, family.client_id) != (claims.tenant, claims.sub, claims.client_id):
            raise _RefusedError("claims differ from the grant")
        scopes = frozenset(claims.scope.split()) & standing.scopes & (TENANT_SCOPES | {PLATFORM_ADMIN})
        principal = Principal(
            tenant=claims.tenant,
            subject=claims.sub,
            scopes=scopes,
            client=claims.client_id,
            roles=standing.roles,
            actors=_actors(claims.act),
            grant=claims.sid,
        )
        return VerifiedToken(
            principal=principal,
            expires_at=claims.exp,
            issued_at=claims.iat,
            client_id=claims.client_id,
            resource=claims.aud,
            jti=claims.jti,
            sid=claims.sid,
            jkt=claims.cnf.jkt if claims.cnf else "",
        )

    async def _claims(self, token: str) -> _Claims:
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise _RefusedError("size or characters")
        name = hashlib.sha256(token.encode("ascii")).digest()
        cached = self._cache.get(name)
        if cached is not None and cached[1] > self._clock.monotonic():
            self._cache.move_to_end(name)
            claims = cached[0]
        else:
            claims = await self._decoded(token)
            self._cache[name] = claims, self._clock.monotonic() + _CACHE_SECONDS
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        self._check_times(claims)
        return claims

    async def _decoded(self, token: str) -> _Claims:
        header = _header(token)
        if header.typ != TOKEN_TYPE:
            raise _RefusedError("typ")
        if header.alg not in ALGORITHMS:
            raise _RefusedError("alg")
        key = await self._signing.verifying_key(header.kid)
        if key is None:
            raise _RefusedError("unknown key")
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self.issuer,
                # Times go by our own clock and audiences are many: both are checked here, not there.
                options={
                    "require": _REQUIRED,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                },
            )
            claims = msgspec.convert(payload, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError, RecursionError) as cause:
            raise _RefusedError(type(cause).__name__) from cause
        if claims.iss != self.issuer:
            raise _RefusedError("iss")
        return claims

    def _check_times(self, claims: _Claims) -> None:
        now = self._clock.now().timestamp()
        if claims.exp <= now:
            raise _RefusedError("expired")
        if claims.iat > now + _LEEWAY_SECONDS or claims.nbf > now + _LEEWAY_SECONDS:
            raise _RefusedError("not yet valid")


def nested(actors: tuple[str, ...]) -> dict[str, Any]:
    """A chain of actors, oldest first, as an `act` claim: the one that acts now is the outermost."""
    act: dict[str, Any] = {}
    for actor in actors:
        act = {"sub": actor, "act": act} if act else {"sub": actor}
    return act


def actors_of(claim: object) -> tuple[str, ...]:
    """The chain in an `act` claim of any shape, oldest first; what is no such claim says of nobody."""
    try:
        return _actors(msgspec.convert(claim, _Act | None))
    except (msgspec.ValidationError, RecursionError):
        return ("unknown",)


def _actors(act: _Act | None) -> tuple[str, ...]:
    chain: list[str] = []
    while act is not None:
        chain.append(act.sub)
        act = act.act
    return tuple(reversed(chain))


def invalid_token() -> Denied:
    """The one answer to every token that is not good."""
    return Denied("TOKEN_INVALID", "The access token is not valid.", "Sign in again.")


def _header(token: str) -> _Header:
    """The header of a token in canonical form: three segments, no padding, no spare bits."""
    segments = token.split(".")
    if len(segments) != 3:
        raise _RefusedError("segments")
    try:
        decoded = [base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)) for segment in segments]
        canonical = [base64.urlsafe_b64encode(part).rstrip(b"=").decode("ascii") for part in decoded]
        if canonical != segments:
            raise _RefusedError("encoding")
        return msgspec.json.decode(decoded[0], type=_Header)
    except (binascii.Error, ValueError, RecursionError) as cause:
        raise _RefusedError("header") from cause
