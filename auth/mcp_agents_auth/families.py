"""Grant families: everything that came out of one consent, ended together.

Each token names its family (`sid`). A family is made before its first token and outlives its last one, so that
an absent family means "revoked", never "unknown". Refresh tokens rotate on every use: one record per family
holds the digest of the current one, found by a selector that only holders of the family's refresh tokens know.

Whoever presents a refresh token that was rotated away ends the family: of two holders one is a thief, and nobody can
tell which. But for ten seconds after its rotation it is answered once more, with the very same successor, because a
client that asks twice at once, or whose answer was lost, is no thief. That gives a thief nothing: the successor is
one token for both, and the next to use it leaves the other with one that was rotated away. Successors follow from
their predecessors by a key that only the server has, so that nothing readable is kept for it.
"""

import base64
import hmac
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.kernel.audit import Audit, Deed
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import PlatformSpace, Versioned
from mcp_agents_auth.changes import change
from mcp_agents_auth.handles import digest, is_sid, new_handle, same
from mcp_agents_auth.oauth import OAuthError

FAMILY_LIFE: Final = timedelta(days=90)
REFRESH_IDLE: Final = timedelta(days=30)
REVOKED_KEPT: Final = timedelta(days=90)
REFRESH_PREFIX: Final = "rt_"
GRACE: Final = timedelta(seconds=10)

Why = Literal["asked", "reused", "wrong_client", "removed"]
"""Why a grant ended: somebody asked for it, a token was used again or by another client, its person was removed."""

_SELECTOR_CHARS: Final = 22  # 128 bits of base64url


class Family(Struct, frozen=True, kw_only=True):
    """One grant: who gave what to whom, until when. `generation` is the user's at the time of consent; `jkt` names the
    key that its tokens are bound to, "" where they are not."""

    v: int = 1
    sid: str
    kind: Literal["user", "client", "direct"]
    tenant: str
    subject: str
    client_id: str
    scopes: list[str]
    resource: str
    generation: int = 0
    jkt: str = ""
    revoked: bool = False
    created_at: datetime
    expires_at: datetime


class Refresh(Struct, frozen=True, kw_only=True):
    """The current refresh token of a family, under the digest of its selector."""

    v: int = 1
    sid: str
    secret_digest: str
    expires_at: datetime
    rotated_at: datetime | None = None


class Families:
    """The register of grants."""

    def __init__(self, platform: PlatformSpace, clock: Clock, key: bytes, audit: Audit) -> None:
        self._key, self._audit = key, audit
        self._families = platform.records("cb_auth", "family", kind=Family)
        self._refresh = platform.records("cb_auth", "refresh", kind=Refresh)
        self._clock = clock

    @staticmethod
    def new_sid() -> str:
        """A fresh name for a family."""
        return secrets.token_urlsafe(16)

    async def open(self, family: Family) -> None:
        """Writes a new family; it vanishes at `expires_at`. The audit trail has it first."""
        await self._audit.note(family.tenant, _deed(family, f"grant_{family.kind}"), "begun")
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

    async def extend(self, sid: str, until: datetime, jkt: str = "") -> Family | None:
        """Lets a family live until `until`, bound to a key from now on. A revoked one stays revoked."""
        return await change(
            self._families,
            sid,
            to=lambda old: msgspec.structs.replace(old, expires_at=until, jkt=jkt),
            ttl=lambda new: self._seconds(new.expires_at),
        )

    async def revoke(self, sid: str, why: Why = "asked") -> None:
        """Ends a family and every token of it; within five seconds everywhere.

        That it was revoked is kept for as long as a run may wait for somebody, and then said to it.
        """
        family = await self.find(sid)
        if family is None or family.revoked:
            return
        await self._audit.note(family.tenant, _deed(family, "grant_revoked"), "begun", why)
        kept = self._clock.now() + REVOKED_KEPT
        await change(
            self._families,
            sid,
            to=lambda old: msgspec.structs.replace(old, revoked=True),
            ttl=lambda new: self._seconds(max(new.expires_at, kept)),
        )

    async def note_exchange(self, family: Family, client_id: str, actors: tuple[str, ...]) -> None:
        """Writes down that a client is about to get a token of this grant, to act in it on top of others."""
        who = Principal(
            tenant=family.tenant, subject=family.subject, scopes=frozenset(), client=client_id, actors=actors
        )
        await self._audit.note(family.tenant, Deed(who, "exchange", family.sid), "begun")

    async def revoke_of(self, tenant: str, subject: str) -> None:
        """Ends every grant that somebody made in a tenant."""
        for found in await self._families.all():
            if (found.value.tenant, found.value.subject) == (tenant, subject) and not found.value.revoked:
                await self.revoke(found.value.sid, "removed")

    async def erase(self, tenant: str) -> int:
        """Removes a tenant's grants and their refresh tokens; returns how many there were."""
        gone = [found for found in await self._families.all() if found.value.tenant == tenant]
        sids = {found.value.sid for found in gone}
        for found in gone:
            with suppress(WrongRevision):
                await self._families.delete(found.value.sid, revision=found.revision)
        for selector in await self._refresh.names() if sids else []:
            token = await self._refresh.get(selector)
            if token and token.value.sid in sids:
                with suppress(WrongRevision):
                    await self._refresh.delete(selector, revision=token.revision)
        return len(gone)

    async def first_refresh(self, family: Family) -> str:
        """The family's first refresh token."""
        selector = secrets.token_urlsafe(16)
        token = new_handle(f"{REFRESH_PREFIX}{selector}")
        value = self._record(token, family)
        await self._refresh.create(digest(selector), value=value, ttl=self._seconds(value.expires_at))
        return token

    async def find_refresh(self, token: str) -> tuple[Family, Versioned[Refresh]]:
        """The family of the current refresh token, or of the one before it in its grace, and what `rotate` needs.

        Raises `OAuthError` (`invalid_grant`); a token that was rotated away longer ago revokes its family first.
        """
        found = await self._refresh.get(digest(_selector(token)))
        if found is None or found.value.expires_at <= self._clock.now():
            raise refused()
        if not same(found.value.secret_digest, digest(token)) and not self._just_rotated(token, found.value):
            await self.revoke(found.value.sid, "reused")
            raise refused()
        family = await self.get(found.value.sid)
        if family is None:
            raise refused()
        return family, found

    async def rotate(self, token: str, found: Versioned[Refresh], family: Family) -> str:
        """Uses the refresh token up and returns the next; whoever asks with the same one at once gets the same next."""
        successor, selector = self._successor(token), _selector(token)
        if self._just_rotated(token, found.value):
            return successor
        value = self._record(successor, family, rotated_at=self._clock.now())
        try:
            await self._refresh.update(
                digest(selector), value=value, revision=found.revision, ttl=self._seconds(value.expires_at)
            )
        except WrongRevision as raced:
            now = await self._refresh.get(digest(selector))
            if now is None or not self._just_rotated(token, now.value):
                await self.revoke(family.sid, "reused")
                raise refused() from raced
        return successor

    def _just_rotated(self, token: str, record: Refresh) -> bool:
        """Whether the current token is this one's successor, and has been for a moment only."""
        if record.rotated_at is None or self._clock.now() - record.rotated_at > GRACE:
            return False
        return same(record.secret_digest, digest(self._successor(token)))

    def _successor(self, token: str) -> str:
        mac = hmac.digest(self._key, token.encode("utf-8", "surrogatepass"), "sha256")
        return f"{REFRESH_PREFIX}{_selector(token)}{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    async def sid_of_refresh(self, token: str) -> str | None:
        """The family a refresh token belongs to, current or not; for revocation."""
        found = await self._refresh.get(digest(_selector(token)))
        return found.value.sid if found else None

    def _record(self, token: str, family: Family, *, rotated_at: datetime | None = None) -> Refresh:
        expires_at = min(self._clock.now() + REFRESH_IDLE, family.expires_at)
        return Refresh(sid=family.sid, secret_digest=digest(token), expires_at=expires_at, rotated_at=rotated_at)

    def _seconds(self, until: datetime) -> int:
        # One more than is left, so that the record's own time decides and the store only sweeps.
        return max(int((until - self._clock.now()).total_seconds()) + 1, 1)


def _deed(family: Family, act: str) -> Deed:
    who = Principal(tenant=family.tenant, subject=family.subject, scopes=frozenset(), client=family.client_id)
    return Deed(who, act, family.sid)


def refused() -> OAuthError:
    """The one answer to every unusable code or refresh token."""
    return OAuthError("invalid_grant", "The grant is unknown, used, expired or revoked.")


def _selector(token: str) -> str:
    return token[len(REFRESH_PREFIX) : len(REFRESH_PREFIX) + _SELECTOR_CHARS]
