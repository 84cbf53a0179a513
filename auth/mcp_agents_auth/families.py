"""Grant families: everything that came out of one consent, ended together.

Each token names its family (`sid`). A family is made before its first token and outlives its last one, so that
an absent family means "revoked", never "unknown". Refresh tokens rotate on every use: one record per family
holds the digest of the current one, found by a selector that only holders of the family's refresh tokens know.

The rule for reuse is the strict one: whoever presents a refresh token that is not the current one, even in the
same instant as its rotation, ends the family. Of two holders one is a thief, and nobody can tell which; the
honest client signs in again. There is no grace period to be raced.
"""

import secrets
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace, Versioned
from mcp_agents_auth.changes import change
from mcp_agents_auth.handles import digest, is_sid, new_handle, same
from mcp_agents_auth.oauth import OAuthError

FAMILY_LIFE: Final = timedelta(days=90)
REFRESH_IDLE: Final = timedelta(days=30)
REVOKED_KEPT: Final = timedelta(days=90)
REFRESH_PREFIX: Final = "rt_"

_SELECTOR_CHARS: Final = 22  # 128 bits of base64url


class Family(Struct, frozen=True, kw_only=True):
    """One grant: who gave what to whom, until when. `generation` is the user's at the time of consent."""

    v: int = 1
    sid: str
    kind: Literal["user", "client", "direct"]
    tenant: str
    subject: str
    client_id: str
    scopes: list[str]
    resource: str
    generation: int = 0
    revoked: bool = False
    created_at: datetime
    expires_at: datetime


class Refresh(Struct, frozen=True, kw_only=True):
    """The current refresh token of a family, under the digest of its selector."""

    v: int = 1
    sid: str
    secret_digest: str
    expires_at: datetime


class Families:
    """The register of grants."""

    def __init__(self, platform: PlatformSpace, clock: Clock) -> None:
        self._families = platform.records("cb_auth", "family", kind=Family)
        self._refresh = platform.records("cb_auth", "refresh", kind=Refresh)
        self._clock = clock

    @staticmethod
    def new_sid() -> str:
        """A fresh name for a family."""
        return secrets.token_urlsafe(16)

    async def open(self, family: Family) -> None:
        """Writes a new family; it vanishes at `expires_at`."""
        await self._families.create(family.sid, value=family, ttl=self._seconds(family.expires_at))

    async def get(self, sid: str) -> Family | None:
        """The family if it is live: known, not revoked, not expired."""
        found = await self._families.get(sid) if is_sid(sid) else None
        if found is None or found.value.revoked or found.value.expires_at <= self._clock.now():
            return None
        return found.value

    async def find(self, sid: str) -> Family | None:
        """The family as it is stored, revoked or not; None once it is gone, which is long after it was revoked."""
        found = await self._families.get(sid) if is_sid(sid) else None
        return found.value if found else None

    async def extend(self, sid: str, until: datetime) -> Family | None:
        """Lets a family live until `until`. A revoked one stays revoked."""
        return await change(
            self._families,
            sid,
            to=lambda old: msgspec.structs.replace(old, expires_at=until),
            ttl=lambda new: self._seconds(new.expires_at),
        )

    async def revoke(self, sid: str) -> None:
        """Ends a family and every token of it; within five seconds everywhere.

        That it was revoked is kept for as long as a run may wait for somebody, and then said to it.
        """
        kept = self._clock.now() + REVOKED_KEPT
        await change(
            self._families,
            sid,
            to=lambda old: msgspec.structs.replace(old, revoked=True),
            ttl=lambda new: self._seconds(max(new.expires_at, kept)),
        )

    async def first_refresh(self, family: Family) -> str:
        """The family's first refresh token."""
        selector = secrets.token_urlsafe(16)
        token, value = self._minted(selector, family)
        await self._refresh.create(digest(selector), value=value, ttl=self._seconds(value.expires_at))
        return token

    async def find_refresh(self, token: str) -> tuple[Family, Versioned[Refresh]]:
        """The family of the current refresh token, and what `rotate` needs.

        Raises `OAuthError` (`invalid_grant`); a token that was rotated away revokes its family first.
        """
        found = await self._refresh.get(digest(_selector(token)))
        if found is None or found.value.expires_at <= self._clock.now():
            raise refused()
        if not same(found.value.secret_digest, digest(token)):
            await self.revoke(found.value.sid)
            raise refused()
        family = await self.get(found.value.sid)
        if family is None:
            raise refused()
        return family, found

    async def rotate(self, token: str, found: Versioned[Refresh], family: Family) -> str:
        """Uses the refresh token up and returns the next; a race revokes the family and loses."""
        selector = _selector(token)
        successor, value = self._minted(selector, family)
        try:
            await self._refresh.update(
                digest(selector), value=value, revision=found.revision, ttl=self._seconds(value.expires_at)
            )
        except WrongRevision as raced:
            await self.revoke(family.sid)
            raise refused() from raced
        return successor

    async def sid_of_refresh(self, token: str) -> str | None:
        """The family a refresh token belongs to, current or not; for revocation."""
        found = await self._refresh.get(digest(_selector(token)))
        return found.value.sid if found else None

    def _minted(self, selector: str, family: Family) -> tuple[str, Refresh]:
        token = new_handle(f"{REFRESH_PREFIX}{selector}")
        expires_at = min(self._clock.now() + REFRESH_IDLE, family.expires_at)
        return token, Refresh(sid=family.sid, secret_digest=digest(token), expires_at=expires_at)

    def _seconds(self, until: datetime) -> int:
        # One more than is left, so that the record's own time decides and the store only sweeps.
        return max(int((until - self._clock.now()).total_seconds()) + 1, 1)


def refused() -> OAuthError:
    """The one answer to every unusable code or refresh token."""
    return OAuthError("invalid_grant", "The grant is unknown, used, expired or revoked.")


def _selector(token: str) -> str:
    return token[len(REFRESH_PREFIX) : len(REFRESH_PREFIX) + _SELECTOR_CHARS]
