"""Port: reads one small public document from an address that somebody else named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """An answer. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fetch(Protocol):
    """Whatever it meets, it ends within the time and the size it was given; redirects are not followed."""

    async def get(self, url: str, *, limit: int, seconds: float) -> Fetched:
        """At most `limit` bytes within `seconds`.

        Raises `Denied` (`EGRESS_DENIED`) for an address that is off limits, `Unavailable` (`FETCH_FAILED`) for
        everything else that is no answer of that size.
        """
        ...
