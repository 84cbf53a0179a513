"""Port: how often somebody may do something, counted together over all processes of a deployment.

Asked before the work that it bounds. Not a quota (how much at once) and not a budget (how much in all).
"""

from typing import Literal, Protocol

Kind = Literal[
    "token_per_address",
    "token_per_client",
    "sign_in_per_address",
    "calls_per_address",
    "calls_per_client",
    "calls_per_tenant",
]


class Rates(Protocol):
    """Limits for each minute."""

    async def take(self, kind: Kind, who: str) -> None:
        """Counts one. Raises `Exhausted` (`RATE_LIMITED`) with the time until more may be done, or `Unavailable`."""
        ...


class Unlimited:
    """Lets everything pass: for parts that are used without a server around them."""

    async def take(self, kind: Kind, who: str) -> None:
        """Nothing is counted."""
