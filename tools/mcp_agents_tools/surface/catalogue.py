"""All plugins together: what there is, which part of it a path shows, and what each thing needs.

Built once at the start from the entry points. `/mcp` shows what an IDE should load, `/mcp/all` everything,
`/mcp/{plugin+plugin}` the named ones; an agent's own path is `agent_server`'s business.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Final

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents_tools.surface.plugin import Plugin, PromptSpec, ResourceSpec, ToolSpec

ENTRY_POINTS: Final = "mcp_agents.plugins"
_VIEWS: Final = 64

IDE_TOOLS: Final = frozenset(
    {
        "agent_execute",
        "agent_submit",
        "execution_wait",
        "execution_get",
        "execution_events",
        "execution_cancel",
        "execution_resume",
        "agent_create",
        "agent_get",
        "agent_list",
        "agent_update",
        "session_create",
        "session_list",
        "approval_list",
        "approval_decide",
    }
)
"""What `/mcp` offers: few enough for an IDE's model to choose from; the rest is one path away."""


@dataclass(frozen=True, slots=True)
class View:
    """What one path offers, before the caller's scopes are asked."""

    tools: dict[str, ToolSpec]
    resources: dict[str, ResourceSpec]
    prompts: dict[str, PromptSpec]
    scopes: frozenset[str] = frozenset()
    """What a client needs to use all of it."""

    def resource(self, uri: str) -> tuple[ResourceSpec, dict[str, str]] | None:
        """The resource behind a URI, with the values of its template's variables."""
        for resource in self.resources.values():
            if found := _pattern(resource.template).fullmatch(uri):
                return resource, found.groupdict()
        return None


class Catalogue:
    """Plugins by name, and the one table of scopes."""

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins: dict[str, Plugin] = {}
        self.scopes: dict[str, str] = {}
        self._views: dict[str, View] = {}
        for plugin in plugins:
            self._add(plugin)

    @staticmethod
    def installed() -> "Catalogue":
        """Every plugin that an installed distribution declares. Raises `Invalid` for one that clashes."""
        found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
        return Catalogue(point.load() for point in found)

    def _add(self, plugin: Plugin) -> None:
        offered = {**plugin.tools, **plugin.resources, **plugin.prompts}
        clash = sorted(set(offered) & set(self.scopes)) or ([plugin.name] if plugin.name in self._plugins else [])
        if clash:
            raise Invalid("PLUGIN_CLASH", f"Two plugins offer {', '.join(clash)}.", "Remove or rename one of them.")
        if missing := sorted(set(offered) - set(plugin.scopes)):
            raise Invalid(
                "PLUGIN_SCOPES", f"The plugin {plugin.name} names no scope for {', '.join(missing)}.", "Add them."
            )
        if strange := sorted({plugin.scopes[name] for name in offered} - TENANT_SCOPES):
            raise Invalid(
                "PLUGIN_SCOPES",
                f"The plugin {plugin.name} asks for scopes that nobody can hold: {', '.join(strange)}.",
                "Use {area}:{verb} of the areas there are.",
            )
        self._plugins[plugin.name] = plugin
        self.scopes.update({name: plugin.scopes[name] for name in offered})

    @property
    def plugins(self) -> list[Plugin]:
        """By name."""
        return [self._plugins[name] for name in sorted(self._plugins)]

    def view(self, selection: str) -> View | None:
        """What the path behind `/mcp/` selects: "" for IDEs, `all`, or `plugin+plugin`; None for an unknown one."""
        if known := self._views.get(selection):
            return known
        if selection in ("", "all"):
            chosen = self.plugins
        else:
            names = selection.split("+")
            if any(name not in self._plugins for name in names):
                return None
            chosen = [self._plugins[name] for name in sorted(set(names))]
        tools = {name: tool for plugin in chosen for name, tool in plugin.tools.items()}
        if not selection:
            tools = {name: tool for name, tool in tools.items() if name in IDE_TOOLS}
        resources = {key: each for plugin in chosen for key, each in plugin.resources.items()}
        prompts = {key: each for plugin in chosen for key, each in plugin.prompts.items()}
        needed = {self.scopes[name] for name in (*tools, *resources, *prompts)}
        also = {scope for plugin in chosen if selection for scope in plugin.asks_also}
        view = View(dict(sorted(tools.items())), resources, prompts, frozenset(needed | also))
        if len(self._views) < _VIEWS:  # the path is the caller's: what is kept is bounded
            self._views[selection] = view
        return view

    def needed(self, name: str) -> str:
        """The scope that a tool, a prompt or the resource behind a URI needs; "" for what is not offered."""
        everything = self.view("all")
        if name not in self.scopes and everything and (found := everything.resource(name)):
            name = found[0].template
        return self.scopes.get(name, "")

    def administers(self, tool: ToolSpec) -> bool:
        """Whether this tool changes something with an administrator's right: nobody does that for somebody else."""
        return self.scopes.get(tool.name, "").endswith(":admin") and not tool.hints.read_only

    def written_down(self, tool: ToolSpec) -> bool:
        """Whether a call of this tool is in the audit trail before it runs."""
        return self.administers(tool) or bool(getattr(tool.arguments, "noted", ()))

    def allowed(self, principal: Principal, name: str) -> bool:
        """Whether the caller may use this tool, resource template or prompt."""
        return name in self.scopes and principal.allows(self.scopes[name])


@lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)  # literal, variable, literal, …
    texts = (
        f"(?P<{part}>[A-Za-z0-9_-]{{1,64}})" if number % 2 else re.escape(part) for number, part in enumerate(parts)
    )
    return re.compile("".join(texts))
