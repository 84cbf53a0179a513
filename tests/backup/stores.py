"""Stores to back up: everything in one as comparable values, one filled with all kinds of things, one emptied."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mcp_agents.adapters import nats_topology
from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded
from mcp_agents.adapters.nats_link import NatsLink, connect
from mcp_agents.adapters.nats_log import NatsLog
from mcp_agents.adapters.nats_objects import NatsObjects
from mcp_agents.adapters.nats_queue import NatsQueue
from mcp_agents.adapters.nats_snapshot import NatsSnapshots
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.kernel.job import Job
from mcp_agents.kernel.tenancy import log_subject
from mcp_agents.security.keys import MasterKey
from mcp_agents.security.sealed_file import SealedReader
from mcp_agents.server.backup import Manifest, back_up, replace_all, settle, verified

MASTER = MasterKey(b"m" * 32)
NAMES = [str(each["name"]) for each in nats_topology.streams(1)]


class Message(NamedTuple):
    """One stored message, whole."""

    sequence: int
    subject: str
    headers: tuple[tuple[str, str], ...]
    data: bytes


def told(_: str) -> None:
    """Nobody looks at the progress."""


@asynccontextmanager
async def opened(folder: Path, *, restoring: bool = False) -> AsyncIterator[NatsLink]:
    """The embedded server on a folder."""
    options = EmbeddedOptions(
        folder=folder / "nats",
        key=MASTER.derive("nats-store"),
        key_id=MASTER.key_id,
        sync="interval",
        restoring=restoring,
    )
    async with embedded(options) as endpoint, connect(endpoint, "test") as link:
        yield link


def snapshots(link: NatsLink) -> NatsSnapshots:
    """The port under test."""
    return NatsSnapshots(link, replicas=1, limits=nats_topology.QueueLimits())


async def everything(link: NatsLink) -> dict[str, tuple[dict[str, Any], dict[str, Any], list[Message]]]:
    """Configuration, state and every message of every stream; the time of each is among its headers."""
    found = {}
    for name in NAMES:
        info = await link.api(f"STREAM.INFO.{name}")
        # The time of a last message that was removed is not kept; each message has its own time among its headers.
        state = {key: value for key, value in info["state"].items() if key not in ("consumer_count", "last_ts")}
        if not state["last_seq"]:
            state["first_seq"] = 0  # what was never written to begins at 0, and read from the disk at 1
        found[name] = (info["config"], state, [_message(*each) async for each in link.each(name, ">", 0)])
    return found


def _message(sequence: int, message: Any) -> Message:
    headers = dict(message.headers or {})
    headers.pop("Nats-Num-Pending", None)
    return Message(sequence, headers["Nats-Subject"], tuple(sorted(headers.items())), message.data)


async def fill(link: NatsLink) -> None:
    """Something of everything: logs with gaps, records replaced, deleted and with a time to live, objects, jobs."""
    log, store, objects = NatsLog(link), NatsStore(link), NatsObjects(link)
    for number in range(6):
        subject, tip = log_subject("acme", f"ex_{number}"), 0
        for commit in range(4):
            tip = await log.append(subject, f"commit {commit} of {number}".encode(), expected=tip)
    await log.purge(log_subject("acme", "ex_2"))
    for number in range(40):
        revision = await store.write("cb_agents", f"acme.a{number}", b"old", revision=0)
        if number % 2:
            revision = await store.write("cb_agents", f"acme.a{number}", bytes(range(256)), revision=revision)
        if number % 5 == 0:
            await store.delete("cb_agents", f"acme.a{number}", revision=revision)
    await store.write("cb_leases", "acme.soon", b"short", revision=0, ttl=2)
    await store.write("cb_leases", "acme.late", b"long", revision=0, ttl=3600)
    for number in range(3):
        await objects.put(f"log.acme.ex_{number}.x", bytes([number]) * 700_000)
    await objects.put("log.acme.ex_0.x", b"another")
    await objects.delete("log.acme.ex_1.x")
    queue = NatsQueue(link)
    for number in range(5):
        await queue.publish("cb.agent.execute.acme.ag_1", Job("acme", "ag_1", f"ex_{number}"), dedup=f"{number}")
    await queue.purge("cb.agent.execute.>")
    await log.append("cb.agent.audit.acme", b"entry", expected=0)


async def drop(link: NatsLink) -> None:
    """Removes every stream of the house."""
    for name in await nats_topology.existing(link):
        if name in NAMES:
            await link.api(f"STREAM.DELETE.{name}")


async def saved(link: NatsLink, target: Path) -> Path:
    """A backup of what is there."""
    await back_up(snapshots(link), MASTER, target, told)
    return target


async def put_back(link: NatsLink, path: Path, *, replace: bool = False) -> Manifest:
    """A whole restore on an open store."""
    with SealedReader(path) as reader:
        manifest = verified(reader, MASTER, told)
        await replace_all(snapshots(link), MASTER, reader, manifest, replace=replace, told=told)
        await settle(snapshots(link), manifest)
        return manifest


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def canary() -> str:
    """A text that is looked for."""
    return json.dumps({"canary": "c4n4ry-of-the-backup"})
