"""What a process keeps open for its clients, and how it comes to an end.

A response that stays open outlives the moment in which its token was looked at. So each one is held here: it
ends when its token expires, when its grant is revoked or changes, when its tenant is suspended, and when the
process is told to stop. What it sends meanwhile is not this module's business (`subscriptions`, `mcp`).
"""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
from mcp_agents_auth.verifier import VerifiedToken

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Denied, Unavailable

log = logging.getLogger("mcp_agents.streams")

LOOK_EVERY: Final = 4
"""Seconds between two looks at a grant. With the look itself it makes less than the five that are promised."""


class Held:
    """One open response: once `ended` is set it is to end by itself, and after `grace` seconds more it is made to.

    `changed` says that it ends because its grant is another one now, not because it is gone.
    """

    def __init__(self, token: VerifiedToken | None, grace: float) -> None:
        self.token, self._grace = token, grace
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()
        self.changed = False

    def end(self, *, changed: bool = False) -> None:
        """Asks for the end; asking again changes nothing."""
        if not self.ended.is_set():
            self.changed = changed
            self.scope.deadline = anyio.current_time() + self._grace
            self.ended.set()


class Streams:
    """All that one process holds open. `look` gives a token as it stands now, or raises `Denied`."""

    def __init__(self, look: Callable[[VerifiedToken], Awaitable[VerifiedToken]], clock: Clock) -> None:
        self._look, self._clock = look, clock
        self._held: set[Held] = set()
        self._stopping = False

    @contextmanager
    def hold(self, token: VerifiedToken | None = None, *, grace: float) -> Iterator[Held]:
        """One response, held while the block lasts. Without a token it ends only when the process stops."""
        held = Held(token, grace)
        self._held.add(held)
        try:
            if self._stopping:
                held.end()
            yield held
        finally:
            self._held.discard(held)

    def stop(self) -> None:
        """Ends everything that is open and whatever is opened from now on."""
        self._stopping = True
        for held in list(self._held):
            held.end()

    async def work(self) -> None:
        """Ends what may not go on: expired to the second, everything else within five; until cancelled."""
        seconds = 0
        while True:
            await anyio.sleep(1)
            seconds += 1
            self._end_expired()
            if seconds % LOOK_EVERY == 0:
                await self._look_again()

    def _end_expired(self) -> None:
        now = self._clock.now().timestamp()
        for held in self._held:
            if held.token and held.token.expires_at <= now:
                held.end()

    async def _look_again(self) -> None:
        """Looks once at each grant that something is open under."""
        alike: defaultdict[tuple[str, frozenset[str]], list[Held]] = defaultdict(list)
        for held in self._held:
            if held.token:
                alike[held.token.sid, held.token.principal.scopes].append(held)
        for (_, scopes), those in alike.items():
            try:
                left = await self._left(those[0].token)
            except AgentsError as error:  # nobody can be asked; expiry still counts, and the next look is soon
                log.debug("grants are looked at later: %s", error)
                return
            if left != scopes:
                for held in those:
                    held.end(changed=left is not None)

    async def _left(self, token: VerifiedToken | None) -> frozenset[str] | None:
        """The scopes that are left of a token, None when nothing of it may be used any more."""
        try:
            return (await self._look(token)).principal.scopes if token else None
        except Denied:
            return None


def stopping() -> Unavailable:
    """What a call is told that was under way when its server stopped."""
    return Unavailable(
        "SERVER_STOPPING",
        "This server is stopping. What the call began goes on elsewhere.",
        "Make the same call again, or follow its run with execution_wait.",
        retry_after_ms=1000,
    )
