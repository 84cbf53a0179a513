"""Port: whole streams of the store, taken out and put back byte for byte, of all tenants at once.

This is no door to data: what goes through it is opaque, and belongs to everybody. It is for backups only, so the
import contract lets nobody but the composer and `server.backup` see it. A stream keeps its sequences, times, headers
and configuration; positions of readers (consumers) are not part of it, whoever reads makes them anew.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from msgspec import Struct


class State(Struct, frozen=True, kw_only=True):
    """What a stream holds. Two equal states of one stream mean that nothing was written and nothing removed between."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    num_deleted: int = 0


class Taken(Struct, kw_only=True):
    """One stream on its way out. `settled` is known once `chunks` has ended."""

    config: dict[str, Any]
    state: State
    chunks: AsyncIterator[bytes]
    settled: bool = False
    """Whether what came is the stream as it stood at `state`: nothing of it was removed while it was read."""


class Snapshots(Protocol):
    """All methods raise `Unavailable` when the store does not answer, and `Fault` when it refuses."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every stream that this version of the house keeps."""
        ...

    @property
    def server(self) -> str:
        """The version of the server behind it."""
        ...

    async def states(self) -> dict[str, State]:
        """The streams of the house that are there, each with its state."""
        ...

    def take(self, name: str) -> AbstractAsyncContextManager[Taken]:
        """A stream as it stands now; leaving the block breaks it off."""
        ...

    async def put(self, name: str, config: dict[str, Any], state: State, chunks: AsyncIterator[bytes]) -> State:
        """Makes a stream of what `take` gave, in place of the one that is there; returns what it then holds."""
        ...

    async def complete(self) -> None:
        """Makes the streams that are missing, empty."""
        ...

    async def empty(self, name: str) -> None:
        """Replaces a stream by an empty one."""
        ...

    async def others(self) -> int:
        """How many other processes have this house open."""
        ...

    async def live_logs(self) -> int:
        """Runs whose log is in the streams: those under way, and those that ended within the last minute or so."""
        ...

    async def mark(self, what: str) -> None:
        """Says in the store that it is being replaced by `what`; from now on no house opens."""
        ...

    async def marked(self) -> str:
        """By what it is being replaced; empty when it is not."""
        ...

    async def unmark(self) -> None:
        """It is whole again, on disk, and houses may open."""
        ...
