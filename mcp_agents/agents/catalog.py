"""A tenant's agents: create, find, list, change with revisions, switch off, delete.

Names are unique per tenant through a name record that is claimed before the agent is written; a claim
left behind by a crash points at no agent and may be taken over. Whether a model or a tool binding
exists is asked through `Checks`, filled by the composer, so that this floor needs nobody above it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct
from pydantic import ValidationError

from mcp_agents.agents.spec import Agent, AgentDraft, Limits
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned

_NAMES = "name"


@dataclass(frozen=True, slots=True)
class Checks:
    """What the catalog asks before it saves. Both raise `Invalid` with the valid choices."""

    model: Callable[[TenantSpace, str], Awaitable[None]]
    tools: Callable[[TenantSpace, tuple[str, ...]], Awaitable[None]]


_RECORD_LIMIT = 256 * 1024
_CLAIM_GRACE = timedelta(seconds=10)
"""How long a name stays claimed by an agent that is not written yet; a claim left by a crash is older."""


class _Name(Struct, frozen=True, kw_only=True):
    agent_id: str
    claimed_at: datetime
    v: int = 1


class AgentCatalog:
    """Agents of any tenant, always through the caller's `TenantSpace`."""

    def __init__(self, clock: Clock, checks: Checks) -> None:
        self._clock = clock
        self._checks = checks

    async def create(self, space: TenantSpace, draft: AgentDraft) -> Versioned[Agent]:
        """Stores a new, active agent. Raises `Conflict` (`AGENT_NAME_TAKEN`) and `Invalid`."""
        await self._check(space, draft)
        now = self._clock.now()
        agent = Agent(
            id=ids.mint("ag", self._clock),
            tenant_id=space.tenant,
            **_fields(draft),
            created_at=now,
            updated_at=now,
            is_active=True,
            version=1,
        )
        _bounded(agent)
        await self._claim_name(space, agent.name, agent.id)
        revision = await self._agents(space).create(agent.id, value=agent)
        return Versioned(agent, revision)

    async def get(self, space: TenantSpace, reference: str) -> Versioned[Agent]:
        """By id or name. Raises `NotFound` (`AGENT_UNKNOWN`), the same for another tenant's agent."""
        agent_id = reference
        if not ids.is_id(reference, "ag"):
            if not ids.AGENT_NAME.fullmatch(reference):
                raise _unknown()
            named = await self._names(space).get(_NAMES, reference)
            if named is None:
                raise _unknown()
            agent_id = named.value.agent_id
        found = await self._agents(space).get(agent_id)
        if found is None:
            raise _unknown()
        return found

    async def all(self, space: TenantSpace) -> list[Versioned[Agent]]:
        """Every agent of the tenant, oldest first."""
        return await self._agents(space).all()

    async def update(
        self, space: TenantSpace, reference: str, changes: dict[str, Any], expected_revision: int | None
    ) -> Versioned[Agent]:
        """Changes the given draft fields. Raises `Conflict` (`REVISION_CONFLICT`) when it moved on meanwhile."""
        found = await self.get(space, reference)
        old = found.value
        try:
            draft = AgentDraft.model_validate({**_draft_of(old), **changes})
        except ValidationError as cause:
            raise invalid_fields(cause) from cause
        await self._check(space, draft)
        fresh = msgspec.structs.replace(old, **_fields(draft))
        _bounded(fresh)
        renamed = draft.name != old.name
        if renamed:
            await self._claim_name(space, draft.name, old.id)
        try:
            saved = await self._save(space, found, fresh, expected_revision)
        except Conflict:
            if renamed:
                await self._free_name(space, draft.name, old.id)
            raise
        if renamed:
            await self._free_name(space, old.name, old.id)
        return saved

    async def set_active(
        self, space: TenantSpace, reference: str, *, active: bool, expected_revision: int | None
    ) -> Versioned[Agent]:
        """Switches an agent on or off; off, it takes no new runs."""
        found = await self.get(space, reference)
        return await self._save(space, found, msgspec.structs.replace(found.value, is_active=active), expected_revision)

    async def delete(self, space: TenantSpace, reference: str, expected_revision: int | None) -> Agent:
        """Removes the agent and frees its name; its runs keep their records."""
        found = await self.get(space, reference)
        _expect(found.revision, expected_revision)
        try:
            await self._agents(space).delete(found.value.id, revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        await self._free_name(space, found.value.name, found.value.id)
        return found.value

    async def _save(
        self, space: TenantSpace, found: Versioned[Agent], fresh: Agent, expected_revision: int | None
    ) -> Versioned[Agent]:
        _expect(found.revision, expected_revision)
        # Never earlier than before, even when the clock steps back.
        now = max(self._clock.now(), found.value.updated_at)
        fresh = msgspec.structs.replace(fresh, updated_at=now, version=found.value.version + 1)
        try:
            revision = await self._agents(space).update(fresh.id, value=fresh, revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        return Versioned(fresh, revision)

    async def _check(self, space: TenantSpace, draft: AgentDraft) -> None:
        await self._checks.model(space, draft.virtual_model)
        await self._checks.tools(space, draft.tools)

    async def _claim_name(self, space: TenantSpace, name: str, agent_id: str) -> None:
        names = self._names(space)
        holder = await names.get(_NAMES, name)
        if holder is not None:
            owner = await self._agents(space).get(holder.value.agent_id)
            fresh = self._clock.now() - holder.value.claimed_at < _CLAIM_GRACE
            if fresh or (owner is not None and owner.value.name == name):
                raise _name_taken(name)
        try:
            claim = _Name(agent_id=agent_id, claimed_at=self._clock.now())
            await names.update(_NAMES, name, value=claim, revision=holder.revision if holder else 0)
        except WrongRevision as cause:
            raise _name_taken(name) from cause

    async def _free_name(self, space: TenantSpace, name: str, agent_id: str) -> None:
        held = await self._names(space).get(_NAMES, name)
        if held is not None and held.value.agent_id == agent_id:
            try:
                await self._names(space).delete(_NAMES, name, revision=held.revision)
            except WrongRevision:
                return  # somebody claimed it meanwhile, as they may

    def _agents(self, space: TenantSpace) -> Records[Agent]:
        return space.records("cb_agents", Agent)

    def _names(self, space: TenantSpace) -> Records[_Name]:
        return space.records("cb_agents", _Name)


def _fields(draft: AgentDraft) -> dict[str, Any]:
    fields = {name: getattr(draft, name) for name in AgentDraft.model_fields}
    return {**fields, "limits": Limits(**draft.limits.model_dump())}


def _draft_of(agent: Agent) -> dict[str, Any]:
    fields = {name: getattr(agent, name) for name in AgentDraft.model_fields}
    return {**fields, "limits": msgspec.to_builtins(agent.limits)}


def _bounded(agent: Agent) -> None:
    if len(msgspec.json.encode(agent)) > _RECORD_LIMIT:
        raise Invalid(
            "AGENT_TOO_LARGE",
            f"An agent with its prompt and metadata is at most {_RECORD_LIMIT // 1024} KiB.",
            "Shorten the system prompt or move metadata elsewhere.",
        )


def _expect(revision: int, expected: int | None) -> None:
    if expected is not None and expected != revision:
        raise _moved_on()


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")


def _name_taken(name: str) -> Conflict:
    return Conflict("AGENT_NAME_TAKEN", f"There is already an agent named {name}.", "Choose another name.")


def _unknown() -> NotFound:
    return NotFound("AGENT_UNKNOWN", "There is no such agent.", "List the agents with agent_list.")


def invalid_fields(cause: ValidationError) -> Invalid:
    """A validation error as one public sentence that names each field and what is wrong with it."""
    problems = "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'input'}: {error['msg']}" for error in cause.errors()[:8]
    )
    return Invalid("ARGUMENTS_INVALID", f"These arguments are not valid: {problems}.", "Correct them and call again.")
