"""An agent's own memory from one run to the next: a JSON object, changed by merge patches.

One record per agent, shared by all of its runs; the newest change wins per member, and nobody overwrites what
they have not seen. A change is known by its effect id, so that one that is sent again is not applied again.
What a single run knows is its log, not this. The built-in tools and the surface stand above; erasing it with
its agent is the catalog's.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from mcp_agents.agents.schema import depth_over
from mcp_agents.agents.spec import Agent
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Exhausted, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Topic, Versioned

STATE_LIMIT: Final = 64 * 1024
"""Bytes of the state as JSON."""
STATE_DEPTH: Final = 32
APPLIED_LIMIT: Final = 64
"""Effect ids that are remembered; a change that comes again after that many others would be applied again."""

_ATTEMPTS: Final = 32


class AgentState(Struct, frozen=True, kw_only=True):
    """What an agent keeps. `applied` are the effect ids of its last changes, oldest first."""

    agent_id: str
    state: dict[str, Any]
    applied: tuple[str, ...]
    updated_at: datetime
    v: int = 1


class AgentStates:
    """States of any tenant's agents, always through a `TenantSpace`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def get(self, space: TenantSpace, agent_id: str) -> Versioned[AgentState]:
        """The state; empty and at revision 0 where nothing was ever kept."""
        found = await self._records(space).get(agent_id)
        return found or Versioned(self._empty(agent_id), 0)

    def topic(self, space: TenantSpace, agent_id: str) -> Topic:
        """The changes of an agent's state."""
        return space.record_topic("cb_agent_state", agent_id)

    async def merge(
        self, space: TenantSpace, agent_id: str, changes: dict[str, Any], effect_id: str
    ) -> Versioned[AgentState]:
        """Applies a merge patch (RFC 7396) once per effect id and returns the state as it is then.

        Raises `Invalid` (`STATE_TOO_LARGE`), `NotFound` (`AGENT_UNKNOWN`) for an agent that was deleted, and
        `Exhausted` (`STATE_BUSY`) when others change it faster than this can.
        """
        if depth_over(changes, STATE_DEPTH):
            raise _too_large()
        for _ in range(_ATTEMPTS):
            found = await self.get(space, agent_id)
            if effect_id in found.value.applied:
                return found
            if await space.records("cb_agents", Agent).get(agent_id) is None:
                raise NotFound("AGENT_UNKNOWN", "There is no such agent.", "List the agents with agent_list.")
            fresh = AgentState(
                agent_id=agent_id,
                state=_bounded(_merged(found.value.state, changes)),
                applied=(*found.value.applied, effect_id)[-APPLIED_LIMIT:],
                updated_at=max(self._clock.now(), found.value.updated_at),
            )
            try:
                revision = await self._records(space).update(agent_id, value=fresh, revision=found.revision)
            except WrongRevision:
                continue
            return Versioned(fresh, revision)
        raise Exhausted(
            "STATE_BUSY",
            "Too many runs of this agent change its state at once.",
            "Try again shortly.",
            retry_after_ms=500,
        )

    async def erase(self, space: TenantSpace, agent_id: str) -> None:
        """Forgets the state of an agent that is gone."""
        while (found := await self._records(space).get(agent_id)) is not None:
            try:
                await self._records(space).delete(agent_id, revision=found.revision)
            except WrongRevision:
                continue  # a last change came between; it goes too

    def _empty(self, agent_id: str) -> AgentState:
        return AgentState(agent_id=agent_id, state={}, applied=(), updated_at=self._clock.now())

    def _records(self, space: TenantSpace) -> Records[AgentState]:
        return space.records("cb_agent_state", AgentState)


def _merged(old: Any, changes: Any) -> Any:
    """RFC 7396: objects merge by member, null removes one, anything else replaces."""
    if not isinstance(changes, dict):
        return changes
    merged = dict(old) if isinstance(old, dict) else {}
    for name, change in changes.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), change)
    return merged


def _bounded(state: dict[str, Any]) -> dict[str, Any]:
    if len(msgspec.json.encode(state)) > STATE_LIMIT:
        raise _too_large()
    return state


def _too_large() -> Invalid:
    return Invalid(
        "STATE_TOO_LARGE",
        f"An agent's state is at most {STATE_LIMIT // 1024} KiB of JSON, nested at most {STATE_DEPTH} deep.",
        "Remove members by setting them to null, or keep less.",
    )
