"""Memories: short texts that an agent keeps from one conversation to the next, about a user or about its tenant.

An entry belongs to a tenant, an agent and whoever it is about, and its key says so: nobody gets at what is remembered
of another user. What is about the tenant reaches every user of the agent; so it takes the right to write agents, and
counts only when a person with that right has accepted it. A call that is sent again finds its own entry: the id follows
from the effect's. Entries say where they came from. Not here: which agents remember at all (`toolsets.remembering`),
an agent's own state (`agents.state`), what was said in a session (`book`). Above: the built-in tools and the surface;
below: agents, the kernel.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from math import ceil
from typing import Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.agents.spec import Agent
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Denied, Exhausted, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned

WRITES: Final = "agents:write"
"""What it takes to write what every user of an agent is shown: as much as to write its instructions."""
ENTRIES: Final = 100
TEXT_LIMIT: Final = 2_000
TOTAL_LIMIT: Final = 64_000
"""Entries, characters of one, and characters of all, for an agent and whoever they are about."""
HOURS: Final = 24
MAX_HOURS: Final = 7 * 24
"""How long a short-term entry is kept unless told otherwise, and at most."""

About = Literal["user", "tenant"]
_TENANT: Final = "tenant"
_TRIES: Final = 32


class Memory(Struct, frozen=True, kw_only=True):
    """One entry, and where it came from. `subject` is the user it is about, "" for the tenant; `by` whose run wrote it.

    Without `expires_at` it is kept for good. What is not `accepted` is shown to no model.
    """

    id: str
    agent_id: str
    about: About
    subject: str
    text: str
    by: str
    at: datetime
    execution_id: str
    session_id: str = ""
    expires_at: datetime | None = None
    accepted: bool = True
    edited_by: str = ""
    edited_at: datetime | None = None
    v: int = 1

    def mentions(self, words: str) -> bool:
        """Whether each of these words occurs in it."""
        text = self.text.casefold()
        return all(word in text for word in words.casefold().split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is to be remembered. `hours` is how long; 0: for good."""

    text: str
    about: About = "user"
    hours: int = HOURS


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The call that remembers: its effect, its run, and the session whose turn the run is, "" for none."""

    effect_id: str
    execution_id: str
    session_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What to change of an entry; None leaves it. `hours` counts from now."""

    text: str | None = None
    hours: int | None = None
    accept: bool = False


class Memories:
    """Entries of any tenant's agents, always through the caller's `TenantSpace`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def remember(
        self, space: TenantSpace, principal: Principal, agent_id: str, note: Note, source: Source
    ) -> Versioned[Memory]:
        """Keeps a note, once per effect. Raises `Invalid` (`MEMORY_INVALID`), `Denied` (`INSUFFICIENT_SCOPE`),
        `Exhausted` (`MEMORIES_EXHAUSTED`), and `NotFound` for an agent or an entry that is gone."""
        _bounded(note.text, note.hours)
        if note.about == "tenant":
            principal.require(WRITES)
        records, new = _records(space), self._new(principal, agent_id, note, source)
        if await records.get(*_key(new)) is None:
            _fits(new, await self._of(space, _place(new), agent_id))
            with suppress(WrongRevision):  # the same effect, sent twice at once
                await records.create(*_key(new), value=new, ttl=self._ttl(new))
        found = await records.get(*_key(new))
        if found is None:
            raise unknown()
        try:
            # Others may have written meanwhile: of those that came at once, the last ones make room.
            before = [each for each in await self._of(space, _place(new), agent_id) if each.revision < found.revision]
            _fits(found.value, before)
            if await space.records("cb_agents", Agent).get(agent_id) is None:
                raise NotFound("AGENT_UNKNOWN", "There is no such agent.", "List the agents with agent_list.")
        except (Exhausted, NotFound):
            await _remove(records, found.value)
            raise
        return found

    async def recall(
        self, space: TenantSpace, principal: Principal, agent_id: str, about: Iterable[About], q: str
    ) -> list[Memory]:
        """What the agent may be shown of this user and of the tenant, newest first, where every word of `q` occurs."""
        found = [
            each.value
            for kind in about
            for each in await self._of(space, _place_of(kind, principal.subject), agent_id)
            if each.value.accepted and each.value.mentions(q)
        ]
        return sorted(found, key=lambda each: each.id, reverse=True)

    async def all(self, space: TenantSpace, principal: Principal) -> list[Versioned[Memory]]:
        """What is remembered of the caller and of the tenant, newest first. What nobody has accepted yet is seen only
        by those who could."""
        found = await self._of(space, _place_of("user", principal.subject))
        found += await self._of(space, _TENANT)
        seen = [each for each in found if each.value.accepted or principal.allows(WRITES)]
        return sorted(seen, key=lambda each: each.value.id, reverse=True)

    async def edit(
        self, space: TenantSpace, principal: Principal, memory_id: str, edit: Edit, *, expected: int | None
    ) -> Versioned[Memory]:
        """Changes an entry. Raises `NotFound`, `Denied`, `Invalid`, `Exhausted`, `Conflict` (`REVISION_CONFLICT`)."""
        for _ in range(_TRIES):
            found = await self._own(space, principal, memory_id)
            if expected not in (None, found.revision):
                raise _moved_on()
            new = self._edited(principal, found.value, edit)
            _bounded(new.text, edit.hours or 0)
            others = await self._of(space, _place(new), new.agent_id)
            _fits(new, [each for each in others if each.value.id != new.id])
            with suppress(WrongRevision):
                revision = await _records(space).update(
                    *_key(new), value=new, revision=found.revision, ttl=self._ttl(new)
                )
                return Versioned(new, revision)
        raise _moved_on()

    async def erase(self, space: TenantSpace, principal: Principal, memory_id: str) -> None:
        """Erases one entry. Raises `NotFound` (`MEMORY_UNKNOWN`), `Denied`."""
        await _remove(_records(space), (await self._own(space, principal, memory_id)).value)

    async def erase_tenants(self, space: TenantSpace, principal: Principal, agent_id: str) -> int:
        """Erases all that an agent remembers of the tenant. Raises `Denied`."""
        _may_write(principal)
        return await self._erase(space, _TENANT, agent_id)

    async def forget_user(self, space: TenantSpace, subject: str, agent_id: str = "") -> int:
        """Erases all that is remembered of a user, or that one agent does; returns how much it was."""
        return await self._erase(space, _place_of("user", subject), agent_id)

    async def forget_agent(self, space: TenantSpace, agent_id: str) -> int:
        """Erases all that an agent remembers of anybody."""
        return await self._erase(space, "", agent_id)

    def _new(self, principal: Principal, agent_id: str, note: Note, source: Source) -> Memory:
        now = self._clock.now()
        return Memory(
            id=f"mem_{source.effect_id.removeprefix('eff_')}",
            agent_id=agent_id,
            about=note.about,
            subject=principal.subject if note.about == "user" else "",
            text=note.text,
            by=principal.subject,
            at=now,
            execution_id=source.execution_id,
            session_id=source.session_id,
            expires_at=now + timedelta(hours=note.hours) if note.hours else None,
            accepted=note.about == "user",
        )

    def _edited(self, principal: Principal, old: Memory, edit: Edit) -> Memory:
        now, expires = self._clock.now(), old.expires_at
        if edit.hours is not None:
            expires = now + timedelta(hours=edit.hours) if edit.hours else None
        return msgspec.structs.replace(
            old,
            text=old.text if edit.text is None else edit.text,
            expires_at=expires,
            accepted=old.accepted or edit.accept,
            edited_by=principal.subject,
            edited_at=now,
        )

    async def _own(self, space: TenantSpace, principal: Principal, memory_id: str) -> Versioned[Memory]:
        """An entry that the caller may change. For one that they do not even see, it is as if there were none."""
        if not ids.is_id(memory_id, "mem"):
            raise unknown()
        found = next((each for each in await self.all(space, principal) if each.value.id == memory_id), None)
        if found is None:
            raise unknown()
        if found.value.about == "tenant":
            _may_write(principal)
        return found

    async def _of(self, space: TenantSpace, place: str, agent_id: str = "") -> list[Versioned[Memory]]:
        """Every entry about somebody that has not expired, of one agent or of all."""
        records = _records(space)
        found = await records.all(place, agent_id) if agent_id else await records.below(place)
        now = self._clock.now()
        return [each for each in found if each.value.expires_at is None or each.value.expires_at > now]

    async def _erase(self, space: TenantSpace, place: str, agent_id: str) -> int:
        records = _records(space)
        found = [
            each.value for each in await records.below(*filter(None, [place])) if agent_id in ("", each.value.agent_id)
        ]
        for memory in found:
            await _remove(records, memory)
        return len(found)

    def _ttl(self, memory: Memory) -> int:
        """Seconds after which the store lets go of it by itself."""
        if memory.expires_at is None:
            return 0
        return max(1, ceil((memory.expires_at - self._clock.now()).total_seconds()))


def unknown() -> NotFound:
    """What is said of an entry that is not there, or not for this caller."""
    return NotFound("MEMORY_UNKNOWN", "There is no such memory.", "List memories with memory_list.")


def _records(space: TenantSpace) -> Records[Memory]:
    return space.records("cb_memories", Memory)


def _place_of(about: About, subject: str) -> str:
    """A subject may be any text of a foreign issuer; a key part may not."""
    return _TENANT if about == "tenant" else f"u_{sha256(subject.encode()).hexdigest()[:40]}"


def _place(memory: Memory) -> str:
    return _place_of(memory.about, memory.subject)


def _key(memory: Memory) -> tuple[str, str, str]:
    return _place(memory), memory.agent_id, memory.id


def _may_write(principal: Principal) -> None:
    """Raises `Denied` unless a person with the right asks: an agent does not accept what agents wrote."""
    principal.require(WRITES)
    if principal.actors:
        raise Denied(
            "MEMORY_NEEDS_PERSON",
            "An agent cannot change what is remembered about the tenant.",
            "Ask a person who may write agents.",
        )


def _bounded(text: str, hours: int) -> None:
    if not text.strip() or len(text) > TEXT_LIMIT or not 0 <= hours <= MAX_HOURS:
        raise Invalid(
            "MEMORY_INVALID",
            f"A memory is a text of 1 to {TEXT_LIMIT} characters, kept for up to {MAX_HOURS} hours or for good.",
            "Shorten it, or split it.",
        )


def _fits(new: Memory, others: list[Versioned[Memory]]) -> None:
    taken = sum(len(each.value.text) for each in others)
    if len(others) >= ENTRIES or taken + len(new.text) > TOTAL_LIMIT:
        raise Exhausted(
            "MEMORIES_EXHAUSTED",
            f"An agent remembers {ENTRIES} texts of {TOTAL_LIMIT} characters together about a user, and as much about "
            "the tenant.",
            "Erase what is no longer needed, with memory_erase or builtin/forget.",
        )


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")


async def _remove(records: Records[Memory], memory: Memory) -> None:
    while (found := await records.get(*_key(memory))) is not None:
        with suppress(WrongRevision):  # a last change came between; it goes too
            await records.delete(*_key(memory), revision=found.revision)
