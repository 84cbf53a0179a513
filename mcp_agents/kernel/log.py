"""Port: the append-only log of one execution, fenced by the expected sequence.

A log is addressed by its subject. Sequences are positive and grow; a subject's first append expects 0.
Two writers cannot both win: the second is `Fenced`.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class Stored(NamedTuple):
    """One accepted append."""

    sequence: int
    payload: bytes


class Log(Protocol):
    """Append, read and follow. Raises `Unavailable` when the log does not answer."""

    async def append(self, subject: str, payload: bytes, *, expected: int) -> int:
        """Appends when `expected` is the subject's last sequence; returns the new one once it is durable.

        A lost acknowledgement is resolved inside: our own stored append counts as success, anything
        else raises `Fenced`.
        """
        ...

    async def read(self, subject: str, *, after: int = 0) -> list[Stored]:
        """Every accepted append of the subject behind `after`, in order."""
        ...

    def follow(self, subject: str, *, empty: bool = False) -> AbstractAsyncContextManager[AsyncIterator[Stored]]:
        """Every accepted append, then each new one as it lands, without a gap or a repeat.

        `empty` says that the subject held nothing when the context was entered, which spares a read.
        """
        ...

    async def purge(self, subject: str) -> None:
        """Removes every append of the subject; whoever still expects one of them is `Fenced`."""
        ...

    async def subjects(self, pattern: str) -> dict[str, int]:
        """The subjects that match `pattern` and hold anything, each with the number of its appends."""
        ...
