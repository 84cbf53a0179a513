"""The only door to a tenant's data. Holding a `TenantSpace` is the proof that somebody checked.

Every subject, key and object name of the house is built here and nowhere else, so that no id can
reach across tenants: parts are checked, never escaped by replacement. `PlatformSpace` is the same for
what belongs to no tenant (tenants themselves, the authorization server's records).

Below it stand the five data ports; above it everything. It decides no rights: scopes are asked at the
surface, the tenant is fixed here.
"""

import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Generic, NamedTuple, TypeVar
from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.bus import Bus, Landed
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Fault, Invalid, WrongRevision
from mcp_agents.kernel.events import (
    START,
    AnyEvent,
    Entry,
    Reference,
    Tip,
    decode_commit,
    decode_reference,
    encode_commit,
    encode_reference,
    ends,
)
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.job import Depth, Job, Jobs, Lane, Priority, Weights, even
from mcp_agents.kernel.log import Log, Stored
from mcp_agents.kernel.objects import INLINE_LIMIT, Objects
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.queue import Queue
from mcp_agents.kernel.store import BUCKETS, OF_PLATFORM, Bucket, Store

T = TypeVar("T", bound=Struct)

LOG_SHARDS: Final = 4
"""Streams the execution logs are spread over; each flushes to disk on its own. Fixed for a data folder."""

_TOKEN: Final = re.compile(r"^[A-Za-z0-9_-]{1,128}$")


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise Fault("UNSAFE_KEY", "An internal key was malformed.", "Report this.")
    return text


def _tenant(text: str) -> str:
    if not ids.TENANT.fullmatch(text):
        raise Invalid("TENANT_INVALID", "A tenant's name is 1 to 40 of a-z, 0-9 and -.", "Use another name.")
    return text


@dataclass(frozen=True, slots=True)
class Doors:
    """The five data ports and what writing to them needs. Seen by the composer and by this module."""

    store: Store
    log: Log
    queue: Queue
    bus: Bus
    objects: Objects
    clock: Clock
    faults: Faults
    fresh: "Fresh" = field(default_factory=lambda: Fresh())


class Fresh:
    """Logs that this process has just begun, so that a worker in it need not read them.

    Only ever a shortcut: whoever appends behind what is kept here is refused if the log has moved on.
    """

    _KEPT: Final = 4096

    def __init__(self) -> None:
        self._begun: OrderedDict[str, tuple[Tip, list[Entry]]] = OrderedDict()

    def keep(self, subject: str, begun: tuple[Tip, list[Entry]]) -> None:
        """Notes what was appended to an empty log."""
        self._begun[subject] = begun
        if len(self._begun) > self._KEPT:
            self._begun.popitem(last=False)

    def take(self, subject: str) -> tuple[Tip, list[Entry]] | None:
        """What was noted, once."""
        return self._begun.pop(subject, None)


class Versioned(NamedTuple, Generic[T]):
    """A record and the revision to expect when changing it."""

    value: T
    revision: int


@cache
def _decoder(kind: type[T]) -> Callable[[bytes], T]:
    """The decoder of a kind of record; there are a few dozen kinds, and making one costs more than using it."""
    return msgspec.json.Decoder(kind).decode


class Records(Generic[T]):
    """One kind of record under one prefix of one bucket. Values are JSON with a schema version `v`."""

    def __init__(self, store: Store, bucket: Bucket, prefix: tuple[str, ...], kind: type[T]) -> None:
        self._store, self._bucket, self._prefix = store, bucket, prefix
        self._decode = _decoder(kind)

    def _key(self, parts: tuple[str, ...]) -> str:
        return ".".join(_token(part) for part in (*self._prefix, *parts))

    async def get(self, *parts: str) -> Versioned[T] | None:
        """The record under these key parts, or None."""
        record = await self._store.get(self._bucket, self._key(parts))
        return Versioned(self._decode(record.value), record.revision) if record else None

    async def revision(self, *parts: str) -> int:
        """The revision of the record under these key parts, 0 when there is none; its value is not looked at."""
        record = await self._store.get(self._bucket, self._key(parts))
        return record.revision if record else 0

    async def create(self, *parts: str, value: T, ttl: int = 0) -> int:
        """Writes a new record; raises `WrongRevision` when one is there."""
        return await self.update(*parts, value=value, revision=0, ttl=ttl)

    async def update(self, *parts: str, value: T, revision: int, ttl: int = 0) -> int:
        """Replaces the record read at `revision`; raises `WrongRevision` when it moved on."""
        data = msgspec.json.encode(value)
        return await self._store.write(self._bucket, self._key(parts), data, revision=revision, ttl=ttl)

    async def delete(self, *parts: str, revision: int) -> None:
        """Removes the record read at `revision`; raises `WrongRevision` when it moved on."""
        await self._store.delete(self._bucket, self._key(parts), revision=revision)

    async def names(self, *parts: str) -> list[str]:
        """The last key part of every record with exactly one more key part behind `parts`, in order."""
        pattern = ".".join([*(_token(part) for part in (*self._prefix, *parts)), "*"])
        return [record.key.rsplit(".", 1)[1] async for record in self._store.scan(self._bucket, pattern)]

    async def any(self, *parts: str) -> bool:
        """Whether there is a record anywhere below `parts`."""
        pattern = ".".join([*(_token(part) for part in (*self._prefix, *parts)), ">"])
        return await self._store.any(self._bucket, pattern)

    async def all(self, *parts: str) -> list[Versioned[T]]:
        """Every record with exactly one more key part behind `parts`, in key order."""
        return await self._matching(parts, "*")

    async def below(self, *parts: str) -> list[Versioned[T]]:
        """Every record with any number of key parts behind `parts`, in key order."""
        return await self._matching(parts, ">")

    async def _matching(self, parts: tuple[str, ...], rest: str) -> list[Versioned[T]]:
        pattern = ".".join([*(_token(part) for part in (*self._prefix, *parts)), rest])
        return [
            Versioned(self._decode(record.value), record.revision)
            async for record in self._store.scan(self._bucket, pattern)
        ]


class _SealedCommit(Struct, frozen=True):
    sequence: int
    commit: Raw


class _Sealed(Struct, frozen=True, kw_only=True):
    """A finished log as one object: its stored commits as they were."""

    commits: list[_SealedCommit]
    v: int = 1


class ExecutionLog:
    """The log of one execution: fenced appends, verified reads, gapless following."""

    def __init__(self, doors: Doors, tenant: str, execution_id: str) -> None:
        self._doors = doors
        self._subject = log_subject(tenant, execution_id)
        self._object_prefix = f"log.{tenant}.{_token(execution_id)}."
        self._sealed = f"sealed.{tenant}.{_token(execution_id)}"

    async def append(self, tip: Tip, events: Iterable[AnyEvent]) -> tuple[Tip, list[Entry]]:
        """Appends the events as one commit behind `tip`. Raises `Fenced` when another writer was there."""
        append_id = secrets.token_hex(16)
        payload, reached, entries = encode_commit(tip, events, at=self._doors.clock.now(), append_id=append_id)
        if len(payload) > INLINE_LIMIT:
            name = self._object_prefix + append_id
            await self._doors.objects.put(name, payload)
            payload = encode_reference(append_id, name)
        point = "+".join(type(entry.event).__name__ for entry in entries)
        self._doors.faults.reach(f"append:{point}:before")
        sequence = await self._doors.log.append(self._subject, payload, expected=tip.sequence)
        self._doors.faults.reach(f"append:{point}:stored")
        reached = reached._replace(sequence=sequence)
        if tip == START:
            self._doors.fresh.keep(self._subject, (reached, entries))
        return reached, entries

    def begun_here(self) -> tuple[Tip, list[Entry]] | None:
        """The log as this process has just begun it, given out once; it may have moved on since."""
        return self._doors.fresh.take(self._subject)

    async def read(self) -> tuple[Tip, list[Entry]]:
        """The whole log, sealed or not. Raises `Fault` (`LOG_DAMAGED`) when it does not verify."""
        stored = await self._doors.log.read(self._subject)
        return await self._fold(START, stored or await self._from_seal())

    async def seal(self) -> None:
        """Puts the whole log into one object and takes it out of its stream. Only for a log that has its end.

        Can be repeated, and broken off anywhere: the stream is emptied last.
        """
        stored = await self._doors.log.read(self._subject)
        # Another process may be emptying the subject just now: only a whole log takes the place of one.
        if stored and ends((await self._fold(START, stored))[1]):
            commits = [_SealedCommit(each.sequence, Raw(each.payload)) for each in stored]
            await self._doors.objects.put(self._sealed, msgspec.json.encode(_Sealed(commits=commits)))
            await self._doors.log.purge(self._subject)

    async def erase(self) -> None:
        """Removes a sealed log for good, its large commits included."""
        for stored in await self._from_seal():
            decoded = decode_reference(stored.payload)
            if decoded is not None:
                await self._doors.objects.delete(decoded.name)
        await self._doors.objects.delete(self._sealed)

    async def _from_seal(self) -> list[Stored]:
        data = await self._doors.objects.get(self._sealed)
        if data is None:
            return []
        return [Stored(each.sequence, bytes(each.commit)) for each in msgspec.json.decode(data, type=_Sealed).commits]

    @asynccontextmanager
    async def follow(self, *, empty: bool = False) -> AsyncIterator[AsyncIterator[list[Entry]]]:
        """Batches of entries: all there are, then each commit as it lands. `empty`: nothing was there yet."""
        async with (
            self._doors.log.follow(self._subject, empty=empty) as stored,
            aclosing(self._verified(stored, sealed=not empty)) as batches,
        ):
            yield batches

    async def _verified(self, stored: AsyncIterator[Stored], *, sealed: bool) -> AsyncGenerator[list[Entry], None]:
        tip = START
        if sealed and not await self._doors.log.read(self._subject) and (kept := await self._from_seal()):
            yield (await self._fold(START, kept))[1]
            return
        async for message in stored:
            tip, entries = await self._fold(tip, [message])
            yield entries

    async def _fold(self, tip: Tip, stored: Iterable[Stored]) -> tuple[Tip, list[Entry]]:
        entries: list[Entry] = []
        for message in stored:
            decoded = decode_commit(tip, message.payload, message.sequence)
            if isinstance(decoded, Reference):
                large = await self._doors.objects.get(decoded.name)
                decoded = decode_commit(tip, large, message.sequence) if large is not None else decoded
                if isinstance(decoded, Reference):
                    raise Fault("LOG_DAMAGED", "A part of this run's record is missing.", "Start the run again.")
            tip, more = decoded
            entries += more
        return tip, entries


class _Held(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn as it is stored: in place, or as the name of an object."""

    turn: Raw = Raw(b"null")
    object: str = ""
    v: int = 1


_held: Final = msgspec.json.Decoder(_Held).decode


class SessionLog:
    """The turns of one session, in the order they were appended. What a turn is, `sessions` says."""

    def __init__(self, doors: Doors, tenant: str, session_id: str) -> None:
        self._doors = doors
        self._subject = f"cb.agent.session.{tenant}.{_token(session_id)}"
        self._objects = f"turn.{tenant}.{_token(session_id)}."

    async def append(self, payload: bytes, *, expected: int) -> int:
        """Appends behind the last turn's sequence (0: there is none) and returns the new one; raises `Fenced`."""
        held = _Held(turn=Raw(payload))
        if len(payload) > INLINE_LIMIT:
            held = _Held(object=self._objects + secrets.token_hex(16))
            await self._doors.objects.put(held.object, payload)
        self._doors.faults.reach("turn:before")
        sequence = await self._doors.log.append(self._subject, msgspec.json.encode(held), expected=expected)
        self._doors.faults.reach("turn:stored")
        return sequence

    async def read(self, *, after: int = 0) -> list[Stored]:
        """Every turn behind a sequence, large ones in full. Raises `Fault` (`LOG_DAMAGED`) where one is missing."""
        return [await self._whole(stored) for stored in await self._doors.log.read(self._subject, after=after)]

    async def erase(self) -> None:
        """Removes every turn, the parts of large ones included."""
        await self._doors.log.purge(self._subject)
        await self._doors.objects.erase(self._objects)

    async def _whole(self, stored: Stored) -> Stored:
        held = _held(stored.payload)
        if not held.object:
            return Stored(stored.sequence, bytes(held.turn))
        large = await self._doors.objects.get(held.object)
        if large is None:
            raise Fault("LOG_DAMAGED", "A part of this session's record is missing.", "Export what is left of it.")
        return Stored(stored.sequence, large)


@dataclass(frozen=True, slots=True)
class Topic:
    """Something of one tenant whose changes can be heard: a run's log, a record, or every record of a kind.

    Made by the tenant's own space and good in that space alone.
    """

    tenant: str
    subject: str


class Change(NamedTuple):
    """That something was written: of which topic, whether it is new, and whether it was removed."""

    topic: Topic
    new: bool
    gone: bool


class TenantSpace:
    """One tenant's records, logs, jobs and signals."""

    def __init__(self, doors: Doors, tenant: str) -> None:
        self._doors = doors
        self.tenant = _tenant(tenant)

    def records(self, bucket: Bucket, kind: type[T]) -> Records[T]:
        """This tenant's records of one kind."""
        return Records(self._doors.store, bucket, (self.tenant,), kind)

    def log(self, execution_id: str) -> ExecutionLog:
        """The log of one of this tenant's executions; it may be empty."""
        return ExecutionLog(self._doors, self.tenant, execution_id)

    def session_log(self, session_id: str) -> SessionLog:
        """The turns of one of this tenant's sessions; there may be none."""
        return SessionLog(self._doors, self.tenant, session_id)

    async def execution_ids(self) -> list[str]:
        """The ids of this tenant's executions that have a log, oldest first."""
        subjects = await self._doors.log.subjects(f"cb.agent.events.*.{self.tenant}.*")
        return sorted(subject.rsplit(".", 1)[1] for subject in subjects)

    async def enqueue(self, agent_id: str, execution_id: str, *, occasion: str, priority: Priority = "normal") -> None:
        """Puts a run in the queue; once per `occasion` (`accepted`, `swept`), however often it is called.

        Raises `Exhausted` (`QUEUE_FULL`) when the agent, or everybody together, has too many jobs there.
        """
        job = Job(self.tenant, _token(agent_id), _token(execution_id), priority)
        await self._doors.queue.publish(job_subject(job.lane), job, dedup=f"{execution_id}.{occasion}")

    async def queued(self, agent_id: str = "") -> int:
        """How many jobs of this tenant, or of one of its agents, are in the queue, those under way included."""
        counts = await self._doors.queue.counts(f"cb.agent.execute.{self.tenant}.>")
        lanes = {lane_of(subject): count for subject, count in counts.items()}
        return sum(count for lane, count in lanes.items() if lane and agent_id in ("", lane.agent_id))

    async def signal(self, channel: str, execution_id: str, payload: bytes) -> None:
        """Sends an unstored signal about a run on `delta` or `control`."""
        await self._doors.bus.publish(self._channel(channel, execution_id), payload)

    def signals(self, channel: str, execution_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The signals about a run while the context is open."""
        return self._doors.bus.subscribe(self._channel(channel, execution_id))

    def log_topic(self, execution_id: str) -> Topic:
        """What is appended to the log of one of this tenant's executions."""
        return Topic(self.tenant, f"cb.agent.log.{self.tenant}.{_token(execution_id)}")

    def record_topic(self, bucket: Bucket, *parts: str) -> Topic:
        """Writes of the record under these key parts."""
        key = ".".join((self.tenant, *(_token(part) for part in parts)))
        return Topic(self.tenant, f"cb.changed.{bucket}.{key}")

    def records_topic(self, bucket: Bucket, *parts: str) -> Topic:
        """Writes of every record with exactly one more key part behind `parts`."""
        key = ".".join((self.tenant, *(_token(part) for part in parts), "*"))
        return Topic(self.tenant, f"cb.changed.{bucket}.{key}")

    def bucket_topic(self, bucket: Bucket) -> Topic:
        """Writes of any of this tenant's records in a bucket."""
        return Topic(self.tenant, f"cb.changed.{bucket}.{self.tenant}.>")

    @asynccontextmanager
    async def changes(self, topics: Collection[Topic], tell: Callable[[Change | None], None]) -> AsyncIterator[None]:
        """Calls `tell` for every change of these topics, whichever process made it, while the context is open.

        None means that changes may have been missed. `tell` must neither wait nor raise. Nothing is sent for
        it: the streams say what they stored, to whoever listens.
        """
        if any(topic.tenant != self.tenant for topic in topics):
            raise Fault("UNSAFE_KEY", "An internal key was malformed.", "Report this.")
        known = {topic.subject: topic for topic in topics}

        def told(landed: Landed | None) -> None:
            tell(Change(known[landed.asked], landed.first, landed.gone) if landed else None)

        async with self._doors.bus.landed(tuple(known), told):
            yield

    def _channel(self, channel: str, execution_id: str) -> str:
        return f"cb.agent.{_token(channel)}.{self.tenant}.{_token(execution_id)}"


class Trail:
    """The chain of audit entries of one tenant, or of the platform."""

    def __init__(self, doors: Doors, tenant: str) -> None:
        self._log = doors.log
        self._subject = f"cb.agent.audit.{tenant if tenant == ids.PLATFORM else _tenant(tenant)}"

    async def append(self, payload: bytes, *, expected: int) -> int:
        """Appends behind the last entry's sequence (0: there is none) and returns the new one; raises `Fenced`."""
        return await self._log.append(self._subject, payload, expected=expected)

    async def read(self, after: int = 0) -> list[Stored]:
        """Every entry behind a sequence."""
        return await self._log.read(self._subject, after=after)

    async def erase(self) -> None:
        """Removes every entry."""
        await self._log.purge(self._subject)


class PlatformSpace:
    """What belongs to no tenant. Made once, by `Tenancy.platform`."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def records(self, bucket: Bucket, *prefix: str, kind: type[T]) -> Records[T]:
        """The platform's records of one kind under a fixed prefix."""
        return Records(self._doors.store, bucket, prefix, kind)

    def trail(self, tenant: str) -> Trail:
        """The audit entries of a tenant, or of the platform itself."""
        return Trail(self._doors, tenant)


class Tenancy:
    """Hands out spaces: to a caller, to the worker that holds a job, to the platform itself."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def of(self, principal: Principal) -> TenantSpace:
        """The caller's own space; there is no way to another."""
        return TenantSpace(self._doors, principal.tenant)

    def of_job(self, job: Job) -> TenantSpace:
        """The space of a run that came out of the queue, where only the house puts jobs."""
        return TenantSpace(self._doors, job.tenant)

    def platform(self) -> PlatformSpace:
        """For the authorization server and administration."""
        return PlatformSpace(self._doors)

    async def erase(self, tenant: str) -> int:
        """Removes all that a tenant has: jobs, logs, large parts, records; returns how much there was.

        Whoever still holds a part of it may write once more: so this is done until nothing is found any more. Not
        here: the tenant's own record, its audit trail, and what the authorization server has of it.
        """
        tenant = _tenant(tenant)
        erased = await self._doors.queue.purge(f"cb.agent.execute.{tenant}.>")
        for subject, count in (await self._doors.log.subjects(f"cb.agent.events.*.{tenant}.*")).items():
            await self._doors.log.purge(subject)
            erased += count
        for subject, count in (await self._doors.log.subjects(f"cb.agent.session.{tenant}.*")).items():
            await self._doors.log.purge(subject)
            erased += count
        for kind in ("log", "sealed", "turn"):
            erased += await self._doors.objects.erase(f"{kind}.{tenant}.")
        for bucket in (each for each in BUCKETS if each not in OF_PLATFORM):
            # One by one and not as a whole, so that whoever keeps copies in memory hears of it.
            async for record in self._doors.store.scan(bucket, f"{tenant}.>"):
                with suppress(WrongRevision):
                    await self._doors.store.delete(bucket, record.key, revision=record.revision)
                erased += 1
        return erased

    def jobs(self, weights: Weights = even) -> AbstractAsyncContextManager[Jobs]:
        """Leased jobs of any tenant, for one worker; what to do with each is decided in the space `of_job`.

        `weights` is asked for the weight of a tenant or of one of its agents whenever turns are given out; it must
        answer at once.
        """
        return self._doors.queue.jobs(weights)

    async def queue_depths(self) -> list[Depth]:
        """Every lane of any tenant that holds a job, with how many wait and how many run."""
        return await self._doors.queue.depths()

    async def tenants(self) -> list[TenantSpace]:
        """The space of every tenant, for retention."""
        pattern = [record.key async for record in self._doors.store.scan("cb_tenants", "tenant.*")]
        return [TenantSpace(self._doors, key.partition(".")[2]) for key in pattern]

    async def live_logs(self) -> list[tuple[TenantSpace, str]]:
        """Every execution, of any tenant, whose log is not sealed; for recovery."""
        counts = await self._doors.log.subjects("cb.agent.events.*.*.*")
        parts = (subject.split(".") for subject in counts)
        return [(TenantSpace(self._doors, tenant), execution_id) for *_, tenant, execution_id in parts]

    async def untouched(self) -> list[tuple[TenantSpace, str]]:
        """Every execution, of any tenant, whose log holds its request and nothing else; for the sweeper."""
        counts = await self._doors.log.subjects("cb.agent.events.*.*.*")
        parts = (subject.split(".") for subject, appends in counts.items() if appends == 1)
        return [(TenantSpace(self._doors, tenant), execution_id) for *_, tenant, execution_id in parts]

    def controls(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The control signals of every run, for the workers."""
        return self._doors.bus.subscribe("cb.agent.control.*.*")

    @property
    def clock(self) -> Clock:
        """The house's clock."""
        return self._doors.clock

    @property
    def faults(self) -> Faults:
        """The house's fault points."""
        return self._doors.faults


def job_subject(lane: Lane) -> str:
    """Where the jobs of one agent and one priority wait; `normal` is the public contract and has no suffix."""
    suffix = "" if lane.priority == "normal" else f".{lane.priority}"
    return f"cb.agent.execute.{_tenant(lane.tenant)}.{_token(lane.agent_id)}{suffix}"


def lane_of(subject: str) -> Lane | None:
    """The lane with this job subject; None when it is none of ours."""
    match subject.split("."):
        case ["cb", "agent", "execute", tenant, agent_id]:
            return Lane(tenant, agent_id, "normal")
        case ["cb", "agent", "execute", tenant, agent_id, "high" | "low" as priority]:
            return Lane(tenant, agent_id, priority)
    return None


def log_subject(tenant: str, execution_id: str) -> str:
    """Where an execution's log lives; the shard follows from the id alone."""
    shard = crc32(execution_id.encode()) % LOG_SHARDS
    return f"cb.agent.events.{shard}.{_tenant(tenant)}.{_token(execution_id)}"
