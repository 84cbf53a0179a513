"""Passwords: argon2id in worker threads, a bounded number at a time.

A hash takes tens of milliseconds and 64 MiB; on the event loop it would stall every stream, unbounded it
would fill the memory. Knows nothing of users.
"""

from typing import Final

import anyio
from anyio import to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mcp_agents.kernel.errors import Exhausted, Invalid

MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 256
_AT_ONCE: Final = 4
_WAITING: Final = 64


class Passwords:
    """Hashes and verifies. `hasher` sets the cost; the default follows RFC 9106."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)
        self._decoy = ""

    @staticmethod
    def check(password: str) -> None:
        """Raises `Invalid` unless the password has 12 to 256 characters."""
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise Invalid(
                "PASSWORD_WEAK",
                f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.",
                "Choose another one; several words in a row are fine.",
            )

    async def hash(self, password: str) -> str:
        """The encoded argon2id hash. Raises `Invalid` for a password that is too short or too long."""
        self.check(password)
        return await self._run(password, None) or ""

    async def verify(self, password: str, encoded: str) -> bool:
        """Whether the password fits. An empty `encoded` takes as long as a real one and never fits."""
        if len(password) > MAX_LENGTH:
            return False
        if not self._decoy:
            self._decoy = await self._run("a password nobody has", None) or ""
        fits = await self._run(password, encoded or self._decoy) is not None
        return fits and bool(encoded)

    async def _run(self, password: str, encoded: str | None) -> str | None:
        if self._limiter.statistics().tasks_waiting >= _WAITING:
            raise Exhausted("SIGN_IN_BUSY", "Too many sign-ins at once.", "Try again.", retry_after_ms=2000)
        return await to_thread.run_sync(self._work, password, encoded, limiter=self._limiter)

    def _work(self, password: str, encoded: str | None) -> str | None:
        if encoded is None:
            return self._hasher.hash(password)
        try:
            self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return None
        return encoded
