"""The `Queue` port on a JetStream work-queue stream with one pull consumer.

A lease lasts `nats_topology.LEASE_SECONDS` from the delivery or the last `keep`. An acknowledgement is
not fenced, so a worker sends it only after its fenced final append.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import anyio
import msgspec
import nats.errors
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import Exchange, NatsLink, Refused
from mcp_agents.adapters.nats_topology import JOBS, WORKERS
from mcp_agents.kernel.queue import Delivery, Job

_NEXT: Final = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}.{WORKERS}"


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

    async def take(self, limit: int, wait: float) -> Sequence[Delivery]:
        # What is there goes first, in one batch; only an idle worker waits, and then for a single job, so
        # that no lease can start for a worker that has stopped listening for a batch.
        if ready := await self._pull({"batch": limit, "no_wait": True}, limit, 1.0):
            return ready
        return await self._pull({"batch": 1, "expires": int(wait * 1e9)}, 1, wait + 1.0)

    async def _pull(self, request: dict[str, object], limit: int, wait: float) -> list[Delivery]:
        # An inbox of its own: jobs arrive under their own subject, which tells nothing about who asked.
        client = self._link.client
        inbox, answers = client.new_inbox(), Exchange()
        deliveries: list[Delivery] = []
        try:
            subscription = await client.subscribe(inbox, cb=answers.arrived)
            try:
                await client.publish(_NEXT, json.dumps(request).encode(), reply=inbox)
                while len(deliveries) < limit:
                    message = await answers.next(wait)
                    if "Status" in (message.headers or {}):
                        break
                    deliveries.append(NatsDelivery(message))
            finally:
                with anyio.CancelScope(shield=True):
                    await subscription.unsubscribe()
        except nats.errors.Error:
            await anyio.sleep(0.05)  # the server is away; what was leased meanwhile is delivered again
        return deliveries
