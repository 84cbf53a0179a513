"""The `Queue` port on a JetStream work-queue stream with one pull consumer.

A lease lasts `nats_topology.LEASE_SECONDS` from the delivery or the last `keep`. An acknowledgement is
not fenced, so a worker sends it only after its fenced final append.
"""

import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio
import msgspec
import nats.errors
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import NatsLink, Refused
from mcp_agents.adapters.nats_topology import JOBS, WORKERS
from mcp_agents.kernel.job import Delivery, Job, Jobs

_NEXT: Final = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{WORKERS}"
_EXPIRES_SECONDS: Final = 30


class _Wire(msgspec.Struct, frozen=True, kw_only=True):
    v: int
    execution_id: str


class NatsDelivery:
    """A leased job over its message."""

    def __init__(self, message: Msg) -> None:
        self._message = message
        _, _, _, tenant, agent_id = message.subject.split(".")
        self.job = Job(tenant, agent_id, msgspec.json.decode(message.data, type=_Wire).execution_id)
        self.attempt = int(message.metadata.num_delivered or 1)
        self.number = int(message.metadata.sequence.stream)

    # A signal that is lost costs a redelivery, which the fenced log makes harmless; so none of these raises.

    async def keep(self) -> None:
        with suppress(nats.errors.Error):
            await self._message.in_progress()

    async def done(self) -> None:
        with suppress(nats.errors.Error):
            await self._message.ack()

    async def release(self) -> None:
        with suppress(nats.errors.Error):
            await self._message.nak()


class NatsQueue:
    """Jobs over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link

    async def publish(self, subject: str, job: Job, *, dedup: str) -> None:
        payload = msgspec.json.encode(_Wire(v=1, execution_id=job.execution_id))
        answer = json.loads((await self._link.request(subject, payload, {"Nats-Msg-Id": dedup})).data)
        if error := answer.get("error"):
            raise Refused(error.get("err_code", 0), error.get("description", ""))

    def jobs(self) -> Jobs:
        return _NatsJobs(self._link)


class _NatsJobs:
    """A standing request for as many jobs as there is room for; never for more.

    What is asked for and not delivered counts as outstanding, until the server says that the request has
    expired or the connection was lost, when it forgets what we asked for.
    """

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._inbox = ""
        self._outstanding = 0
        self._arrived: deque[Delivery] = deque()
        self._bell = anyio.Event()

    async def take(self, room: int, wait: float) -> Sequence[Delivery]:
        if not self._inbox:
            await self._open()
        if (more := room - self._outstanding - len(self._arrived)) > 0:
            await self._ask(more)
        if not self._arrived:
            self._bell = anyio.Event()
            with anyio.move_on_after(wait):
                await self._bell.wait()
            if not self._arrived:
                await anyio.sleep(0.05)  # refused or expired: do not ask again in the same breath
        taken = list(self._arrived)
        self._arrived.clear()
        return taken

    async def _open(self) -> None:
        self._inbox = self._link.client.new_inbox()
        await self._link.client.subscribe(self._inbox, cb=self._answered)
        self._link.on_gap(self._lost)

    async def _ask(self, more: int) -> None:
        request = {"batch": more, "expires": _EXPIRES_SECONDS * 1_000_000_000}
        with suppress(nats.errors.Error):
            await self._link.client.publish(_NEXT, json.dumps(request).encode(), reply=self._inbox)
            self._outstanding += more

    async def _answered(self, message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers:
            # The rest of a request that has expired, or all of one that the server refuses for now.
            self._outstanding -= int(headers.get("Nats-Pending-Messages", self._outstanding))
        else:
            self._outstanding -= 1
            self._arrived.append(NatsDelivery(message))
        self._outstanding = max(0, self._outstanding)
        self._bell.set()

    def _lost(self) -> None:
        self._outstanding = 0
        self._bell.set()
