"""The plugin `executions`: run agents, follow runs, look at them, end them, and see to those that were given up."""

from mcp_agents_tools.surface.executions import dead_letters, planning, reading, running  # each declares its tools
from mcp_agents_tools.surface.executions.shapes import ExecutionResult, plugin, result_of

__all__ = ["ExecutionResult", "dead_letters", "planning", "plugin", "reading", "result_of", "running"]
