"""A tenant's agents: create, find, list, change with revisions, roll back, switch off, delete.

Every change makes a version. The newest is the agent's own record; before a change replaces it, the outgoing
version is stored beside it, so that a crash between the two loses none. Names are unique per tenant through
a name record that is claimed before the agent is written; a claim left behind by a crash points at no agent
and may be taken over. Whether a model or a tool binding exists is asked through `Checks`, filled by the
composer, so that this floor needs nobody above it.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Struct
from pydantic import ValidationError

from mcp_agents.agents.schema import check_schema
from mcp_agents.agents.spec import AGENT_BINDING, Agent, AgentDraft, Limits, Policy
from mcp_agents.agents.state import AgentStates
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, Invalid, NotFound, WrongRevision
from mcp_agents.kernel.routing import Routing
from mcp_agents.kernel.tenancy import Records, TenantSpace, Topic, Versioned

VERSIONS_KEPT: Final = 100
"""Versions of one agent that can be read and gone back to, the present one among them."""

IDENTITY_LENGTH: Final = 32
"""Hex digits of an agent's identity."""

_NAMES = "name"
_VERSIONS = "version"


@dataclass(frozen=True, slots=True)
class Checks:
    """What the catalog asks. `model` raises `Invalid` with the valid choices; `unknown` names the bindings to
    tools that the tenant does not have."""

    model: Callable[[TenantSpace, str], Awaitable[None]]
    unknown: Callable[[TenantSpace, tuple[str, ...]], Awaitable[list[str]]]


_RECORD_LIMIT = 256 * 1024
_CLAIM_GRACE = timedelta(seconds=10)
"""How long a name stays claimed by an agent that is not written yet; a claim left by a crash is older."""


_WRITTEN: Final = (*AgentDraft.model_fields, "is_active")
"""The fields whose change a version names."""


@dataclass(frozen=True, slots=True)
class _Act:
    """Whose change it is and what it is called; without a summary it is told by its fields."""

    by: str
    summary: str = ""


class _Name(Struct, frozen=True, kw_only=True):
    agent_id: str
    claimed_at: datetime
    v: int = 1


class AgentCatalog:
    """Agents of any tenant, always through the caller's `TenantSpace`. `home` is the deployment's public URL."""

    def __init__(self, clock: Clock, checks: Checks, home: str = "") -> None:
        self._clock = clock
        self._checks = checks
        self._home = home
        self.states = AgentStates(clock)

    async def create(self, space: TenantSpace, draft: AgentDraft, *, by: str = "") -> Versioned[Agent]:
        """Stores a new, active agent, `by` a subject. Raises `Conflict` (`AGENT_NAME_TAKEN`) and `Invalid`."""
        agent_id = ids.mint("ag", self._clock)
        given = tuple(sorted(draft.model_fields_set))
        draft = await self._checked(space, draft, agent_id)
        now = self._clock.now()
        agent = Agent(
            id=agent_id,
            tenant_id=space.tenant,
            **_fields(draft),
            created_at=now,
            updated_at=now,
            is_active=True,
            version=1,
            updated_by=by,
            changed=given,
            summary="created",
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

    def identity(self, agent_id: str) -> str:
        """What this agent, of this deployment, is known by in other ones: a digest that gives nothing away."""
        return sha256(f"{self._home}\0{agent_id}".encode()).hexdigest()[:IDENTITY_LENGTH]

    def topic(self, space: TenantSpace, agent_id: str) -> Topic:
        """The changes of one agent."""
        return space.record_topic("cb_agents", agent_id)

    def every_topic(self, space: TenantSpace) -> Topic:
        """The coming, changing and going of every agent of the tenant."""
        return space.records_topic("cb_agents")

    async def versions(self, space: TenantSpace, reference: str, before: int, limit: int) -> list[Agent]:
        """Up to `limit` versions, newest first, older than version `before` (0: from the newest on)."""
        head = (await self.get(space, reference)).value
        newest = min(before - 1, head.version) if before else head.version
        oldest = max(newest - limit, head.version - VERSIONS_KEPT, 0) + 1
        found = [await self._version(space, head, number) for number in range(newest, oldest - 1, -1)]
        return [version for version in found if version is not None]

    async def version(self, space: TenantSpace, reference: str, number: int) -> Agent:
        """An agent as it was at this version. Raises `NotFound` (`AGENT_VERSION_UNKNOWN`)."""
        head = (await self.get(space, reference)).value
        found = None
        if head.version - VERSIONS_KEPT < number <= head.version:
            found = await self._version(space, head, number)
        if found is None:
            raise NotFound(
                "AGENT_VERSION_UNKNOWN",
                f"There is no such version of this agent, or it is older than the last {VERSIONS_KEPT}.",
                "List them with agent_versions.",
            )
        return found

    async def missing_tools(self, space: TenantSpace, agent: Agent) -> tuple[str, ...]:
        """The bindings of a stored agent to what has been removed since; a run goes without them."""
        others = tuple(binding for binding in agent.tools if not binding.startswith(AGENT_BINDING))
        missing = set(await self._checks.unknown(space, others))
        for binding in set(agent.tools) - set(others):
            if await self._agents(space).get(binding.removeprefix(AGENT_BINDING)) is None:
                missing.add(binding)
        return tuple(binding for binding in agent.tools if binding in missing)

    async def update(
        self,
        space: TenantSpace,
        reference: str,
        changes: dict[str, Any],
        expected_revision: int | None,
        *,
        by: str = "",
    ) -> Versioned[Agent]:
        """Changes the given draft fields. Raises `Conflict` (`REVISION_CONFLICT`) when it moved on meanwhile."""
        found = await self.get(space, reference)
        return await self._write(space, found, {**_draft_of(found.value), **changes}, expected_revision, _Act(by))

    async def rollback(
        self, space: TenantSpace, reference: str, number: int, expected_revision: int | None, *, by: str = ""
    ) -> Versioned[Agent]:
        """A new version with what was written at an old one; whether it is switched on stays as it is.

        The name goes back too, unless another agent has it now. Raises like `update` and `version`: the model
        and the tools of the old version must still be there.
        """
        found = await self.get(space, reference)
        fields = _draft_of(await self.version(space, found.value.id, number))
        says = f"rolled back to version {number}"
        try:
            return await self._write(space, found, fields, expected_revision, _Act(by, says))
        except Conflict as refusal:
            if refusal.code != "AGENT_NAME_TAKEN":
                raise
        fields["name"] = found.value.name
        act = _Act(by, f"{says}; its name of then is taken, so it keeps its own")
        return await self._write(space, found, fields, expected_revision, act)

    async def _write(
        self,
        space: TenantSpace,
        found: Versioned[Agent],
        fields: dict[str, Any],
        expected_revision: int | None,
        act: "_Act",
    ) -> Versioned[Agent]:
        old = found.value
        try:
            draft = AgentDraft.model_validate(fields)
        except ValidationError as cause:
            raise invalid_fields(cause) from cause
        draft = await self._checked(space, draft, old.id)
        fresh = msgspec.structs.replace(old, **_fields(draft))
        _bounded(fresh)
        renamed = draft.name != old.name
        if renamed:
            await self._claim_name(space, draft.name, old.id)
        try:
            saved = await self._save(space, found, fresh, expected_revision, act)
        except Conflict:
            if renamed:
                await self._free_name(space, draft.name, old.id)
            raise
        if renamed:
            await self._free_name(space, old.name, old.id)
        return saved

    async def set_active(
        self, space: TenantSpace, reference: str, *, active: bool, expected_revision: int | None, by: str = ""
    ) -> Versioned[Agent]:
        """Switches an agent on or off; off, it takes no new runs."""
        found = await self.get(space, reference)
        fresh = msgspec.structs.replace(found.value, is_active=active)
        act = _Act(by, "switched on" if active else "switched off")
        return await self._save(space, found, fresh, expected_revision, act)

    async def delete(self, space: TenantSpace, reference: str, expected_revision: int | None) -> Agent:
        """Removes the agent, its versions and its state, and frees its name; its runs keep their records.

        Versions are erased because nobody could read them any more: an id is never minted again, and a run
        holds the agent it started with. A deletion that died halfway is completed by deleting the id again.
        """
        try:
            found = await self.get(space, reference)
        except NotFound:
            if ids.is_id(reference, "ag"):
                await self._erase(space, reference)
            raise
        _expect(found.revision, expected_revision)
        try:
            await self._agents(space).delete(found.value.id, revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        await self._free_name(space, found.value.name, found.value.id)
        await self._erase(space, found.value.id)
        return found.value

    async def _save(
        self, space: TenantSpace, found: Versioned[Agent], fresh: Agent, expected_revision: int | None, act: "_Act"
    ) -> Versioned[Agent]:
        _expect(found.revision, expected_revision)
        old = found.value
        changed = tuple(name for name in _WRITTEN if getattr(fresh, name) != getattr(old, name))
        fresh = msgspec.structs.replace(
            fresh,
            # Never earlier than before, even when the clock steps back.
            updated_at=max(self._clock.now(), old.updated_at),
            version=old.version + 1,
            updated_by=act.by,
            changed=changed,
            summary=act.summary or f"changed {', '.join(changed) or 'nothing'}",
        )
        await self._keep(space, old)
        try:
            revision = await self._agents(space).update(fresh.id, value=fresh, revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        # The one before the one that falls out now is what a crash here may have left.
        for number in (fresh.version - VERSIONS_KEPT, fresh.version - VERSIONS_KEPT - 1):
            if number > 0:
                await self._drop(space, fresh.id, number)
        return Versioned(fresh, revision)

    async def _keep(self, space: TenantSpace, outgoing: Agent) -> None:
        """Stores a version that is about to be replaced. A number has one content: what is there is equal."""
        with suppress(WrongRevision):
            await self._agents(space).create(_VERSIONS, outgoing.id, str(outgoing.version), value=outgoing)

    async def _version(self, space: TenantSpace, head: Agent, number: int) -> Agent | None:
        if number == head.version:
            return head
        found = await self._agents(space).get(_VERSIONS, head.id, str(number))
        return found.value if found else None

    async def _drop(self, space: TenantSpace, agent_id: str, number: int) -> None:
        agents, key = self._agents(space), (_VERSIONS, agent_id, str(number))
        if found := await agents.get(*key):
            with suppress(WrongRevision):  # somebody else dropped it first
                await agents.delete(*key, revision=found.revision)

    async def _erase(self, space: TenantSpace, agent_id: str) -> None:
        for found in await self._agents(space).all(_VERSIONS, agent_id):
            await self._drop(space, agent_id, found.value.version)
        await self.states.erase(space, agent_id)

    async def _checked(self, space: TenantSpace, draft: AgentDraft, agent_id: str) -> AgentDraft:
        """The draft with bindings to agents by id. Raises `Invalid` for what does not exist or cannot be."""
        await self._checks.model(space, draft.virtual_model)
        if draft.policy.summary_model:
            await self._checks.model(space, draft.policy.summary_model)
        if draft.output_schema is not None:
            check_schema(draft.output_schema)
        tools = list[str]()
        for binding in draft.tools:
            bound = await self._agent_binding(space, binding, draft.name, agent_id)
            tools.append(bound or binding)
        upstream = [binding for binding in tools if not binding.startswith(AGENT_BINDING)]
        if draft.policy.verify_tool:
            upstream.append(draft.policy.verify_tool)
        if unknown := await self._checks.unknown(space, tuple(dict.fromkeys(upstream))):
            raise Invalid(
                "TOOL_NOT_FOUND",
                f"These tools do not exist: {', '.join(unknown)}.",
                "List tools with tool_list, or add their server with tool_server_add.",
            )
        return draft.model_copy(update={"tools": tuple(dict.fromkeys(tools))})

    async def _agent_binding(self, space: TenantSpace, binding: str, own_name: str, own_id: str) -> str:
        """`agent:{id}` for a binding to an agent, empty for any other."""
        if not binding.startswith(AGENT_BINDING):
            return ""
        reference = binding.removeprefix(AGENT_BINDING)
        if reference in (own_name, own_id):
            raise Invalid(
                "AGENT_BINDS_ITSELF", "An agent cannot be a tool of its own.", "Bind another agent, or leave it out."
            )
        try:
            found = await self.get(space, reference)
        except NotFound:
            raise Invalid(
                "TOOL_NOT_FOUND",
                f"These tools do not exist: {binding}.",
                "List the agents with agent_list; a binding to one is agent:{id} or agent:{name}.",
            ) from None
        return f"{AGENT_BINDING}{found.value.id}"

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
    return {
        **fields,
        "limits": Limits(**draft.limits.model_dump()),
        "routing": Routing(**draft.routing.model_dump()),
        "policy": msgspec.convert(draft.policy.model_dump(), Policy),
    }


def _draft_of(agent: Agent) -> dict[str, Any]:
    fields = {name: getattr(agent, name) for name in AgentDraft.model_fields}
    return {
        **fields,
        "limits": msgspec.to_builtins(agent.limits),
        "routing": msgspec.to_builtins(agent.routing),
        "policy": msgspec.to_builtins(agent.policy),
    }


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
