"""Port: large parts, by reference. What is over about 256 KB does not travel in a message."""

from typing import Final, Protocol

INLINE_LIMIT: Final = 256 * 1024
"""Bytes up to which a payload stays inline."""


class Objects(Protocol):
    """Whole blobs by name. Raises `Unavailable` when the store does not answer."""

    async def put(self, name: str, data: bytes) -> None: ...

    async def get(self, name: str) -> bytes | None: ...

    async def delete(self, name: str) -> None: ...

    async def erase(self, prefix: str) -> int:
        """Removes every object whose name begins with `prefix`, its name too, and returns how many there were."""
        ...
