"""Runs that were given up because their worker was lost too often: listed until somebody requeues them.

`endings` writes them. Above: the surface. Below: the dispatcher, the tenant's records.
"""

from contextlib import suppress

import msgspec

from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.execution.endings import DeadLetter
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, NotFound, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned

_PLACE = "dead"


class DeadLetters:
    """Dead letters of any tenant, always through the caller's `TenantSpace`."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._dispatcher, self._clock = dispatcher, clock

    async def newest(self, space: TenantSpace, *, before: str = "") -> list[DeadLetter]:
        """All of them behind the id `before`, newest first."""
        letters = [found.value for found in await self._records(space).all(_PLACE)]
        return [letter for letter in reversed(letters) if not before or letter.execution_id < before]

    async def requeue(self, space: TenantSpace, principal: Principal, execution_id: str) -> ExecutionView:
        """Runs it again as a new execution for this caller, once: a repeated call joins that one.

        Raises `NotFound` (`DEAD_LETTER_UNKNOWN`), and what accepting a run raises.
        """
        letter = await self._claimed(space, execution_id)
        old = (await self._dispatcher.run(space, execution_id)).requested
        order = Order(
            agent=old.agent_id,
            prompt=old.prompt,
            session_id=old.session.id if old.session else "",
            compacts=bool(old.session and old.session.compact and old.session.compact.alone),
            context=old.context,
            tools_enabled=old.tools_enabled,
            metadata=old.metadata,
            overrides=old.overrides,
            output_schema=old.output_schema,
            priority=old.priority,
            portion=old.portion,
            submitted=True,
        )
        try:
            await self._dispatcher.start(space, principal, order, letter.requeued_as)
        except AgentsError:
            await self._unclaimed(space, execution_id, letter.requeued_as)
            raise
        return await self._dispatcher.view(space, letter.requeued_as)

    async def _claimed(self, space: TenantSpace, execution_id: str) -> DeadLetter:
        """The letter with the id of the execution that takes its place, written before that one is accepted."""
        while True:
            found = await self._found(space, execution_id)
            if found.value.requeued_as:
                return found.value
            fresh = msgspec.structs.replace(found.value, requeued_as=ids.mint("ex", self._clock))
            try:
                await self._records(space).update(_PLACE, execution_id, value=fresh, revision=found.revision)
            except WrongRevision:
                continue
            return fresh

    async def _unclaimed(self, space: TenantSpace, execution_id: str, refused: str) -> None:
        """The run that was to take its place was refused: the letter can be requeued again."""
        found = await self._found(space, execution_id)
        if found.value.requeued_as == refused:
            fresh = msgspec.structs.replace(found.value, requeued_as="")
            with suppress(WrongRevision):  # somebody else was first
                await self._records(space).update(_PLACE, execution_id, value=fresh, revision=found.revision)

    async def _found(self, space: TenantSpace, execution_id: str) -> Versioned[DeadLetter]:
        found = await self._records(space).get(_PLACE, execution_id) if ids.is_id(execution_id, "ex") else None
        if found is None:
            raise NotFound("DEAD_LETTER_UNKNOWN", "There is no such dead letter.", "List them with dead_letter_list.")
        return found

    def _records(self, space: TenantSpace) -> Records[DeadLetter]:
        return space.records("cb_executions", DeadLetter)
