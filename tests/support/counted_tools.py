"""A real stdio MCP server with one side effect that can be counted: each call appends a line to a file.

`python -m tests.support.counted_tools FILE`. The line is the effect id that came with the call.
"""

import os
import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("counted", log_level="ERROR")
_HINTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


@server.tool(annotations=_HINTS)
def record(note: str, ctx: Context) -> str:
    """Writes a line for good."""
    effect_id = dict(ctx.request_context.meta or {}).get("io.github.mcp-agents/effect_id", "none")
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{effect_id}\n")
    return f"recorded {note}"


if __name__ == "__main__":
    server.run("stdio")
