"""Browser sessions of the sign-in pages: who sits in front of this browser, for twelve hours.

Only the authorization server's own pages use them; the MCP endpoint knows bearer tokens alone. The cookie is a
random handle, stored as a digest. Form tokens against request forgery are derived from the cookie, so that
they need no storage and only the browser that holds the cookie can show one.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import NotFound, WrongRevision
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.handles import bound_token, digest, new_handle, same
from mcp_agents_auth.users import User, Users

SESSION_SECONDS: Final = 12 * 3600


class Session(Struct, frozen=True, kw_only=True):
    """A signed-in browser. It ends when the user's `generation` moves on."""

    v: int = 1
    user_id: str
    generation: int
    expires_at: datetime


class BrowserSessions:
    """Starts and looks up browser sessions."""

    def __init__(self, platform: PlatformSpace, users: Users, clock: Clock) -> None:
        self._records = platform.records("cb_auth", "session", kind=Session)
        self._users, self._clock = users, clock

    async def start(self, user: User) -> str:
        """A new session; returns the cookie's value, never one that the browser had before."""
        cookie = new_handle()
        expires_at = self._clock.now() + timedelta(seconds=SESSION_SECONDS)
        value = Session(user_id=user.id, generation=user.generation, expires_at=expires_at)
        await self._records.create(digest(cookie), value=value, ttl=SESSION_SECONDS)
        return cookie

    async def user_of(self, cookie: str) -> User | None:
        """Who is signed in with this cookie, if anybody."""
        found = await self._records.get(digest(cookie)) if cookie else None
        if found is None or found.value.expires_at <= self._clock.now():
            return None
        try:
            user = await self._users.get(found.value.user_id)
        except NotFound:
            return None
        return user if user.active and user.generation == found.value.generation else None

    async def end(self, cookie: str) -> None:
        """Nobody is signed in with this cookie any more, whoever still holds a copy of it."""
        found = await self._records.get(digest(cookie)) if cookie else None
        if found is not None:
            with suppress(WrongRevision):  # ended in another window in the same moment
                await self._records.delete(digest(cookie), revision=found.revision)


def form_token(cookie: str, purpose: str) -> str:
    """The token a form for `purpose` carries in the browser with this cookie."""
    return bound_token(cookie, purpose)


def form_token_fits(cookie: str, purpose: str, token: str) -> bool:
    """Whether a form came from a page that this browser was shown for `purpose`."""
    return bool(cookie) and same(form_token(cookie, purpose), token)
