"""Port: may this process open a connection to that URL? Asked before every outbound request."""

from typing import Protocol


class Egress(Protocol):
    """The one rule for outbound addresses; adapters and toolsets ask it, the composer provides it."""

    async def check(self, url: str) -> None:
        """Raises `Denied` (`EGRESS_DENIED`) when the URL, or any address its host resolves to, is off limits."""
        ...
