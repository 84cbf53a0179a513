"""Authorization codes: 256 bits, 60 seconds, one attempt.

Whatever comes of an attempt, the code is burned by it: the first to change the record at the revision that was
read may go on, everybody else has presented a used code, and that ends the grant family. This holds for
attempts in the same instant too; then the winner's tokens die as well, since one of the two had stolen it.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.families import Families, Family, refused
from mcp_agents_auth.handles import digest, new_handle

CODE_SECONDS: Final = 60
_REMEMBER_SECONDS: Final = 3600  # how long a replay is still recognised


class Code(Struct, frozen=True, kw_only=True):
    """What a code stands for, stored under its digest."""

    v: int = 1
    sid: str
    client_id: str
    redirect_uri: str
    challenge: str
    resource: str
    used: bool = False
    expires_at: datetime


class Codes:
    """Issues and burns authorization codes."""

    def __init__(self, platform: PlatformSpace, families: Families, clock: Clock) -> None:
        self._records = platform.records("cb_auth", "code", kind=Code)
        self._families, self._clock = families, clock

    async def issue(self, family: Family, *, redirect_uri: str, challenge: str) -> str:
        """A code for this family, which must be open already."""
        code = new_handle()
        value = Code(
            sid=family.sid,
            client_id=family.client_id,
            redirect_uri=redirect_uri,
            challenge=challenge,
            resource=family.resource,
            expires_at=self._clock.now() + timedelta(seconds=CODE_SECONDS),
        )
        await self._records.create(digest(code), value=value, ttl=_REMEMBER_SECONDS)
        return code

    async def burn(self, code: str) -> Code:
        """What the code stood for. Raises `OAuthError` (`invalid_grant`) when it is unknown, used or expired."""
        found = await self._records.get(digest(code))
        if found is None:
            raise refused()
        value = found.value
        used = msgspec.structs.replace(value, used=True)
        try:
            if not value.used:
                await self._records.update(digest(code), value=used, revision=found.revision, ttl=_REMEMBER_SECONDS)
        except WrongRevision as raced:
            await self._families.revoke(value.sid, "reused")
            raise refused() from raced
        if value.used:
            await self._families.revoke(value.sid)
            raise refused()
        if value.expires_at <= self._clock.now():
            raise refused()
        return value
