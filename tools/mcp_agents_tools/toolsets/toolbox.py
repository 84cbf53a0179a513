"""The tools of one run: bindings become tools under model-facing names, calls go to their servers.

Fills the kernel's `Toolsets`. What tools there are comes from the stored records; a connection is made at
the first call. A call reads the record again, so that a server removed meanwhile is not called and a
rotated secret is used. Nothing is kept between runs or tenants.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from mcp_agents.kernel.errors import AgentsError, Exhausted, NotFound
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolset import Invocation, Outcome, Refused, Tool
from mcp_agents_tools.toolsets.hub import Key, UpstreamHub
from mcp_agents_tools.toolsets.listing import takes, without
from mcp_agents_tools.toolsets.names import Origin, model_names
from mcp_agents_tools.toolsets.records import StoredServer, StoredTool
from mcp_agents_tools.toolsets.servers import StoredToolServers
from mcp_agents_tools.toolsets.transport import EFFECT_ID, META_PREFIX

_BINDING: Final = re.compile(r"([a-z0-9_-]{1,40})/(.{1,128})", re.DOTALL)
_EVERY: Final = "*"


class UpstreamToolsets:
    """Toolsets over the tool servers of a tenant."""

    def __init__(self, hub: UpstreamHub, servers: StoredToolServers) -> None:
        self._hub, self._servers = hub, servers

    @asynccontextmanager
    async def open(
        self, space: TenantSpace, principal: Principal, bindings: tuple[str, ...]
    ) -> AsyncIterator["UpstreamToolset"]:
        """The tools that `bindings` name and the tenant still has; one that is gone is left out."""
        origins: dict[Origin, Tool] = {}
        known = await self._known(space, bindings)
        for server, tool in sorted(filter(None, map(_parts, bindings))):
            record = known.get(server)
            if record is not None:
                origins |= {(server, each.name): _tool(record, each) for each in _chosen(record, tool)}
        toolset = UpstreamToolset(self._hub, self._servers, Whom(space, principal), origins)
        try:
            yield toolset
        finally:
            with anyio.CancelScope(shield=True):
                await toolset.leave()

    async def unknown(self, space: TenantSpace, bindings: tuple[str, ...]) -> list[str]:
        """The bindings that name no tool of this tenant, in the order given."""
        known = await self._known(space, bindings)
        missing = []
        for binding in bindings:
            parts = _parts(binding)
            record = known.get(parts[0]) if parts else None
            if parts is None or record is None or (parts[1] != _EVERY and not _chosen(record, parts[1])):
                missing.append(binding)
        return missing

    async def _known(self, space: TenantSpace, bindings: tuple[str, ...]) -> dict[str, StoredServer]:
        found: dict[str, StoredServer] = {}
        for server in sorted({parts[0] for parts in map(_parts, bindings) if parts}):
            try:
                found[server] = (await self._servers.stored(space, server)).value
            except NotFound:
                continue
        return found


@dataclass(frozen=True, slots=True)
class Whom:
    """For whom tools are called: the caller with the agent that acts, in the tenant's space."""

    space: TenantSpace
    principal: Principal


@dataclass(frozen=True, slots=True)
class _Bound:
    origin: Origin
    tool: Tool


class UpstreamToolset:
    """Fills the kernel's `Toolset` for one run."""

    def __init__(self, hub: UpstreamHub, servers: StoredToolServers, whom: Whom, origins: dict[Origin, Tool]) -> None:
        self._hub, self._servers, self._whom = hub, servers, whom
        self._own: set[Key] = set()
        self._bound = {
            name: _Bound(
                origin,
                replace(origins[origin], name=name, origin="/".join(origin)),
            )
            for origin, name in model_names(origins).items()
        }

    @property
    def tools(self) -> tuple[Tool, ...]:
        """By name."""
        return tuple(self._bound[name].tool for name in sorted(self._bound))

    async def call(self, invocation: Invocation) -> Outcome:
        """Calls the tool once. Raises only what our own store raises."""
        bound = self._bound.get(invocation.tool)
        if bound is None:
            return Refused(code="TOOL_NOT_FOUND", message=f"There is no tool named {invocation.tool[:64]}.")
        server, tool = bound.origin
        try:
            found = await self._servers.stored(self._whom.space, server)
        except NotFound as error:
            return _refused(error)
        chosen = _chosen(found.value, tool)
        if not chosen:
            return Refused(code="TOOL_NOT_FOUND", message="The tool server does not offer this tool any more.")
        space = self._whom.space
        try:
            sign_in = await self._servers.sign_ins.prepared(
                space, self._whom.principal, found.value, invocation.execution_id
            )
            target = replace(await self._servers.target(space, found.value), source=sign_in.source)
        except AgentsError as error:
            return _refused(error)
        key = Key(space.tenant, server, found.revision, sign_in.owner)
        if sign_in.single_use:
            self._own.add(key)
        try:
            async with self._hub.use(key, target) as upstream:
                arguments = _identified(invocation, chosen[0], found.value.effect_argument)
                return await upstream.call(tool, arguments, _meta(invocation), invocation.timeout)
        except Exhausted as error:
            return _refused(error)

    async def leave(self) -> None:
        """Closes the connections that were this run's alone."""
        for key in self._own:
            await self._hub.leave(key)


def _identified(invocation: Invocation, tool: StoredTool, argument: str) -> dict[str, Any]:
    """The arguments with the effect id in the one that the server takes it in, unless the model filled that."""
    if not argument or argument in invocation.arguments or not takes(tool.input_schema, argument):
        return invocation.arguments
    return {**invocation.arguments, argument: invocation.effect_id}


def _meta(invocation: Invocation) -> dict[str, str | int | list[str]]:
    return {
        EFFECT_ID: invocation.effect_id,
        f"{META_PREFIX}execution_id": invocation.execution_id,
        f"{META_PREFIX}depth": invocation.depth,
        f"{META_PREFIX}chain": list(invocation.chain),
        "traceparent": invocation.traceparent,
    }


def _tool(record: StoredServer, tool: StoredTool) -> Tool:
    """As the model sees it, still without its name."""
    return Tool(
        name="",
        description=tool.description or tool.title,
        parameters=without(tool.input_schema, record.effect_argument),
        repeatable=record.trust_annotations and (tool.read_only or tool.idempotent),
        read_only=record.trust_annotations and tool.read_only,
        destructive=not (record.trust_annotations and (tool.read_only or not tool.destructive)),
        open_world=not (record.trust_annotations and not tool.open_world),
        network=(urlsplit(record.url).hostname or "") if record.url else "",
    )


def _parts(binding: str) -> Origin | None:
    match = _BINDING.fullmatch(binding)
    return (match[1], match[2]) if match else None


def _chosen(record: StoredServer, tool: str) -> tuple[StoredTool, ...]:
    return record.tools if tool == _EVERY else tuple(each for each in record.tools if each.name == tool)


def _refused(error: AgentsError) -> Refused:
    # What to do about a sign-in is for people: the model can pass it on.
    return Refused(code=error.code, message=f"{error.public} {error.next_step}")
