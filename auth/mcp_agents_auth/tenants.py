"""Tenants as records: made by the platform, suspended by it, asked for at every door.

Not the fence between tenants (that is `TenantSpace`), only the register of those that exist.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Denied, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.changes import change

FRESH_SECONDS: Final = 5.0
"""How long an answer about a tenant's or a grant's standing may be reused."""

_CACHED: Final = 4096


class Tenant(Struct, frozen=True, kw_only=True):
    """One tenant. A suspended one (`active` false) is refused at every door; its data stays."""

    v: int = 1
    name: str
    title: str = ""
    active: bool = True
    created_at: datetime
    erased_since: datetime | None = None
    """When its erasure began; it never comes back from there."""

    @property
    def state(self) -> str:
        """In a word."""
        return "erasing" if self.erased_since else "active" if self.active else "suspended"


@dataclass(frozen=True, slots=True)
class _Seen:
    tenant: Tenant | None
    until: float


class Tenants:
    """The register. `name` is `[a-z0-9-]{1,40}`."""

    def __init__(self, platform: PlatformSpace, clock: Clock) -> None:
        self._records = platform.records("cb_tenants", "tenant", kind=Tenant)
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    async def create(self, name: str, title: str = "") -> Tenant:
        """A new tenant. Raises `Invalid` for a malformed name, `Conflict` when it is taken."""
        if not ids.TENANT.fullmatch(name):
            raise Invalid("TENANT_INVALID", "A tenant's name is 1 to 40 of a-z, 0-9 and -.", "Use another name.")
        tenant = Tenant(name=name, title=title or name, created_at=self._clock.now())
        try:
            await self._records.create(name, value=tenant)
        except WrongRevision as taken:
            raise Conflict("TENANT_EXISTS", f"The tenant {name} exists already.", "Use another name.") from taken
        self._seen.pop(name, None)
        return tenant

    async def get(self, name: str) -> Tenant:
        """The tenant as stored now. Raises `NotFound`."""
        found = await self._records.get(name) if ids.TENANT.fullmatch(name) else None
        if found is None:
            raise _unknown()
        return found.value

    async def list(self) -> list[Tenant]:
        """Every tenant, by name."""
        return [found.value for found in await self._records.all()]

    async def set_active(self, name: str, *, active: bool) -> Tenant:
        """Suspends or resumes a tenant; other processes see it within five seconds. Raises `NotFound`."""
        if (await self.get(name)).erased_since is not None:
            raise Conflict("TENANT_ERASED", "This tenant is being erased.", "Wait until it is gone.")
        return await self._change(name, lambda old: msgspec.structs.replace(old, active=active))

    async def rename(self, name: str, title: str) -> Tenant:
        """Gives a tenant another title. Raises `NotFound`, `Invalid`."""
        title = title.strip()
        if not 0 < len(title) <= 100 or not title.isprintable():
            raise Invalid("TENANT_TITLE_INVALID", "A title has 1 to 100 printable characters.", "Shorten it.")
        return await self._change(name, lambda old: msgspec.structs.replace(old, title=title))

    async def begin_erasure(self, name: str) -> Tenant:
        """Suspends a tenant for good; `erasure` does the rest. Raises `NotFound`."""
        now = self._clock.now()
        return await self._change(
            name, lambda old: msgspec.structs.replace(old, active=False, erased_since=old.erased_since or now)
        )

    async def forget(self, name: str) -> None:
        """Removes a tenant's record, so that its name is free; the last step of its erasure."""
        if found := await self._records.get(name):
            await self._records.delete(name, revision=found.revision)
        self._seen.pop(name, None)

    async def active(self, name: str) -> bool:
        """Whether the tenant is there and active, as stored now."""
        found = await self._records.get(name) if ids.TENANT.fullmatch(name) else None
        return found is not None and found.value.active

    async def require_active(self, name: str) -> Tenant:
        """The tenant, known to be active at most five seconds ago. Raises `NotFound` or `Denied`."""
        now = self._clock.monotonic()
        seen = self._seen.get(name)
        if seen is None or seen.until <= now:
            found = await self._records.get(name) if ids.TENANT.fullmatch(name) else None
            seen = _Seen(found.value if found else None, now + FRESH_SECONDS)
            if len(self._seen) >= _CACHED:
                self._seen.clear()
            self._seen[name] = seen
        if seen.tenant is None:
            raise _unknown()
        if not seen.tenant.active:
            raise Denied("TENANT_SUSPENDED", "This tenant is suspended.", "Ask the platform's operator.")
        return seen.tenant

    async def _change(self, name: str, to: Callable[[Tenant], Tenant]) -> Tenant:
        changed = await change(self._records, name, to=to) if ids.TENANT.fullmatch(name) else None
        self._seen.pop(name, None)
        if changed is None:
            raise _unknown()
        return changed


def _unknown() -> NotFound:
    return NotFound("TENANT_NOT_FOUND", "There is no such tenant.", "See `mcp-agents tenant list`.")
