"""What a backup holds, in which order it is taken, and how a store is replaced by one.

A backup is one sealed file with every stream in it. The streams are taken one after the other, so that beside a house
at work each shows another moment; each is exact for its own. `ORDER` makes what is left of that harmless: what refers
is taken before what it refers to, so that no log, head or record points at something that is not in the file, and what
was half done looks as if a process had died over it, which is what recovery mends (docs/backup.md goes through it).

A restore reads the whole file before it touches anything. Then a mark in the store keeps every house shut until the
last stream stands; whoever finds the mark begins anew with the same file.

Not a door to data: what is in the streams is opaque here. Above: the command line; below: `Snapshots`, `sealed_file`.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from mcp_agents import __version__
from mcp_agents.kernel.errors import Conflict, Fault, Invalid, Unavailable
from mcp_agents.kernel.snapshots import Snapshots, State
from mcp_agents.security.keys import MasterKey
from mcp_agents.security.sealed_file import Frame, SealedReader, SealedWriter, damaged

T = TypeVar("T")

ORDER: Final = (
    "CB_JOBS",
    "CB_EVENTS_0",
    "CB_EVENTS_1",
    "CB_EVENTS_2",
    "CB_EVENTS_3",
    "KV_cb_agent_sessions",
    "CB_SESSIONS",
    "KV_cb_executions",
    "KV_cb_agent_state",
    "KV_cb_memories",
    "KV_cb_joins",
    "KV_cb_leases",
    "KV_cb_ledger",
    "KV_cb_capacity",
    "KV_cb_agents",
    "KV_cb_policies",
    "KV_cb_models",
    "KV_cb_tool_servers",
    "KV_cb_vault",
    "OBJ_cb_objects",
    "KV_cb_auth",
    "KV_cb_tenants",
    "CB_AUDIT",
)
SUFFIX: Final = ".backup"
_TRIES: Final = 50
_LARGE: Final = 16 * 1024 * 1024
_TRIES_LARGE: Final = 5
_PAUSE_SECONDS: Final = 0.02
_STREAM, _DATA, _VOID, _END, _MANIFEST = b"S", b"D", b"V", b"E", b"M"


class _Stream(Struct, frozen=True, kw_only=True):
    """In front of a stream's data."""

    name: str
    config: dict[str, Any]
    state: State


class Part(Struct, frozen=True, kw_only=True):
    """One stream of the manifest. `take`: which of the streams in the file it is, counted from 0."""

    name: str
    take: int
    state: State
    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """The last frame. `digest` is over all of the file that is in front of it."""

    v: int = 1
    product: str
    nats: str
    created: datetime
    one_moment: bool
    live_logs: int
    parts: list[Part]
    digest: str


class Report(Struct, frozen=True, kw_only=True):
    """What was made or put back."""

    file: str
    created: datetime
    streams: int
    messages: int
    bytes: int
    one_moment: bool
    live_logs: int
    sha256: str = ""


Told = Callable[[str], None]


def backup_path(given: Path) -> Path:
    """The file to make: the one that was named, or one with the time in its name in the folder that was."""
    if given.is_dir():
        return given / f"mcp-agents-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"
    return given


def restore_path(given: Path) -> Path:
    """The file to read: the one that was named, or the newest that `backup` made in the folder that was."""
    if not given.is_dir():
        return given
    made = sorted(path for path in given.iterdir() if re.fullmatch(rf"mcp-agents-\d{{8}}T\d{{6}}Z{SUFFIX}", path.name))
    if not made:
        raise Invalid("BACKUP_UNREADABLE", f"There is no backup in the folder {given}.", "Name the file itself.")
    return made[-1]


async def require_something(snapshots: Snapshots) -> None:
    """Raises `Invalid` (`BACKUP_EMPTY`) where nothing is stored: most likely, this is not the house that was meant."""
    if not any(state.messages for state in (await snapshots.states()).values()):
        raise Invalid(
            "BACKUP_EMPTY",
            "Nothing is stored here, so there is nothing to back up.",
            "Check [server] data_dir and [nats] url.",
        )


async def back_up(snapshots: Snapshots, master: MasterKey, target: Path, told: Told) -> Report:
    """Writes everything that is stored into `target`, or leaves nothing behind."""
    before = await snapshots.states()
    created, live = datetime.now(UTC), await snapshots.live_logs()
    about = {"product": __version__, "nats": snapshots.server, "created": created.isoformat()}
    writer = SealedWriter(target, master, about)
    try:
        parts, takes = [], 0
        for name in (name for name in ORDER if name in before):
            told(name)
            part = await _settled(snapshots, writer, name, takes)
            parts.append(part)
            takes = part.take + 1
        manifest = Manifest(
            product=__version__,
            nats=snapshots.server,
            created=created,
            one_moment=_written(await snapshots.states()) == _written(before),
            live_logs=live,
            parts=parts,
            digest=writer.digest.hexdigest(),
        )
        writer.frame(_MANIFEST, msgspec.json.encode(manifest), last=True)
        size = writer.written
        await anyio.to_thread.run_sync(writer.finish)
    finally:
        writer.discard()
    return msgspec.structs.replace(_report(manifest, target, size), sha256=writer.digest.hexdigest())


def _written(states: dict[str, State]) -> dict[str, object]:
    """What shows a change. In a bucket each one is a message; what else goes on there is time that runs out."""
    return {name: state.last_seq if name.startswith("KV_") else state for name, state in states.items()}


async def _settled(snapshots: Snapshots, writer: SealedWriter, name: str, take: int) -> Part:
    """Takes a stream until nothing was removed from it meanwhile; what came before is void, and says so."""
    tried = 0
    while True:
        part, settled = await _taken(snapshots, writer, name, take)
        if settled:
            writer.frame(_END, msgspec.json.encode(part))
            return part
        writer.frame(_VOID, b"")
        take += 1
        tried += 1
        if tried >= (_TRIES if part.size < _LARGE else _TRIES_LARGE):
            raise Unavailable(
                "BACKUP_UNSETTLED",
                f"{name} was written to so much that no exact copy could be taken; no backup was made.",
                "Try again when less is going on, or stop the server for it.",
            )
        await anyio.sleep(_PAUSE_SECONDS)


async def _taken(snapshots: Snapshots, writer: SealedWriter, name: str, take: int) -> tuple[Part, bool]:
    digest, size = sha256(), 0
    async with snapshots.take(name) as taken:
        writer.frame(_STREAM, msgspec.json.encode(_Stream(name=name, config=taken.config, state=taken.state)))
        async for chunk in taken.chunks:
            digest.update(chunk)
            size += len(chunk)
            writer.frame(_DATA, chunk)
        part = Part(name=name, take=take, state=taken.state, size=size, sha256=digest.hexdigest())
        return part, taken.settled


def verified(reader: SealedReader, master: MasterKey, told: Told) -> Manifest:
    """Reads the whole file. Raises `Invalid` when it is not as it was written, or not for this version."""
    found: list[Part] = []
    take, name, digest, size = -1, "", sha256(), 0
    for frame in reader.frames(master):
        if frame.kind == _STREAM:
            take, name, digest, size = take + 1, _read(reader, frame, _Stream).name, sha256(), 0
            told(name)
        elif frame.kind == _DATA:
            digest.update(frame.data)
            size += len(frame.data)
        elif frame.kind == _END:
            part = _read(reader, frame, Part)
            if (part.name, part.take, part.size, part.sha256) != (name, take, size, digest.hexdigest()):
                raise damaged(reader.path, f"{name} is not what was put in")
            found.append(part)
        elif frame.kind == _MANIFEST:
            manifest = _read(reader, frame, Manifest)
            if manifest.parts != found or manifest.digest != reader.digest:
                raise damaged(reader.path, "its list of contents does not fit")
            return manifest
    raise damaged(reader.path, "it has no list of contents")


def _read(reader: SealedReader, frame: Frame, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(frame.data, type=kind)
    except msgspec.MsgspecError as cause:
        raise damaged(reader.path, "a part of it cannot be read") from cause


async def replace_all(
    snapshots: Snapshots, master: MasterKey, reader: SealedReader, manifest: Manifest, *, replace: bool, told: Told
) -> None:
    """Puts every stream of a verified backup in place of what is there, and leaves the mark: see `settle`."""
    _require_known(snapshots, manifest)
    await _claim(snapshots, manifest, replace=replace)
    wanted = {part.take: part for part in manifest.parts}
    frames, take = reader.frames(master), -1
    for frame in frames:
        if frame.kind != _STREAM:
            continue
        take += 1
        if part := wanted.get(take):
            told(part.name)
            stream = _read(reader, frame, _Stream)
            made = await snapshots.put(part.name, stream.config, stream.state, _data(frames))
            _require_like(part, made, stream.config)
    for name, state in (await snapshots.states()).items():
        if state.messages and name not in {part.name for part in manifest.parts}:
            await snapshots.empty(name)
    await snapshots.complete()


async def settle(snapshots: Snapshots, manifest: Manifest) -> None:
    """Looks once more at what was put back, after it was written to disk, and lets houses open."""
    if await snapshots.marked() != manifest.digest:
        raise _failed("somebody else has restored meanwhile")
    there = await snapshots.states()
    for part in manifest.parts:
        _require_like(part, there.get(part.name, State()), {"allow_msg_ttl": True})
    await snapshots.unmark()


def report_of(manifest: Manifest, path: Path) -> Report:
    """What is in a backup."""
    return _report(manifest, path, path.stat().st_size)


def _report(manifest: Manifest, path: Path, size: int) -> Report:
    return Report(
        file=str(path),
        created=manifest.created,
        streams=len(manifest.parts),
        messages=sum(part.state.messages for part in manifest.parts),
        bytes=size,
        one_moment=manifest.one_moment,
        live_logs=manifest.live_logs,
    )


def _require_known(snapshots: Snapshots, manifest: Manifest) -> None:
    for what, theirs, ours in (
        ("mcp-agents", manifest.product, __version__),
        ("NATS", manifest.nats, snapshots.server),
    ):
        if _numbers(theirs) > _numbers(ours):
            raise Invalid(
                "BACKUP_VERSION",
                f"The backup was made with {what} {theirs}, which is newer than {ours} here.",
                f"Restore with {what} {theirs} or later.",
            )
    if unknown := sorted({part.name for part in manifest.parts} - set(snapshots.names)):
        raise Invalid(
            "BACKUP_VERSION",
            f"The backup holds streams that this version does not know: {', '.join(unknown)}.",
            "Restore with the version that made the backup.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


async def _claim(snapshots: Snapshots, manifest: Manifest, *, replace: bool) -> None:
    """Makes sure that nothing is lost that was not given up, that nobody else is there, and shuts the house."""
    marked = await snapshots.marked()
    if marked and marked != manifest.digest and not replace:
        raise Conflict(
            "RESTORE_UNFINISHED",
            "A restore of another backup was begun here and has not ended.",
            "Repeat it with the same file, or give --replace to put this one in its place.",
        )
    if not marked and not replace and any(state.messages for state in (await snapshots.states()).values()):
        raise Conflict(
            "HOUSE_NOT_EMPTY",
            "There is data in this store, which a restore would replace.",
            "Make a backup of it if you may need it, and give --replace; or choose another data folder.",
        )
    if await snapshots.others():
        raise _running()
    await snapshots.mark(manifest.digest)
    if await snapshots.others():  # one that opened before it could see the mark
        if not marked:
            await snapshots.unmark()
        raise _running()


def _running() -> Conflict:
    return Conflict(
        "HOUSE_RUNNING",
        "Other mcp-agents processes use this store.",
        "Stop all of them, then repeat; nothing was changed.",
    )


def _require_like(part: Part, made: State, config: dict[str, Any]) -> None:
    """Whether a stream is what was put in; in one with times to live, less may be left."""
    fewer = bool(config.get("allow_msg_ttl") or config.get("max_age"))
    missing = part.state.messages - made.messages
    if made.last_seq != part.state.last_seq or missing < 0 or (missing and not fewer):
        raise _failed(f"{part.name} holds {made.messages} of {part.state.messages} messages")


def _failed(why: str) -> Fault:
    return Fault("RESTORE_FAILED", f"The restore did not come out right: {why}.", "Repeat it with the same file.")


async def _data(frames: Iterator[Frame]) -> AsyncIterator[bytes]:
    for frame in frames:
        if frame.kind != _DATA:
            return
        yield frame.data
