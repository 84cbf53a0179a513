"""The front of execution: accept a run, follow it, look at it, cancel it.

Accepting is durable steps in this order: the idempotency key (create-only), `requested` in the log, the job
in the queue. A crash between any two leaves something that the same request, or `recovery`, completes. Where
this process has a free hand, `requested` and `started` are one commit and there is no job: the run is under
the lease of the process instead. Blocking, streaming and listing are all readers of the log; nothing here
runs an agent.
"""

import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.execution import endings, joining
from mcp_agents.execution.orders import Order
from mcp_agents.execution.recorder import Recorder
from mcp_agents.execution.run import ExecutionView, Run
from mcp_agents.execution.signals import CONTROL, DELTA, Cancel, Delta, decode_delta, encode
from mcp_agents.execution.station import Hand, Station
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Conflict, Exhausted, Fenced, NotFound
from mcp_agents.kernel.events import (
    START,
    Cancelled,
    Entry,
    Failed,
    InputReceived,
    Problem,
    Requested,
    Started,
    ends,
)
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Tenancy, TenantSpace
from mcp_agents.scaling.quotas import Quotas
from mcp_agents.scaling.slots import Slots

log = logging.getLogger("mcp_agents.dispatch")

Update = list[Entry] | Delta
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Prepared:
    execution_id: str
    requested: Requested
    new: bool
    call_name: str = ""


class Dispatcher:
    """Runs of any tenant, always through the caller's `TenantSpace`."""

    def __init__(self, tenancy: Tenancy, agents: AgentCatalog, station: Station, slots: Slots, quotas: Quotas) -> None:
        self._tenancy, self._agents = tenancy, agents
        self._station, self._slots, self._quotas = station, slots, quotas
        self._full_until: dict[tuple[str, ...], float] = {}

    async def submit(self, space: TenantSpace, principal: Principal, order: Order) -> str:
        """Accepts a run durably, or joins the one with the same key, and returns its execution id.

        Raises `NotFound` (`AGENT_UNKNOWN`), `Conflict` (`AGENT_INACTIVE`, `IDEMPOTENCY_MISMATCH`),
        `Invalid`, `Exhausted` (`DEPTH_EXHAUSTED`, `AGENT_CYCLE`, `QUEUE_FULL`).
        """
        prepared = await self._prepare(space, principal, order)
        await self._accept(space, principal, order, prepared)
        return prepared.execution_id

    @asynccontextmanager
    async def execute(
        self, space: TenantSpace, principal: Principal, order: Order, *, deltas: bool
    ) -> AsyncIterator[tuple[str, AsyncIterator[Update]]]:
        """Accepts a run as `submit` does and follows it from its start: its execution id, and its updates.

        A block that is left before the run's end has been seen was a caller that was lost, or that was told to
        come back: the same call within five minutes joins the run.
        """
        prepared = await self._prepare(space, principal, order, rejoin=True)
        seen = _Seen()
        # Listening begins before there is anything to hear, so that a new run need not be read at all.
        async with self.follow(space, prepared.execution_id, empty=prepared.new, deltas=deltas) as updates:
            await self._accept(space, principal, order, prepared)
            try:
                yield prepared.execution_id, seen.by(updates)
            finally:
                if prepared.call_name and not (seen.end and prepared.new):
                    with anyio.move_on_after(5, shield=True):
                        await self._keep_delivery(space, prepared, delivered=seen.end)

    async def start(self, space: TenantSpace, principal: Principal, order: Order, execution_id: str) -> None:
        """Accepts a run under an id that its caller owns (a call of a run, a requeued dead letter), once."""
        agent = (await self._agents.get(space, order.agent)).value
        prepared = _Prepared(execution_id, order.requested(agent, principal, self._agents.identity(agent)), new=False)
        await self._accept(space, principal, order, prepared)

    async def _prepare(
        self, space: TenantSpace, principal: Principal, order: Order, *, rejoin: bool = False
    ) -> _Prepared:
        agent = (await self._agents.get(space, order.agent)).value
        requested = order.requested(agent, principal, self._agents.identity(agent))
        minted = ids.mint("ex", self._tenancy.clock)
        if order.idempotency_key:
            known = await joining.by_key(space, principal, order, agent, minted)
            self._tenancy.faults.reach("accept:keyed")
            return _Prepared(known, requested, new=known == minted)
        if not rejoin:
            return _Prepared(minted, requested, new=True)
        name = joining.call_name(principal, order, agent)
        known = await joining.undelivered(space, name) or minted
        return _Prepared(known, requested, new=known == minted, call_name=name)

    async def _keep_delivery(self, space: TenantSpace, prepared: _Prepared, *, delivered: bool) -> None:
        if delivered:
            await joining.delivered(space, prepared.call_name, prepared.execution_id)
        else:
            await joining.keep_undelivered(space, prepared.call_name, prepared.execution_id)

    async def _accept(self, space: TenantSpace, principal: Principal, order: Order, prepared: _Prepared) -> None:
        if not prepared.new and (run := await self.find(space, prepared.execution_id)):
            if run.status == "pending":  # its front end may have died before queueing it
                await self._enqueue(space, prepared)
            return
        self._refuse_while_full(space, prepared.requested)
        await self._refuse_beyond_quota(space, prepared.requested)
        # Once begun, accepting is not broken off half way by a caller that hangs up.
        with anyio.CancelScope(shield=True):
            hand = None if order.submitted or order.priority == "low" else self._station.free_hand()
            if hand is not None:
                if await self._slots.take(space, prepared.requested.agent_id):
                    await self._begin(space, prepared, hand)
                    return
                hand.take_back()
            try:
                tip, _ = await space.log(prepared.execution_id).append(START, [prepared.requested])
            except Fenced:
                return  # the same call came twice at once, and the other one accepts it
            try:
                await self._enqueue(space, prepared)
            except Exhausted as full:
                if order.idempotency_key:
                    await joining.forget_key(space, principal, order, prepared.execution_id)
                await space.log(prepared.execution_id).append(tip, [Failed(problem=Problem.of(full))])
                raise
        self._tenancy.faults.reach("accept:queued")

    async def _begin(self, space: TenantSpace, prepared: _Prepared, hand: Hand) -> None:
        """Accepts the run and puts it into a free hand of this process."""
        execution = space.log(prepared.execution_id)
        began = Started(worker=self._station.name, attempt=1)
        try:
            tip, entries = await execution.append(START, [prepared.requested, began])
        except BaseException as error:
            hand.take_back()
            await self._slots.give_back(space, prepared.requested.agent_id)
            if isinstance(error, Fenced):
                return
            raise
        execution.begun_here()  # nobody else in this process has to be told of it
        hand.begin(Recorder(space, execution, tip, Run.folded(prepared.execution_id, entries)))

    async def _enqueue(self, space: TenantSpace, prepared: _Prepared) -> None:
        requested = prepared.requested
        try:
            await space.enqueue(
                requested.agent_id, prepared.execution_id, occasion="accepted", priority=requested.priority
            )
        except Exhausted as full:
            if len(self._full_until) > _REMEMBERED:
                self._full_until.clear()
            wait = min(1.0, (full.retry_after_ms or 0) / 1000)
            self._full_until[space.tenant, requested.agent_id, requested.priority] = (
                self._tenancy.clock.monotonic() + wait
            )
            raise

    def _refuse_while_full(self, space: TenantSpace, requested: Requested) -> None:
        """Under overload, most refusals cost nothing: the queue was full a moment ago."""
        until = self._full_until.get((space.tenant, requested.agent_id, requested.priority))
        if until is None:
            return
        left = until - self._tenancy.clock.monotonic()
        if left <= 0:
            self._full_until.pop((space.tenant, requested.agent_id, requested.priority), None)
            return
        raise Exhausted(
            "QUEUE_FULL",
            "Too many runs are waiting for this agent.",
            "Try again later.",
            retry_after_ms=max(250, round(left * 1000)),
        )

    async def _refuse_beyond_quota(self, space: TenantSpace, requested: Requested) -> None:
        tenant = (await self._quotas.of(space, requested.agent_id)).tenant
        if tenant.max_queued is not None and await space.queued() >= tenant.max_queued:
            raise Exhausted(
                "QUEUE_FULL",
                f"The tenant's quota allows {tenant.max_queued} runs in the queue.",
                "Try again later, or raise the quota with quota_set.",
                retry_after_ms=1000,
            )

    async def find(self, space: TenantSpace, execution_id: str) -> Run | None:
        """The run, or None when there is none of that id."""
        if not ids.is_id(execution_id, "ex"):
            return None
        _, entries = await space.log(execution_id).read()
        return Run.folded(execution_id, entries) if entries else None

    async def run(self, space: TenantSpace, execution_id: str) -> Run:
        """The run as it stands. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        run = await self.find(space, execution_id)
        if run is None:
            raise unknown_execution()
        return run

    async def view(self, space: TenantSpace, execution_id: str) -> ExecutionView:
        """The run as its caller sees it. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        return (await self.run(space, execution_id)).view()

    async def entries(self, space: TenantSpace, execution_id: str) -> list[Entry]:
        """Its whole log. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        _, entries = await space.log(execution_id).read() if ids.is_id(execution_id, "ex") else (START, [])
        if not entries:
            raise unknown_execution()
        return entries

    async def transcript(self, space: TenantSpace, execution_id: str) -> tuple[Message, ...]:
        """The conversation so far, tool turns included."""
        return (await self.run(space, execution_id)).conversation()

    async def cancel(self, space: TenantSpace, principal: Principal, execution_id: str, reason: str) -> ExecutionView:
        """Ends the run, and the runs it started, unless it has ended; whoever holds it is told and fenced off."""
        while True:
            run = await self.run(space, execution_id)
            if run.finished:
                await self._cancel_children(space, principal, run)
                return run.view()
            execution = space.log(execution_id)
            tip, entries = await execution.read()
            if ends(entries):
                continue
            try:
                await execution.append(tip, [Cancelled(by=principal.subject, reason=reason)])
            except Fenced:
                continue  # the run took a step meanwhile
            await space.signal(CONTROL, execution_id, encode(Cancel(execution_id)))
            with anyio.CancelScope(shield=True):
                await self._cancel_children(space, principal, run)
                await endings.wake_parent(space, run)

    async def _cancel_children(self, space: TenantSpace, principal: Principal, run: Run) -> None:
        for call in run.open_calls():
            if call.child and await self.find(space, call.child):
                await self.cancel(space, principal, call.child, f"its parent {run.execution_id} was cancelled")

    async def tell(
        self, space: TenantSpace, principal: Principal, execution_id: str, effect_id: str, *, happened: bool, text: str
    ) -> ExecutionView:
        """A person says what became of a call that a waiting run asks about; the run goes on.

        Raises `Conflict` (`EXECUTION_NOT_WAITING`) when it does not ask about this call, or not any more.
        """
        if not ids.is_id(execution_id, "ex"):
            raise unknown_execution()
        execution = space.log(execution_id)
        while True:
            tip, entries = await execution.read()
            if not entries:
                raise unknown_execution()
            run = Run.folded(execution_id, entries)
            if run.status != "waiting" or run.unsettled(effect_id) is None:
                raise Conflict(
                    "EXECUTION_NOT_WAITING",
                    "The run does not wait for an answer about this effect.",
                    "Look at waiting_for with execution_get.",
                )
            told = InputReceived(effect_id=effect_id, by=principal.subject, happened=happened, text=text)
            try:
                await execution.append(tip, [told])
            except Fenced:
                continue
            await space.enqueue(
                run.requested.agent_id, execution_id, occasion=f"told.{effect_id}", priority=run.requested.priority
            )
            return await self.view(space, execution_id)

    @asynccontextmanager
    async def follow(
        self, space: TenantSpace, execution_id: str, *, empty: bool = False, deltas: bool = True
    ) -> AsyncIterator[AsyncIterator[Update]]:
        """The run from its start to its end: batches of entries and, if asked for, deltas of the text between.

        Waits for a run that is not there; ask `view` first. `empty`: the run is about to be accepted.
        """
        async with space.log(execution_id).follow(empty=empty) as batches:
            if not deltas:
                yield _until_final(batches)
                return
            send, receive = anyio.create_memory_object_stream[Update](256)
            async with background() as tasks, send, receive, space.signals(DELTA, execution_id) as signals:
                tasks.start_soon(_forward_log, batches, send.clone())
                tasks.start_soon(_forward_deltas, signals, send.clone())
                yield _until_final(receive)


class _Seen:
    """Whether a follower has been given the end of a run."""

    def __init__(self) -> None:
        self.end = False

    async def by(self, updates: AsyncIterator[Update]) -> AsyncIterator[Update]:
        async for update in updates:
            self.end = isinstance(update, list) and ends(update)
            yield update


async def _forward_log(batches: AsyncIterator[list[Entry]], send: "anyio.abc.ObjectSendStream[Update]") -> None:
    async with send:
        async for batch in batches:
            await send.send(batch)
            if ends(batch):
                return


async def _forward_deltas(signals: AsyncIterator[bytes], send: "anyio.abc.ObjectSendStream[Update]") -> None:
    async with send:
        async for signal in signals:
            await send.send(decode_delta(signal))


async def _until_final(updates: AsyncIterable[Update]) -> AsyncIterator[Update]:
    async for update in updates:
        yield update
        if isinstance(update, list) and ends(update):
            return


def unknown_execution() -> NotFound:
    """What is said of a run that is not this tenant's, or is not at all."""
    return NotFound("EXECUTION_UNKNOWN", "There is no such execution.", "List executions with execution_list.")
