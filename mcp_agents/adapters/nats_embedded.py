"""The embedded NATS server: one owner per data folder, encrypted, on loopback, never outliving its owner.

The first process that locks the folder starts the server and writes the runtime file; later ones attach
through that file, and when the owner ends one of them takes over on the same port. Nothing is created
before a canary proves the key: with a wrong key the server looks empty, and creating a stream of an
existing name would delete its files. `nats_process` runs the binary; `nats_topology` knows the streams.
"""

import fcntl
import json
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import anyio.abc
import bcrypt

from mcp_agents.adapters import nats_presence, nats_topology
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, Refused, connect
from mcp_agents.adapters.nats_process import NatsProcess
from mcp_agents.kernel.errors import Conflict, Fault, Invalid, Unavailable
from mcp_agents.kernel.tasks import background

log = logging.getLogger("mcp_agents.nats")

Sync = Literal["always", "interval"]
_CANARY_STREAM: Final = "CB_CANARY"
_CANARY_SUBJECT: Final = "cb.canary.key"
_PROBE_SUBJECT: Final = "cb.canary.probe"
_PROBE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """Where and how. `key` encrypts the store at rest; `key_id` names it without revealing it.

    `restoring`: for whoever replaces what is in it. The folder must be nobody else's then, a store that is not whole
    opens too, and no stream is made.
    """

    folder: Path
    key: bytes
    key_id: str
    sync: Sync = "always"
    limits: nats_topology.QueueLimits = field(default_factory=nats_topology.QueueLimits)
    attach_seconds: float = 20.0
    restoring: bool = False


class _Folder:
    """The files of one embedded server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"
        self.config = root / "server.conf"
        self.runtime = root / "runtime.json"
        self.manifest = root / "manifest.json"
        self.store = root / "jetstream"
        self.log = root / "server.log"

    def prepare(self) -> None:
        """Makes the folder, for us alone. Raises `Invalid` when it cannot be used."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.write_bytes(b"x" * 65536)
            probe.unlink()
        except OSError as cause:
            raise Invalid(
                "DATA_DIR_UNUSABLE",
                f"The data folder {self.root} cannot be written: {cause.strerror or 'no room or no right'}.",
                "Free space, mend its rights, or choose another with [server] data_dir.",
            ) from cause

    def read(self, path: Path) -> dict[str, Any] | None:
        """A JSON file, or None when it is not there or not whole."""
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, path: Path, text: str) -> None:
        """Replaces a file in one step, readable by its owner only, on disk before it counts."""
        fresh = path.with_suffix(f".{secrets.token_hex(4)}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


@asynccontextmanager
async def embedded(options: EmbeddedOptions) -> AsyncIterator[Endpoint]:
    """An endpoint that answers while the context is open, owned or attached to."""
    folder = _Folder(options.folder)
    folder.prepare()
    lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with background() as tasks:
            if _try_lock(lock):
                endpoint = await _own(tasks, lock, folder, options, port=0)
            else:
                endpoint = await _attach(folder, options)
                tasks.start_soon(_take_over_when_free, tasks, lock, folder, options, endpoint)
            yield endpoint
    finally:
        os.close(lock)  # releases it: only now may another process own the folder


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _attach(folder: _Folder, options: EmbeddedOptions) -> Endpoint:
    if options.restoring:
        raise Conflict(
            "HOUSE_RUNNING",
            f"Another process uses the data folder {folder.root.parent}.",
            "Stop every mcp-agents process that uses it, then repeat.",
        )
    with anyio.move_on_after(options.attach_seconds):
        while True:
            runtime = folder.read(folder.runtime)
            if runtime and runtime.get("key_id") not in (None, options.key_id):
                raise _wrong_key()
            if runtime and _listening(int(runtime["port"])):
                return Endpoint(f"nats://127.0.0.1:{runtime['port']}", runtime["user"], runtime["password"])
            await anyio.sleep(0.05)
    raise Conflict(
        "DATA_DIR_BUSY",
        f"Another process holds the data folder {folder.root.parent} and its NATS server does not answer.",
        "Wait for it, stop it, or use another folder with [server] data_dir.",
    )


async def _take_over_when_free(
    tasks: anyio.abc.TaskGroup, lock: int, folder: _Folder, options: EmbeddedOptions, endpoint: Endpoint
) -> None:
    while not _try_lock(lock):
        await anyio.sleep(0.25)
    log.warning("the owner of %s ended; this process takes the embedded NATS server over", folder.root)
    await _own(tasks, lock, folder, options, port=int(endpoint.url.rpartition(":")[2]))


async def _own(
    tasks: anyio.abc.TaskGroup, lock: int, folder: _Folder, options: EmbeddedOptions, *, port: int
) -> Endpoint:
    """Starts the server, proves the key, makes sure of the streams, and keeps it running."""
    manifest = _checked_manifest(folder, options)
    runtime = folder.read(folder.runtime) or {}
    password = runtime.get("password") or secrets.token_urlsafe(32)
    port = port or _free_port()
    endpoint = Endpoint(f"nats://127.0.0.1:{port}", "house", password)
    folder.write(folder.config, _configuration(folder, endpoint, port, options.sync))
    process = NatsProcess(folder.config, folder.log, lock, {"MCP_AGENTS_STORE_KEY": "k" + options.key.hex()})
    await process.start(port)
    try:
        async with connect(endpoint, "mcp-agents keeper") as link:
            await _prove_key(link, folder, options, manifest)
    except BaseException:
        await process.stop()
        raise
    public = {"v": 1, "port": port, "user": endpoint.user, "password": password, "key_id": options.key_id}
    folder.write(folder.runtime, json.dumps(public))
    await tasks.start(_keep_running, process, port, endpoint)
    return endpoint


def _checked_manifest(folder: _Folder, options: EmbeddedOptions) -> dict[str, Any] | None:
    manifest = folder.read(folder.manifest)
    if manifest is None:
        if folder.store.exists() and any(folder.store.rglob("*.blk")):
            raise Fault(
                "STORE_MANIFEST_MISSING",
                f"{folder.store} holds data, but {folder.manifest.name} beside it is missing or damaged.",
                "Restore it from a backup; nothing was started and nothing was changed.",
            )
        fresh = {"v": 1, "key_id": options.key_id, "streams": []}
        folder.write(folder.manifest, json.dumps(fresh))
        return None
    if manifest.get("key_id") != options.key_id:
        raise _wrong_key()
    return manifest if manifest.get("streams") else None


def _wrong_key() -> Invalid:
    return Invalid(
        "MASTER_KEY_WRONG",
        "The master key is not the one this data folder was encrypted with; nothing was started.",
        "Set [keys] master to the right key, or choose another data folder.",
    )


async def _prove_key(
    link: NatsLink, folder: _Folder, options: EmbeddedOptions, manifest: dict[str, Any] | None
) -> None:
    """Reads the canary; only then may anything be created. Raises `Fault` when something is missing."""
    content = sha256(b"canary:" + options.key).hexdigest().encode()
    if not options.restoring:
        await nats_presence.require_whole(link)
    there = await nats_topology.existing(link)
    if manifest is None:
        if _CANARY_STREAM not in there:
            config = {"name": _CANARY_STREAM, "subjects": ["cb.canary.>"], "max_msgs_per_subject": 1}
            await link.api(
                f"STREAM.CREATE.{_CANARY_STREAM}",
                {**config, "storage": "file", "allow_direct": True, "num_replicas": 1},
            )
            await link.request(_CANARY_SUBJECT, content)
    else:
        missing = sorted(set(manifest["streams"]) - there)
        if missing and not options.restoring:
            raise Fault(
                "STORE_INCOMPLETE",
                f"The store should hold {', '.join(missing)} and does not.",
                "Check the master key and restore the data folder from a backup; nothing was created.",
            )
    canary = await link.last(_CANARY_STREAM, _CANARY_SUBJECT)
    if canary is None or canary[1].data != content:
        raise _wrong_key()
    if options.restoring:
        return
    names = [_CANARY_STREAM, *await nats_topology.ensure(link, 1, options.limits)]
    folder.write(folder.manifest, json.dumps({"v": 1, "key_id": options.key_id, "streams": names}))


async def _keep_running(
    process: NatsProcess, port: int, endpoint: Endpoint, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    """Restarts the server when it dies or stops storing (a disk that was full stays broken); stops it at the end."""
    try:
        async with connect(endpoint, "mcp-agents watchdog") as link:
            task_status.started()
            failures = 0
            while True:
                died = False
                with anyio.move_on_after(_PROBE_SECONDS):
                    await process.wait()
                    died = True
                failures = 0 if died or await _stores(link) else failures + 1
                if died or failures >= 3:
                    failures = 0
                    log.warning("embedded NATS %s; restarting it", "died" if died else "no longer stores")
                    await process.stop()
                    await _start_again(process, port)
    finally:
        with anyio.CancelScope(shield=True):
            await process.stop()


async def _start_again(process: NatsProcess, port: int) -> None:
    pause = 0.05
    while True:
        try:
            await process.start(port)
        except Unavailable as error:
            log.error("%s", error)
            await anyio.sleep(pause)
            pause = min(pause * 2, 5.0)
        else:
            return


async def _stores(link: NatsLink) -> bool:
    try:
        with anyio.fail_after(2.5):
            await link.request(_PROBE_SUBJECT, b"")
    except (TimeoutError, Unavailable, Refused):
        return False
    return True


def _configuration(folder: _Folder, endpoint: Endpoint, port: int, sync: Sync) -> str:
    # The password is random and 256 bit: a cheap hash of it is as good as a dear one.
    hashed = bcrypt.hashpw(endpoint.password.encode(), bcrypt.gensalt(4, prefix=b"2a")).decode()
    interval = "always" if sync == "always" else "2m"
    return "\n".join(
        [
            'host: "127.0.0.1"',
            f"port: {port}",
            f'server_name: "mcp-agents-{port}"',
            "max_payload: 1MB",
            "max_control_line: 4KB",
            "max_connections: 2000",
            'write_deadline: "5s"',
            f'authorization {{ users: [ {{ user: "{endpoint.user}", password: "{hashed}" }} ] }}',
            "jetstream {",
            f"  store_dir: {json.dumps(str(folder.store))}",
            f"  sync_interval: {interval}",
            "  cipher: chachapoly",
            "  key: $MCP_AGENTS_STORE_KEY",
            "}",
            "",
        ]
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listening(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.settimeout(0.5)
        probe.connect(("127.0.0.1", port))
        return True
    return False
