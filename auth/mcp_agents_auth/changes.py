"""Changing a record by compare-and-set, again and again until nobody was in between.

One-time use is not written here: there the first refusal is the answer, not a reason to try again.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from msgspec import Struct

from mcp_agents.kernel.errors import Unavailable, WrongRevision
from mcp_agents.kernel.tenancy import Records

T = TypeVar("T", bound=Struct)

_TRIES: Final = 64


async def change(
    records: Records[T], *key: str, to: Callable[[T], T], ttl: Callable[[T], int] | None = None
) -> T | None:
    """Replaces the record by `to(record)` and returns it; None when there is none.

    `ttl` gives the seconds the new record may live; without it the record stays. Raises `Unavailable` when
    others kept changing it.
    """
    for _ in range(_TRIES):
        found = await records.get(*key)
        if found is None:
            return None
        value = to(found.value)
        if value == found.value:
            return value
        try:
            await records.update(*key, value=value, revision=found.revision, ttl=ttl(value) if ttl else 0)
        except WrongRevision:
            continue
        return value
    raise Unavailable("BUSY", "Too many changes at once.", "Try again.")
