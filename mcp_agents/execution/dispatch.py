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
from dataclasses import dataclass, replace
from typing import Final

import anyio
import msgspec

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.agents.spec import Agent
from mcp_agents.execution import endings, joining
from mcp_agents.execution.attention import Attention
from mcp_agents.execution.conversing import Conversations
from mcp_agents.execution.gates import Gates
from mcp_agents.execution.orders import Order
from mcp_agents.execution.recorder import Recorder
from mcp_agents.execution.register import Register
from mcp_agents.execution.run import ExecutionView, Run
from mcp_agents.execution.signals import CONTROL, DELTA, Cancel, Delta, decode_delta, encode
from mcp_agents.execution.station import Hand, Station
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError, Exhausted, Fenced, NotFound
from mcp_agents.kernel.events import (
    START,
    Cancelled,
    Entry,
    Failed,
    Problem,
    Requested,
    Started,
    ends,
)
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Tenancy, TenantSpace
from mcp_agents.scaling.slots import Slots

log = logging.getLogger("mcp_agents.dispatch")

Update = list[Entry] | Delta
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Prepared:
    execution_id: str
    agent: Agent
    requested: Requested
    new: bool
    call_name: str = ""


class Dispatcher:
    """Runs of any tenant, always through the caller's `TenantSpace`."""

    def __init__(
        self,
        tenancy: Tenancy,
        agents: AgentCatalog,
        station: Station,
        slots: Slots,
        register: Register,
        attention: Attention,
        gates: Gates,
        conversations: Conversations,
    ) -> None:
        self._tenancy, self._agents, self._register, self._attention = tenancy, agents, register, attention
        self._gates, self.conversations = gates, conversations
        self._station, self._slots, self._quotas = station, slots, slots.quotas
        self._full_until: dict[tuple[str, ...], float] = {}

    async def submit(self, space: TenantSpace, principal: Principal, order: Order) -> str:
        """Accepts a run durably, or joins the one with the same key, and returns its execution id.

        Raises `NotFound` (`AGENT_UNKNOWN`, `SESSION_UNKNOWN`), `Conflict` (`AGENT_INACTIVE`, `IDEMPOTENCY_MISMATCH`,
        `SESSION_BUSY`, `SESSION_STATE`),
        `Invalid`, `Exhausted` (`DEPTH_EXHAUSTED`, `AGENT_CYCLE`, `QUEUE_FULL`).
        """
        prepared = await self._prepare(space, principal, order)
        await self._accept(space, principal, order, prepared)
        return prepared.execution_id

    @asynccontextmanager
    async def execute(
        self, space: TenantSpace, principal: Principal, order: Order, *, deltas: bool, joins: str = ""
    ) -> AsyncIterator[tuple[str, "Updates"]]:
        """Accepts a run as `submit` does and follows it from its start: its execution id, and its updates.

        A block that is left before the run's end has been seen was a caller that was lost, or that was told to
        come back: the same call within five minutes joins the run. `joins` is the run that it goes on with, where
        it is known that it is the same call.
        """
        prepared = await self._prepare(space, principal, order, rejoin=True, joins=joins)
        # Listening begins before there is anything to hear, so that a new run need not be read at all.
        async with self._following(space, prepared.execution_id, empty=prepared.new, deltas=deltas) as updates:
            await self._accept(space, principal, order, prepared)
            try:
                yield prepared.execution_id, updates
            finally:
                if prepared.call_name and not (updates.ended and prepared.new):
                    with anyio.move_on_after(5, shield=True):
                        await self._keep_delivery(space, prepared, delivered=updates.ended)

    async def start(self, space: TenantSpace, principal: Principal, order: Order, execution_id: str) -> None:
        """Accepts a run under an id that its caller owns (a call of a run, a requeued dead letter), once."""
        agent = (await self._agents.get(space, order.agent)).value
        requested = order.requested(agent, principal, self._agents.identity(agent.id))
        prepared = _Prepared(execution_id, agent, requested, new=False)
        await self._accept(space, principal, order, prepared)

    async def _prepare(
        self, space: TenantSpace, principal: Principal, order: Order, *, rejoin: bool = False, joins: str = ""
    ) -> _Prepared:
        agent = (await self._agents.get(space, order.agent)).value
        requested = order.requested(agent, principal, self._agents.identity(agent.id))
        minted = ids.mint("ex", self._tenancy.clock)
        if order.idempotency_key and not joins:
            known = await joining.by_key(space, principal, order, agent, minted)
            self._tenancy.faults.reach("accept:keyed")
            return _Prepared(known, agent, requested, new=known == minted)
        if not rejoin:
            return _Prepared(minted, agent, requested, new=True)
        name = joining.call_name(principal, order, agent)
        if joins:
            return _Prepared(joins, agent, requested, new=False, call_name=name)
        known = await joining.undelivered(space, name) or minted
        if known != minted and (run := await self.find(space, known)) and run.status == "cancelled":
            known = minted  # nobody asks again for a run that was called off
        return _Prepared(known, agent, requested, new=known == minted, call_name=name)

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
        if order.parent is None:  # an agent's call of an agent was asked about where it was made
            await self._gates.agent(space, principal, prepared.agent)
        self._refuse_while_full(space, prepared.requested)
        await self._refuse_beyond_quota(space, prepared.requested)
        # Once begun, accepting is not broken off half way by a caller that hangs up.
        with anyio.CancelScope(shield=True):
            if not order.session_id:
                await self._admit(space, principal, order, prepared)
                return
            agent_id, execution_id = prepared.requested.agent_id, prepared.execution_id
            turn = await self.conversations.begin(
                space, principal, order.session_id, agent_id, execution_id, compacts=order.compacts
            )
            self._tenancy.faults.reach("accept:held")
            requested = msgspec.structs.replace(prepared.requested, session=turn)
            try:
                await self._admit(space, principal, order, replace(prepared, requested=requested))
            except AgentsError:
                run = await self.find(space, execution_id)
                if run is None:
                    await self.conversations.give_up(space, order.session_id, execution_id)
                elif run.finished:
                    await self.conversations.ended(space, run)
                raise

    async def _admit(self, space: TenantSpace, principal: Principal, order: Order, prepared: _Prepared) -> None:
        """Puts the run into its log, and into a free hand or the queue."""
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
        quota = await self._quotas.of(space, requested.agent_id)
        for whose, most, agent_id in (
            ("tenant", quota.tenant.max_queued, ""),
            ("agent", quota.agent.max_queued, requested.agent_id),
        ):
            if most is not None and await space.queued(agent_id) >= most:
                raise Exhausted(
                    "QUEUE_FULL",
                    f"The {whose}'s quota allows {most} runs in the queue.",
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
        """The run as it stands; one that is read is not abandoned. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        run = await self._known(space, execution_id)
        if not run.finished:
            await self._attention.read(space, execution_id)
        return run

    async def _known(self, space: TenantSpace, execution_id: str) -> Run:
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
        if not ends(entries):
            await self._attention.read(space, execution_id)
        return entries

    async def transcript(self, space: TenantSpace, execution_id: str) -> tuple[Message, ...]:
        """The conversation so far, tool turns included."""
        return (await self.run(space, execution_id)).conversation()

    async def cancel(self, space: TenantSpace, principal: Principal, execution_id: str, reason: str) -> ExecutionView:
        """Ends the run, and the runs it started, unless it has ended; whoever holds it is told and fenced off."""
        return (await self.end(space, execution_id, by=principal.subject, reason=reason)).view()

    async def end(self, space: TenantSpace, execution_id: str, *, by: str, reason: str) -> Run:
        """As `cancel`, in the name of whoever does it. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        while True:
            run = await self._known(space, execution_id)
            if run.finished:
                await self._cancel_children(space, by, run)
                await self._register.sync(space, run)
                return run
            execution = space.log(execution_id)
            tip, entries = await execution.read()
            if ends(entries):
                continue
            try:
                await execution.append(tip, [Cancelled(by=by, reason=reason)])
            except Fenced:
                continue  # the run took a step meanwhile
            await space.signal(CONTROL, execution_id, encode(Cancel(execution_id)))
            with anyio.CancelScope(shield=True):
                await self._cancel_children(space, by, run)
                await endings.wake_parent(space, run)

    async def _cancel_children(self, space: TenantSpace, by: str, run: Run) -> None:
        for call in run.open_calls():
            if call.child and await self.find(space, call.child):
                await self.end(space, call.child, by=by, reason=f"its parent {run.execution_id} was cancelled")

    @asynccontextmanager
    async def follow(
        self, space: TenantSpace, execution_id: str, *, empty: bool = False, deltas: bool = True
    ) -> AsyncIterator["Updates"]:
        """The run from its start to its end: batches of entries and, if asked for, deltas of the text between.

        Waits for a run that is not there; ask `view` first. `empty`: the run is about to be accepted.
        """
        async with self._following(space, execution_id, empty=empty, deltas=deltas) as updates:
            yield updates

    @asynccontextmanager
    async def _following(
        self, space: TenantSpace, execution_id: str, *, empty: bool, deltas: bool
    ) -> AsyncIterator["Updates"]:
        updates: Updates | None = None
        try:
            with self._attention.following(space, execution_id):
                async with space.log(execution_id).follow(empty=empty) as batches:
                    if not deltas:
                        yield (updates := Updates(batches))
                        return
                    send, receive = anyio.create_memory_object_stream[Update](256)
                    async with background() as tasks, send, receive, space.signals(DELTA, execution_id) as signals:
                        tasks.start_soon(_forward_log, batches, send.clone())
                        tasks.start_soon(_forward_deltas, signals, send.clone())
                        yield (updates := Updates(receive))
        finally:
            if updates is not None and not updates.ended:
                with anyio.move_on_after(5, shield=True):
                    await self._attention.left(space, execution_id)


class Updates:
    """What a follower is given, up to the end of the run; `ended` says whether that has been given."""

    def __init__(self, source: AsyncIterable[Update]) -> None:
        self._source = aiter(source)
        self.ended = False

    def __aiter__(self) -> "Updates":
        return self

    async def __anext__(self) -> Update:
        if self.ended:
            raise StopAsyncIteration
        update = await anext(self._source)
        self.ended = isinstance(update, list) and ends(update)
        return update


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


def unknown_execution() -> NotFound:
    """What is said of a run that is not this tenant's, or is not at all."""
    return NotFound("EXECUTION_UNKNOWN", "There is no such execution.", "List executions with execution_list.")
