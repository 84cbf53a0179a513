"""All the tools of a run as one toolset: those of tool servers, and the built-in ones.

Fills the kernel's `Toolsets`. The name `builtin` is no tool server's, so that a binding and a model-facing
name belong to one side alone. Below stand `toolbox` and `builtin`; the loop stands above.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolserver import BUILTIN
from mcp_agents.kernel.toolset import Invocation, Outcome, Tool
from mcp_agents_tools.toolsets.builtin import BuiltinToolset, Rooms, chosen
from mcp_agents_tools.toolsets.toolbox import UpstreamToolset, UpstreamToolsets

_PREFIX: Final = f"{BUILTIN}/"


class CompositeToolsets:
    """Toolsets over the tool servers of a tenant and the house's own tools."""

    def __init__(self, upstream: UpstreamToolsets, rooms: Rooms) -> None:
        self._upstream, self._rooms = upstream, rooms

    @asynccontextmanager
    async def open(
        self, space: TenantSpace, principal: Principal, bindings: tuple[str, ...]
    ) -> AsyncIterator["CompositeToolset"]:
        """The tools that `bindings` name, for this caller; the state is that of the last of its actors."""
        builtin = BuiltinToolset(self._rooms, space, principal, bindings)
        async with self._upstream.open(space, principal, _foreign(bindings)) as upstream:
            yield CompositeToolset(upstream, builtin)

    async def unknown(self, space: TenantSpace, bindings: tuple[str, ...]) -> list[str]:
        """The bindings that name no tool of the house or of this tenant, in the order given."""
        missing = set(await self._upstream.unknown(space, _foreign(bindings)))
        return [
            binding
            for binding in bindings
            if binding in missing or (binding.startswith(_PREFIX) and not chosen(binding))
        ]


class CompositeToolset:
    """Fills the kernel's `Toolset` for one run."""

    def __init__(self, upstream: UpstreamToolset, builtin: BuiltinToolset) -> None:
        self._upstream, self._builtin = upstream, builtin
        self._own = frozenset(tool.name for tool in builtin.tools)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """By name."""
        return tuple(sorted((*self._upstream.tools, *self._builtin.tools), key=lambda tool: tool.name))

    async def call(self, invocation: Invocation) -> Outcome:
        """Calls the tool once, on the side it belongs to."""
        side = self._builtin if invocation.tool in self._own else self._upstream
        return await side.call(invocation)


def _foreign(bindings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(binding for binding in bindings if not binding.startswith(_PREFIX))
