"""What a connection asks for the token of each of its requests. Made by `sign_ins`, asked by `upstream`."""

from typing import Protocol


class TokenSource(Protocol):
    """Gives the token to show now."""

    async def token(self, refused: str = "") -> str:
        """A token; another one than `refused`, which the server just did not take. Raises kernel errors."""
        ...

    async def falls_short(self, scope: str) -> None:
        """The server wants these scopes too: they are asked for when the owner signs in next."""
        ...
