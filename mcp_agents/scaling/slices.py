"""One limit on what runs at once, shared out to processes in slices, as a value.

Pure: a process leases some of the slots, says how many it uses, and loses them when it does not renew in
time. What it uses is never taken from the record while it renews, even above a limit that was lowered; only
new slots are refused. `slots` keeps these in the store.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

LEASE: Final = timedelta(seconds=5)
"""How long a slice outlives the process that leased it. Processes must agree on the time to well within it."""


class Slice(Struct, frozen=True, kw_only=True):
    """One process's part: slots it has leased, those of them with a run, and until when."""

    leased: int
    used: int
    until: datetime


class Slices(Struct, frozen=True, kw_only=True):
    """The stored record: slices by process, and who was refused a slot lately, with how long that counts."""

    slices: dict[str, Slice] = {}
    refused: dict[str, datetime] = {}
    v: int = 1

    def used(self, now: datetime) -> int:
        """Slots with a run, as far as processes have told."""
        return sum(part.used for part in self.slices.values() if part.until > now)


class Claim(NamedTuple):
    """What a process asks for: it uses `used` slots and would like `more`, under `limit` (None: there is none)."""

    process: str
    limit: int | None
    used: int
    more: int


class Share(NamedTuple):
    """What a process has after a claim: slots in all, and whether others were refused one lately."""

    leased: int
    others_wait: bool


def claim(record: Slices | None, wish: Claim, now: datetime) -> tuple[Slices | None, Share]:
    """Replaces the process's slice by what it uses and as much of the rest of its wish as the limit leaves."""
    known = record or Slices()
    slices = {name: part for name, part in known.slices.items() if part.until > now and name != wish.process}
    refused = {name: until for name, until in known.refused.items() if until > now and name != wish.process}
    others_wait = bool(refused)
    leased = 0
    if wish.limit is not None:
        free = wish.limit - wish.used - sum(part.leased for part in slices.values())
        leased = wish.used + max(0, min(wish.more, free))
        if leased < wish.used + wish.more:
            refused[wish.process] = _until(known.refused.get(wish.process), now)
    if leased:
        slices[wish.process] = Slice(leased=leased, used=wish.used, until=now + LEASE)
    after = msgspec.structs.replace(known, slices=slices, refused=refused)
    return record if after == known else after, Share(leased, others_wait)


def _until(marked: datetime | None, now: datetime) -> datetime:
    """A mark that lasts a while is left alone, so that asking again and again writes nothing."""
    return marked if marked is not None and marked - now > LEASE / 2 else now + LEASE
