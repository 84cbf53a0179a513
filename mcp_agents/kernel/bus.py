"""Port: core messages that nobody stores: token deltas on their way, and cancel signals."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Bus(Protocol):
    """At most once, to whoever listens now."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends and forgets."""
        ...

    def subscribe(self, subject: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The payloads sent to this subject (`*` allowed) while the context is open; a slow reader loses the oldest."""
        ...
