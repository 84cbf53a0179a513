"""A tenant's secrets at rest: sealed under a data key of the tenant's own, which is sealed under the master key.

So what a tenant stored is unreadable once its data key is gone, in every backup that has not the key, and one tenant's
key opens nothing of another's. What is sealed is bound to its tenant and purpose as well. Texts from before there were
data keys (`v1.`) still open. Not here: the platform's own secrets, which the master key seals (`keys.Vault`).

Above: whoever keeps secrets of tenants (tool servers, providers' keys). Below: `keys` and the tenant's records.
"""

import base64
import binascii
import secrets
from collections import OrderedDict
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.security.keys import KEY_BYTES, NONCE_BYTES, Vault, bound_to, damaged

_RECORD: Final = "key"
_OPENED: Final = 1024


class DataKey(Struct, frozen=True, kw_only=True):
    """A tenant's data key: `sealed` under the master key. `id` stands in everything it sealed."""

    v: int = 1
    id: str
    sealed: str
    created_at: datetime


class TenantSecrets:
    """Seals and unseals texts of any tenant, always through its space, with AES-256-GCM."""

    def __init__(self, vault: Vault, clock: Clock) -> None:
        self._vault, self._clock = vault, clock
        self._opened: OrderedDict[tuple[str, str], AESGCM] = OrderedDict()

    async def seal(self, space: TenantSpace, purpose: str, plaintext: str) -> str:
        """`v2.{data key id}.{base64url(nonce, ciphertext, tag)}`; the same text seals differently each time."""
        key = await self._key(space) or await self._made(space)
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._cipher(space, key).encrypt(nonce, plaintext.encode(), bound_to(space.tenant, purpose))
        return f"v2.{key.id}.{base64.urlsafe_b64encode(nonce + sealed).decode().rstrip('=')}"

    async def unseal(self, space: TenantSpace, purpose: str, sealed: str) -> str:
        """The text that was sealed for this tenant and purpose.

        Raises `Fault`: `KEY_MISMATCH` when another master key sealed it, `SECRET_DAMAGED` when it was changed, belongs
        to another tenant or purpose, or its data key is gone.
        """
        if sealed.startswith("v1."):
            return self._vault.unseal(space.tenant, purpose, sealed)
        version, _, rest = sealed.partition(".")
        name, _, text = rest.partition(".")
        key = await self._key(space)
        if version != "v2" or key is None or key.id != name:
            raise damaged()
        try:
            blob = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            cipher = self._cipher(space, key)
            return cipher.decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], bound_to(space.tenant, purpose)).decode()
        except (InvalidTag, binascii.Error, ValueError) as cause:
            raise damaged() from cause

    async def _key(self, space: TenantSpace) -> DataKey | None:
        found = await space.records("cb_vault", DataKey).get(_RECORD)
        return found.value if found else None

    async def _made(self, space: TenantSpace) -> DataKey:
        """A new data key, or the one that somebody else made at the same moment."""
        name, secret = secrets.token_hex(8), base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        key = DataKey(
            id=name,
            sealed=self._vault.seal(space.tenant, _purpose(name), secret),
            created_at=self._clock.now(),
        )
        try:
            await space.records("cb_vault", DataKey).create(_RECORD, value=key)
        except WrongRevision:
            return await self._key(space) or key
        return key

    def _cipher(self, space: TenantSpace, key: DataKey) -> AESGCM:
        """The opened key, from memory where it was opened before; which one counts was read from the store."""
        place = space.tenant, key.sealed
        cipher = self._opened.get(place)
        if cipher is None:
            cipher = AESGCM(base64.b64decode(self._vault.unseal(space.tenant, _purpose(key.id), key.sealed)))
            self._opened[place] = cipher
            if len(self._opened) > _OPENED:
                self._opened.popitem(last=False)
        return cipher


def _purpose(name: str) -> str:
    return f"data-key/{name}"
