"""The plugin object of governance, which each of its modules declares tools on."""

from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import Plugin

plugin = Plugin("governance", title="Governance", scopes=scopes.GOVERNANCE)
