"""The `Snapshots` port on JetStream's own snapshot and restore, which `nats-py` does not have.

The server reads a stream message by message up to the last sequence that it had at the start, and sends it compressed
in chunks, a few ahead of our acknowledgements; restoring sends them back one by one. Sequences, times, headers and
gaps come out as they went in; messages whose time to live is over stay gaps. What is written meanwhile is not in it.
What is *removed* meanwhile may be missing from it, although it was there at the start (a record that is written anew
removes its old version): so the stream is looked at again behind the last chunk, and a snapshot during which anything
was removed does not count as settled.

Consumers are left out: the lanes of the queue are made by whoever works. Above: the composer; below: the link.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import msgspec
import nats.errors
from nats.aio.subscription import Subscription

from mcp_agents.adapters import nats_presence, nats_topology
from mcp_agents.adapters.nats_link import NatsLink, Refused, unavailable
from mcp_agents.kernel.errors import AgentsError, Fault, Invalid
from mcp_agents.kernel.snapshots import State, Taken
from mcp_agents.kernel.tenancy import LOG_SHARDS

_CHUNK: Final = 256 * 1024
_WINDOW: Final = 2 * 1024 * 1024
"""Bytes that the server sends ahead of what we have taken: what a snapshot costs in memory, however large it is."""
_ANSWER_SECONDS: Final = 60.0
_NO_STREAM: Final = 10059


class NatsSnapshots:
    """Snapshots over one link. `replicas`: how many copies of each stream a restore makes."""

    def __init__(self, link: NatsLink, *, replicas: int, limits: nats_topology.QueueLimits) -> None:
        self._link, self._replicas, self._limits = link, replicas, limits
        self.names: tuple[str, ...] = tuple(str(config["name"]) for config in nats_topology.streams(replicas, limits))

    @property
    def server(self) -> str:
        return str(self._link.client.connected_server_version).strip("<>").rpartition("v")[2]

    async def states(self) -> dict[str, State]:
        there = await nats_topology.existing(self._link)
        return {name: await self._state(name) for name in self.names if name in there}

    async def _state(self, name: str) -> State:
        return _state_of((await self._link.api(f"STREAM.INFO.{name}"))["state"])

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[Taken]:
        inbox = self._link.client.new_inbox()
        arriving = await self._link.client.subscribe(inbox)
        try:
            body = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": _CHUNK, "window_size": _WINDOW}
            answer = await self._ask(f"$JS.API.STREAM.SNAPSHOT.{name}", json.dumps(body).encode(), name)
            taken = Taken(config=answer["config"], state=_state_of(answer["state"]), chunks=_none())
            taken.chunks = self._chunks(arriving, name, taken)
            yield taken
        finally:
            with anyio.move_on_after(5, shield=True):
                await arriving.unsubscribe()

    async def _chunks(self, arriving: Subscription, name: str, taken: Taken) -> AsyncIterator[bytes]:
        number = 0
        while True:
            try:
                message = await arriving.next_msg(timeout=_ANSWER_SECONDS)
            except nats.errors.Error as cause:
                raise unavailable() from cause
            if not message.data:
                if (message.headers or {}).get("Status", "204") != "204":  # one short chunk ends without any
                    raise _failed(name, (message.headers or {}).get("Description", "it was broken off"))
                break
            number += 1
            if message.reply:  # the last one has none
                if int(message.reply.rpartition(".")[2]) != number:
                    raise _failed(name, "a part of it was lost on the way")
                yield message.data
                await self._link.client.publish(message.reply, b"")
            else:
                yield message.data
        now = await self._state(name)
        taken.settled = (now.first_seq, now.num_deleted) == (taken.state.first_seq, taken.state.num_deleted)

    async def put(self, name: str, config: dict[str, Any], state: State, chunks: AsyncIterator[bytes]) -> State:
        if name not in self.names or config.get("name") != name:
            raise Invalid("BACKUP_VERSION", f"This version of mcp-agents knows no stream {name}.", _NEWER)
        await self._remove(name)
        body = {"config": {**config, "num_replicas": self._replicas}, "state": msgspec.to_builtins(state)}
        begun = await self._ask(f"$JS.API.STREAM.RESTORE.{name}", json.dumps(body).encode(), name)
        async for chunk in chunks:
            await self._ask(begun["deliver_subject"], chunk, name)
        made = await self._ask(begun["deliver_subject"], b"", name)
        return _state_of(made["state"])

    async def _ask(self, subject: str, payload: bytes, name: str) -> dict[str, Any]:
        """One step of a transfer. It cannot be sent again: a second copy would count."""
        try:
            async with self._link.exchange(subject, payload) as answers:
                message = await answers.next(_ANSWER_SECONDS)
        except nats.errors.Error as cause:
            raise unavailable() from cause
        if (message.headers or {}).get("Status") == "503":
            raise unavailable()
        answer: dict[str, Any] = json.loads(message.data) if message.data else {}
        if "error" in answer:
            raise _failed(name, answer["error"].get("description", ""))
        return answer

    async def _remove(self, name: str) -> None:
        try:
            await self._link.api(f"STREAM.DELETE.{name}")
        except Refused as refused:
            if refused.code != _NO_STREAM:
                raise _failed(name, str(refused)) from refused

    async def complete(self) -> None:
        try:
            await nats_topology.ensure(self._link, self._replicas, self._limits)
        except Refused as refused:
            raise _failed("a stream", str(refused)) from refused

    async def empty(self, name: str) -> None:
        await self._remove(name)
        await self.complete()

    async def others(self) -> int:
        return await nats_presence.present(self._link)

    async def live_logs(self) -> int:
        there = await nats_topology.existing(self._link)
        shards = [name for name in map(nats_topology.log_stream, range(LOG_SHARDS)) if name in there]
        counts = [(await self._link.api(f"STREAM.INFO.{name}"))["state"].get("num_subjects", 0) for name in shards]
        return sum(counts)

    async def mark(self, what: str) -> None:
        await nats_presence.begin_restoring(self._link, what, self._replicas)

    async def marked(self) -> str:
        return await nats_presence.restoring(self._link)

    async def unmark(self) -> None:
        await nats_presence.end_restoring(self._link)


_NEWER: Final = "Restore with the version that made the backup, or a later one."


def _state_of(state: dict[str, Any]) -> State:
    return msgspec.convert(state, State)


async def _none() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for each in nothing:
        yield each


def _failed(name: str, why: str) -> AgentsError:
    return Fault(
        "SNAPSHOT_FAILED",
        f"NATS could not move {name}: {why or 'no reason was given'}.",
        "Look at the disk and the log of the NATS server, then repeat the command.",
    )
