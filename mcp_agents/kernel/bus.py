"""Port: core messages that nobody stores: token deltas on their way, cancel signals, and word of what was stored."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class Landed(NamedTuple):
    """A write that a stream stored, as the stream itself says: under which of the subjects that were asked for,
    whether it was the first of its own subject, and whether it removed what was there."""

    asked: str
    first: bool
    gone: bool


class Bus(Protocol):
    """At most once, to whoever listens now."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends and forgets."""
        ...

    def subscribe(self, subject: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The payloads sent to this subject (`*` allowed) while the context is open; a slow reader loses the oldest."""
        ...

    def landed(
        self, subjects: Collection[str], tell: Callable[[Landed | None], None]
    ) -> AbstractAsyncContextManager[None]:
        """Calls `tell` for every write that a stream republishes on one of these subjects (`*` allowed).

        Once the context is entered none is missed unsaid: None means that some may have been. `tell` must
        neither wait nor raise. Any number of listeners to one subject cost the network as much as one.
        """
        ...
