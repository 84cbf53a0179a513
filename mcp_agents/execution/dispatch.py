"""The front of execution: accept a run, follow it, look at it, cancel it.

Accepting is three durable steps in this order: the idempotency key (create-only), `requested` in the log,
the job in the queue. A crash between any two leaves something that the same request, or the sweeper,
completes. Blocking, streaming and listing are all readers of the log; nothing here runs an agent.
"""

import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

import anyio
import msgspec
from msgspec import Raw, Struct

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.execution.run import ExecutionView, Run
from mcp_agents.execution.signals import CONTROL, DELTA, Cancel, Delta, decode_delta, encode
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Conflict, Exhausted, Fenced, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.events import START, Caller, Cancelled, Entry, Requested, ends
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Tenancy, TenantSpace
from mcp_agents.kernel.trace import new_traceparent

log = logging.getLogger("mcp_agents.dispatch")

KEY_SECONDS: Final = 24 * 3600
MAX_DEPTH: Final = 8
PROMPT_LIMIT: Final = 1_000_000
_ORPHAN_AGE: Final = timedelta(seconds=10)
_LIST_SCAN: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a caller asks for. `agent` is an id or a name; `submitted` runs on when nobody follows."""

    agent: str
    prompt: str
    context: Any = None
    stream: bool = True
    tools_enabled: bool = True
    idempotency_key: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    submitted: bool = False
    traceparent: str = ""
    depth: int = 0


Update = list[Entry] | Delta


class _Key(Struct, frozen=True, kw_only=True):
    execution_id: str
    digest: str
    v: int = 1


@dataclass(frozen=True, slots=True)
class _Prepared:
    execution_id: str
    requested: Requested
    new: bool


class Dispatcher:
    """Runs of any tenant, always through the caller's `TenantSpace`."""

    def __init__(self, tenancy: Tenancy, agents: AgentCatalog) -> None:
        self._tenancy, self._agents = tenancy, agents

    async def submit(self, space: TenantSpace, principal: Principal, order: Order) -> str:
        """Accepts a run durably, or joins the one with the same key, and returns its execution id.

        Raises `NotFound` (`AGENT_UNKNOWN`), `Conflict` (`AGENT_INACTIVE`, `IDEMPOTENCY_MISMATCH`),
        `Invalid`, `Exhausted` (`DEPTH_EXHAUSTED`).
        """
        prepared = await self._prepare(space, principal, order)
        await self._accept(space, prepared)
        return prepared.execution_id

    @asynccontextmanager
    async def execute(
        self, space: TenantSpace, principal: Principal, order: Order, *, deltas: bool
    ) -> AsyncIterator[tuple[str, AsyncIterator[Update]]]:
        """Accepts a run as `submit` does and follows it from its start: its execution id, and its updates."""
        prepared = await self._prepare(space, principal, order)
        # Listening begins before there is anything to hear, so that a new run need not be read at all.
        async with self.follow(space, prepared.execution_id, empty=prepared.new, deltas=deltas) as updates:
            await self._accept(space, prepared)
            yield prepared.execution_id, updates

    async def _prepare(self, space: TenantSpace, principal: Principal, order: Order) -> "_Prepared":
        if len(order.prompt) > PROMPT_LIMIT:
            raise Invalid("PROMPT_TOO_LONG", f"A prompt is at most {PROMPT_LIMIT} characters.", "Shorten it.")
        if order.depth > MAX_DEPTH:
            raise Exhausted(
                "DEPTH_EXHAUSTED",
                f"Agents called each other {MAX_DEPTH} deep.",
                "Look for agents that call in a circle.",
            )
        agent = (await self._agents.get(space, order.agent)).value
        if not agent.is_active:
            raise Conflict("AGENT_INACTIVE", f"The agent {agent.name} is switched off.", "Switch it on first.")
        minted = ids.mint("ex", self._tenancy.clock)
        execution_id = await self._keyed(space, principal, order, agent.id, minted) if order.idempotency_key else minted
        requested = Requested(
            agent_id=agent.id,
            agent=Raw(msgspec.json.encode(agent)),
            prompt=order.prompt,
            caller=Caller.of(principal),
            traceparent=order.traceparent or new_traceparent(),
            context=order.context,
            stream=order.stream,
            tools_enabled=order.tools_enabled,
            metadata=order.metadata,
            overrides=order.overrides,
            submitted=order.submitted,
            depth=order.depth,
        )
        return _Prepared(execution_id, requested, new=execution_id == minted)

    async def _accept(self, space: TenantSpace, prepared: "_Prepared") -> None:
        execution_id = prepared.execution_id
        try:
            await space.log(execution_id).append(START, [prepared.requested])
        except Fenced:  # joined: it was accepted before, perhaps by a front end that died before queueing it
            if (await self._run(space, execution_id)).started_at:
                return
        await space.enqueue(prepared.requested.agent_id, execution_id, occasion="accepted")
        self._tenancy.faults.reach("accept:queued")

    async def _keyed(
        self, space: TenantSpace, principal: Principal, order: Order, agent_id: str, execution_id: str
    ) -> str:
        """The execution that this key stands for: a new one, or the one it was first used for."""
        digest = _digest(order, agent_id)
        name = sha256(f"{principal.subject}\0{order.idempotency_key}".encode()).hexdigest()
        keys = space.records("cb_agent_state", _Key)
        try:
            fresh = _Key(execution_id=execution_id, digest=digest)
            await keys.create("idempotency", name, value=fresh, ttl=KEY_SECONDS)
        except WrongRevision:
            held = await keys.get("idempotency", name)
            if held is not None:
                if held.value.digest != digest:
                    raise Conflict(
                        "IDEMPOTENCY_MISMATCH",
                        "This idempotency key was used for another request.",
                        "Use a new key, or send the same arguments.",
                    ) from None
                return held.value.execution_id
        self._tenancy.faults.reach("accept:keyed")
        return execution_id

    async def view(self, space: TenantSpace, execution_id: str) -> ExecutionView:
        """The run as it stands. Raises `NotFound` (`EXECUTION_UNKNOWN`)."""
        return (await self._run(space, execution_id)).view()

    async def events(self, space: TenantSpace, execution_id: str, cursor: int, limit: int) -> list[Entry]:
        """Up to `limit` entries behind `cursor`."""
        entries = await self._entries(space, execution_id)
        return [entry for entry in entries if entry.seq > cursor][:limit]

    async def transcript(self, space: TenantSpace, execution_id: str) -> tuple[Message, ...]:
        """The conversation so far, tool turns included."""
        run = await self._run(space, execution_id)
        final = (Message(role="assistant", text=run.text),) if run.status == "completed" else ()
        return (*run.conversation(), *(final if run.turns and run.turns[-1].text != run.text else ()))

    async def wait(self, space: TenantSpace, execution_id: str, seconds: float) -> ExecutionView:
        """The run when it has ended, or as it stands after `seconds`. Raises `NotFound`."""
        run = await self._run(space, execution_id)
        with anyio.move_on_after(seconds):
            async with self.follow(space, execution_id, deltas=False) as updates:
                async for _ in updates:
                    pass
            run = await self._run(space, execution_id)
        return run.view()

    async def newest(
        self, space: TenantSpace, *, before: str, limit: int, agent_id: str = "", status: str = ""
    ) -> tuple[list[ExecutionView], str]:
        """A page of runs, newest first, behind the id `before`; and the cursor of the next page, "" at the end.

        A page is short when the filters let little through; go on with its cursor.
        """
        every = [known for known in reversed(await space.execution_ids()) if not before or known < before]
        page: list[ExecutionView] = []
        for looked_at, execution_id in enumerate(every[:_LIST_SCAN], 1):
            view = await self.view(space, execution_id)
            if (not agent_id or view.agent_id == agent_id) and (not status or view.status == status):
                page.append(view)
            if len(page) == limit:
                return page, execution_id if looked_at < len(every) else ""
        return page, every[_LIST_SCAN - 1] if len(every) > _LIST_SCAN else ""

    async def cancel(self, space: TenantSpace, principal: Principal, execution_id: str, reason: str) -> ExecutionView:
        """Ends the run unless it has ended; the worker that holds it is told and is fenced off anyway."""
        execution = space.log(execution_id)
        while True:
            run = await self._run(space, execution_id)
            if run.finished:
                return run.view()
            tip, entries = await execution.read()
            if ends(entries):
                continue
            try:
                await execution.append(tip, [Cancelled(by=principal.subject, reason=reason)])
            except Fenced:
                continue  # the run took a step meanwhile
            await space.signal(CONTROL, execution_id, encode(Cancel(execution_id)))

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

    async def _run(self, space: TenantSpace, execution_id: str) -> Run:
        return Run.folded(execution_id, await self._entries(space, execution_id))

    async def _entries(self, space: TenantSpace, execution_id: str) -> list[Entry]:
        if not ids.is_id(execution_id, "ex"):
            raise unknown_execution()
        _, entries = await space.log(execution_id).read()
        if not entries:
            raise unknown_execution()
        return entries


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


def _digest(order: Order, agent_id: str) -> str:
    what = [agent_id, order.prompt, order.context, order.tools_enabled, order.overrides]
    return sha256(msgspec.json.Encoder(order="deterministic").encode(what)).hexdigest()


class Sweeper:
    """Queues accepted runs again whose job was lost because their front end died before publishing it."""

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy

    async def sweep(self) -> int:
        """Looks once at every run that was accepted and never started; returns how many were queued again."""
        queued = 0
        for space, execution_id in await self._tenancy.untouched():
            _, entries = await space.log(execution_id).read()
            run = Run.folded(execution_id, entries)
            if not run.started_at and self._tenancy.clock.now() - run.created_at > _ORPHAN_AGE:
                # A job that is still waiting is published twice at worst; a worker drops the second one.
                await space.enqueue(run.requested.agent_id, execution_id, occasion="swept")
                queued += 1
        return queued
