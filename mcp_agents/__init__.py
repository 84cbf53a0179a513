"""mcp-agents: one OAuth-protected, multi-tenant MCP server on which LLM agents run.

The packages below are floors; every import goes down (docs/architecture.md draws them):
server > adapters > tools > execution > models > agents | auth > security > kernel.
"""

from importlib.metadata import version

__version__ = version("mcp-agents-server")
