"""Fills `kernel.audit.Audit`: chains of entries that cannot be changed, parted or reordered unnoticed.

Each entry carries a code over itself and over the code of the one before (HMAC-SHA256 under a key derived from the
master key), so that whoever can write to the store, but has not the master key, can forge none. The last entry of each
chain is also kept in a record of its own, so that a chain cut off at its end is noticed. What nobody can notice from
within: a store put back to an earlier day, chain and record, and a forger who holds the master key. For that, take the
number and the code of the last entry (`mcp-agents audit verify --json`) to another place now and then.

Above: whoever acts; below: `PlatformSpace`.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import anyio
import msgspec
from msgspec import Struct

from mcp_agents.kernel.audit import Deed, Entry, Outcome
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Fault, Fenced, Unavailable, WrongRevision
from mcp_agents.kernel.ids import PLATFORM
from mcp_agents.kernel.tenancy import PlatformSpace

_TRIES: Final = 64
_CACHED: Final = 1024
_decode: Final = msgspec.json.Decoder(Entry).decode


class Head(Struct, frozen=True, kw_only=True):
    """The last entry of a chain, as far as it was noted; the chain may be ahead of it, never behind."""

    v: int = 1
    number: int
    sequence: int
    mac: str


class _Tip(NamedTuple):
    number: int
    sequence: int
    mac: str


_START: Final = _Tip(0, 0, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How many entries a chain has, the code of the last one, and what is wrong with it, in words."""

    entries: int
    last: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries: below `before` (0: from the newest), of acts that begin with `act`, of one subject, since when."""

    before: int = 0
    act: str = ""
    subject: str = ""
    since: datetime | None = None


class AuditTrail:
    """The chains, over the platform's space."""

    def __init__(self, platform: PlatformSpace, key: bytes, clock: Clock) -> None:
        self._platform, self._key, self._clock = platform, key, clock
        self._heads = platform.records("cb_tenants", "trail", kind=Head)
        self._tips: dict[str, _Tip] = {}
        self._writing: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def note(self, tenant: str, deed: Deed, outcome: Outcome, reason: str = "") -> None:
        """See the port."""
        trail = self._platform.trail(tenant)
        async with self._lock(tenant):
            for _ in range(_TRIES):
                tip = self._tips.get(tenant) or await self._tip(tenant)
                entry = self._entry(tenant, tip, deed, outcome, reason)
                try:
                    sequence = await trail.append(msgspec.json.encode(entry), expected=tip.sequence)
                except Fenced:
                    if self._tips.pop(tenant, None) is None and await self._tip(tenant) == tip:
                        raise _damaged(tenant) from None  # what the record calls the last entry is not there
                    continue
                if len(self._tips) >= _CACHED:
                    self._tips.clear()
                self._tips[tenant] = _Tip(entry.number, sequence, entry.mac)
                await self._keep(tenant, self._tips[tenant])
                return
        raise Unavailable("BUSY", "Too many entries at once.", "Try again.")

    async def entries(self, tenant: str, wanted: Wanted, limit: int) -> tuple[list[Entry], int]:
        """Entries, newest first, and the `before` of the next page (0: there is none). Reads the whole chain."""
        found: list[Entry] = []
        for stored in reversed(await self._platform.trail(tenant).read()):
            entry = _decode(stored.payload)
            if wanted.since is not None and entry.at < wanted.since:
                break
            if (wanted.before and entry.number >= wanted.before) or not _fits(entry, wanted):
                continue
            if len(found) == limit:
                return found, found[-1].number
            found.append(entry)
        return found, 0

    async def verify(self, tenant: str) -> Verified:
        """Goes through a whole chain."""
        head = await self._heads.get(tenant)  # first: the chain may grow meanwhile
        problems, last, seen_head = list[str](), _START, head is None
        for stored in await self._platform.trail(tenant).read():
            try:
                entry = _decode(stored.payload)
            except msgspec.MsgspecError:
                problems.append(f"what is stored behind entry {last.number} is no entry")
                continue
            if not hmac.compare_digest(entry.mac, self._mac(entry)) or entry.tenant != tenant:
                problems.append(f"entry {entry.number} was changed or is not from here")
            elif entry.number != last.number + 1 or entry.previous != last.mac:
                problems.append(f"between the entries {last.number} and {entry.number} something is missing or moved")
            last = _Tip(entry.number, stored.sequence, entry.mac)
            seen_head = seen_head or (head is not None and head.value.mac == entry.mac)
        if not seen_head and head is not None:
            problems.append(f"the chain ends at entry {last.number}, and entry {head.value.number} was written")
        return Verified(entries=last.number, last=last.mac, problems=tuple(problems))

    async def erase(self, tenant: str) -> None:
        """Removes a tenant's whole chain."""
        await self._platform.trail(tenant).erase()
        self._tips.pop(tenant, None)
        if head := await self._heads.get(tenant):
            await self._heads.delete(tenant, revision=head.revision)

    def _lock(self, tenant: str) -> anyio.Lock:
        """One chain's writers wait for each other, and for nobody else's."""
        return self._writing.setdefault(tenant, anyio.Lock())

    def _entry(self, tenant: str, tip: _Tip, deed: Deed, outcome: Outcome, reason: str) -> Entry:
        entry = Entry(
            number=tip.number + 1,
            at=self._clock.now(),
            tenant=tenant,
            subject=deed.who.subject,
            client=deed.who.client,
            actors=deed.who.actors,
            act=deed.act,
            target=deed.target,
            outcome=outcome,
            reason=reason,
            previous=tip.mac,
        )
        return msgspec.structs.replace(entry, mac=self._mac(entry))

    def _mac(self, entry: Entry) -> str:
        bare = msgspec.json.encode(msgspec.structs.replace(entry, mac=""))
        return hmac.digest(self._key, bare, "sha256").hex()

    async def _tip(self, tenant: str) -> _Tip:
        head = await self._heads.get(tenant)
        tip = _Tip(head.value.number, head.value.sequence, head.value.mac) if head else _START
        for stored in await self._platform.trail(tenant).read(after=tip.sequence):
            entry = _decode(stored.payload)
            tip = _Tip(entry.number, stored.sequence, entry.mac)
        return tip

    async def _keep(self, tenant: str, tip: _Tip) -> None:
        """Notes the end of the chain. The entry is there already: another process that was faster is as good."""
        found = await self._heads.get(tenant)
        if found is not None and found.value.sequence >= tip.sequence:
            return
        head = Head(number=tip.number, sequence=tip.sequence, mac=tip.mac)
        try:
            await self._heads.update(tenant, value=head, revision=found.revision if found else 0)
        except (WrongRevision, Unavailable):
            return


def _fits(entry: Entry, wanted: Wanted) -> bool:
    return entry.act.startswith(wanted.act) and wanted.subject in ("", entry.subject)


def _damaged(tenant: str) -> Fault:
    chain = "the platform" if tenant == PLATFORM else tenant
    return Fault(
        "AUDIT_DAMAGED",
        f"The audit trail of {chain} ends before its last entry.",
        "Nothing is administered until it is whole: see `mcp-agents audit verify`, and restore the store.",
    )
