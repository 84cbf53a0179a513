"""The keys that sign access tokens: ES256, one active, the next one published ahead, the earlier ones kept until their
tokens are gone. A key is in the document ten minutes before it signs anything, twice as long as anybody may keep the
document, so that no verifier meets a token whose key it cannot know. The active key is replaced after ninety days.

All of them stand in one record, changed by compare-and-set, so that processes which start together agree on
one key. Private keys are sealed by the vault. It signs whatever claims it is given; `tokens` decides them.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict

import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey
from jwt.algorithms import ECAlgorithm
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, WrongRevision
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.tenancy import PlatformSpace, Versioned
from mcp_agents.security.keys import Vault

ALGORITHM: Final = "ES256"
TOKEN_TYPE: Final = "at+jwt"  # noqa: S105 - the `typ` of RFC 9068
KEEP_RETIRED: Final = timedelta(days=31)
"""A retired key verifies this long: more than the longest life of an access token."""
AHEAD: Final = timedelta(minutes=10)
"""So long a key is published before it signs: twice the `max-age` of the document, and more than we keep it."""
LIFE: Final = timedelta(days=90)

_FRESH_SECONDS: Final = 60.0
_COOL_DOWN_SECONDS: Final = 1.0
_PURPOSE: Final = "signing-key"


class PublicJwk(TypedDict):
    """A public key as it stands in the JWKS document."""

    kty: str
    crv: str
    x: str
    y: str
    kid: str
    use: str
    alg: str


class SigningKey(Struct, frozen=True, kw_only=True):
    """One key pair; `kid` is the RFC 7638 thumbprint, `sealed` the private JWK in the vault's form.

    Without `signs_from` it may sign at once: it is the first one, which nobody can have missed.
    """

    kid: str
    x: str
    y: str
    sealed: str
    created_at: datetime
    signs_from: datetime | None = None
    retired_at: datetime | None = None

    def public(self) -> PublicJwk:
        """The public half."""
        return {"kty": "EC", "crv": "P-256", "x": self.x, "y": self.y, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


class KeySet(Struct, frozen=True, kw_only=True):
    """The newest key first; of those that may sign by now the first one does."""

    v: int = 1
    keys: list[SigningKey]


class SigningKeys:
    """Signs with the active key and knows every key that still verifies."""

    def __init__(self, platform: PlatformSpace, vault: Vault, clock: Clock) -> None:
        self._records = platform.records("cb_auth", "signing", kind=KeySet)
        self._vault, self._clock = vault, clock
        self._seen: KeySet | None = None
        self._seen_at = 0.0
        self._private: dict[str, ECKey] = {}
        self._verifying: dict[str, Any] = {}  # PyJWT key objects by kid

    async def sign(self, claims: dict[str, Any]) -> str:
        """A signed `at+jwt` over exactly these claims. Raises `Fault` when the vault cannot open the key."""
        active = self._active(await self._current(_FRESH_SECONDS))
        if self._clock.now() - (active.signs_from or active.created_at) > LIFE:
            with suppress(Conflict):  # the next one is published already, or just now by somebody else
                await self.rotate()
        private = self._private.get(active.kid)
        if private is None:
            jwk = msgspec.json.decode(
                self._vault.unseal(PLATFORM, _PURPOSE, active.sealed), type=dict[str, str | list[str]]
            )
            private = self._private[active.kid] = ECKey.import_key(jwk)
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": active.kid}
        return str(jwt.encode(header, claims, private, algorithms=[ALGORITHM]))

    async def jwks(self) -> dict[str, list[PublicJwk]]:
        """The public document: every key that verifies, now or soon, the newest first."""
        keys = (await self._current(_COOL_DOWN_SECONDS)).keys
        return {"keys": [key.public() for key in keys if not self._gone(key)]}

    async def verifying_key(self, kid: str) -> Any | None:
        """The public key object for PyJWT, or None. An unknown `kid` looks again at most once a second."""
        keys = await self._current(_FRESH_SECONDS)
        if all(key.kid != kid for key in keys.keys):
            keys = await self._current(_COOL_DOWN_SECONDS)
        for key in keys.keys:
            if key.kid == kid and not self._gone(key):
                if kid not in self._verifying:
                    self._verifying[kid] = ECAlgorithm.from_jwk(dict(key.public()))
                return self._verifying[kid]
        return None

    async def replace(self) -> str:
        """A new key that signs at once, alone: what any other has signed is worth nothing within a minute.

        For a key that got out. Whoever keeps our keys in memory refuses new tokens until they read them again.
        """
        while True:
            found = await self._records.get("set")
            keys = KeySet(keys=[self._generate()])
            with suppress(WrongRevision):
                await self._records.update("set", value=keys, revision=found.revision if found else 0)
                self._remember(keys)
                return keys.keys[0].kid

    async def rotate(self) -> str:
        """Publishes a new key that signs in ten minutes, and returns its `kid`; the others verify for 31 days more.

        Raises `Conflict` (`ROTATED`) when somebody else rotated at the same time, or the last rotation is under way.
        """
        await self._current(0.0)
        found = await self._records.get("set")
        now = self._clock.now()
        old = found.value.keys if found else []
        if old and old[0].signs_from and old[0].signs_from > now:
            raise _rotated()
        begins = now + AHEAD
        retired = [msgspec.structs.replace(key, retired_at=key.retired_at or begins) for key in old]
        kept = [key for key in retired if not self._gone(key)]
        keys = KeySet(keys=[msgspec.structs.replace(self._generate(), signs_from=begins), *kept])
        try:
            await self._records.update("set", value=keys, revision=found.revision if found else 0)
        except WrongRevision as raced:
            raise _rotated() from raced
        self._remember(keys)
        return keys.keys[0].kid

    def _gone(self, key: SigningKey) -> bool:
        return key.retired_at is not None and key.retired_at + KEEP_RETIRED <= self._clock.now()

    def _active(self, keys: KeySet) -> SigningKey:
        now = self._clock.now()
        return next(key for key in keys.keys if key.signs_from is None or key.signs_from <= now)

    async def _current(self, at_most_old: float) -> KeySet:
        if self._seen is not None and self._clock.monotonic() - self._seen_at < at_most_old:
            return self._seen
        found = await self._records.get("set")
        if found is None:
            found = await self._create()
        self._remember(found.value)
        return found.value

    async def _create(self) -> Versioned[KeySet]:
        keys = KeySet(keys=[self._generate()])
        try:
            return Versioned(keys, await self._records.create("set", value=keys))
        except WrongRevision:
            winner = await self._records.get("set")
            if winner is None:
                raise
            return winner

    def _remember(self, keys: KeySet) -> None:
        self._seen, self._seen_at = keys, self._clock.monotonic()
        known = {key.kid for key in keys.keys}
        self._private = {kid: key for kid, key in self._private.items() if kid in known}
        self._verifying = {kid: key for kid, key in self._verifying.items() if kid in known}

    def _generate(self) -> SigningKey:
        key = ECKey.generate_key("P-256")
        private = {name: str(value) for name, value in key.as_dict(private=True).items()}
        return SigningKey(
            kid=key.thumbprint(),
            x=private["x"],
            y=private["y"],
            sealed=self._vault.seal(PLATFORM, _PURPOSE, msgspec.json.encode(private).decode()),
            created_at=self._clock.now(),
        )


def _rotated() -> Conflict:
    return Conflict("ROTATED", "The signing keys were just rotated.", "Nothing more to do: the new one signs soon.")
