"""The plugin `sessions`: conversations with an agent. A turn is run with `agent_execute` and its `session_id`."""

from mcp_agents_tools.surface.sessions import compacting, keeping, passing, remembering
from mcp_agents_tools.surface.sessions.shapes import plugin

__all__ = ["compacting", "keeping", "passing", "plugin", "remembering"]
