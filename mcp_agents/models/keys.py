"""Keys of providers that tenants bring: sealed at rest, opened only to make a call, never shown again.

One key per tenant and provider (the prefix of `provider_model`). It replaces the operator's for models of that
provider, and goes where the operator configured the model to be, nowhere else: tenants set no addresses.
Above it: the router, which calls with them, and the surface. Below: the tenant's secrets and records.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.security.secrets import TenantSecrets

_KIND: Final = "key"
_PROVIDER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY: Final = re.compile(r"[\x21-\x7e]{8,8192}")


class StoredKey(Struct, frozen=True, kw_only=True):
    """A provider's key as it is stored. `sealed` opens only for its tenant and provider."""

    provider: str
    sealed: str
    fingerprint: str
    created_at: datetime
    created_by: str
    v: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKey:
    """What may be seen of a key. `fingerprint`: the last four digits of a hash of it."""

    provider: str
    fingerprint: str
    created_at: datetime
    created_by: str
    revision: int


@dataclass(frozen=True, slots=True)
class Credential:
    """Whose key a model is asked with: `lane` is "" for the operator's, else names the tenant's key and its revision.

    `open` gives the key in clear; it is called when the request is made.
    """

    lane: str
    open: Callable[[], Awaitable[str]] = field(repr=False)


class ProviderKeys:
    """The keys of any tenant, always through its space."""

    def __init__(self, secrets: TenantSecrets, clock: Clock) -> None:
        self._secrets, self._clock = secrets, clock

    async def set(self, space: TenantSpace, provider: str, key: str, by: str) -> ProviderKey:
        """Stores a key, in place of one that is there. Raises `Invalid` (PROVIDER_KEY_INVALID), which shows
        nothing of it, and `Conflict` (REVISION_CONFLICT) when two set it at once."""
        if not _PROVIDER.fullmatch(provider) or not _KEY.fullmatch(key):
            raise Invalid(
                "PROVIDER_KEY_INVALID",
                "A provider's key is 8 to 8192 visible characters without spaces.",
                "Copy the key again, without line breaks or quotes.",
            )
        record = StoredKey(
            provider=provider,
            sealed=await self._secrets.seal(space, _purpose(provider), key),
            fingerprint=hashlib.sha256(f"{space.tenant}|{key}".encode()).hexdigest()[-4:],
            created_at=self._clock.now(),
            created_by=by,
        )
        records = _records(space)
        found = await records.get(_KIND, provider)
        try:
            revision = await records.update(_KIND, provider, value=record, revision=found.revision if found else 0)
        except WrongRevision as cause:
            raise Conflict(
                "REVISION_CONFLICT", "It was changed by somebody else.", "List the keys and set it again."
            ) from cause
        return _shown(Versioned(record, revision))

    async def all(self, space: TenantSpace) -> list[ProviderKey]:
        """The tenant's keys by provider, without the keys."""
        return [_shown(found) for found in await _records(space).all(_KIND)]

    async def delete(self, space: TenantSpace, provider: str) -> None:
        """Removes a key; the operator's is used again. Raises `NotFound` (PROVIDER_KEY_UNKNOWN)."""
        records = _records(space)
        found = await records.get(_KIND, provider) if _PROVIDER.fullmatch(provider) else None
        try:
            if found is not None:
                await records.delete(_KIND, provider, revision=found.revision)
                return
        except WrongRevision as cause:
            raise Conflict(
                "REVISION_CONFLICT", "It was changed by somebody else.", "List the keys and delete it again."
            ) from cause
        raise NotFound("PROVIDER_KEY_UNKNOWN", "There is no such key.", "List the keys with provider_key_list.")

    async def credential(self, space: TenantSpace, provider: str, operators: str) -> Credential:
        """The tenant's key for a provider, or the operator's."""
        found = await _records(space).get(_KIND, provider) if _PROVIDER.fullmatch(provider) else None
        if found is None:
            return Credential("", partial(_given, operators))
        opened = partial(self._secrets.unseal, space, _purpose(provider), found.value.sealed)
        return Credential(f"{space.tenant}#{found.revision}", opened)


async def _given(key: str) -> str:
    return key


def _records(space: TenantSpace) -> Records[StoredKey]:
    return space.records("cb_models", StoredKey)


def _shown(found: Versioned[StoredKey]) -> ProviderKey:
    key = found.value
    return ProviderKey(
        provider=key.provider,
        fingerprint=key.fingerprint,
        created_at=key.created_at,
        created_by=key.created_by,
        revision=found.revision,
    )


def _purpose(provider: str) -> str:
    return f"model-provider-key/{provider}"
