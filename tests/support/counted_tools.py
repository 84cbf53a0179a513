"""A real stdio MCP server with side effects that can be counted: each call appends a line to a file.

`python -m tests.support.counted_tools FILE`. The line is the effect id that came with the call.
"""

import os
import sys
from pathlib import Path

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

server = MCPServer("counted", log_level="ERROR")
_HINTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_OWNER = os.getppid()


@server.tool(annotations=_HINTS)
def record(note: str, ctx: Context) -> str:
    """Writes a line for good."""
    effect_id = dict(ctx.request_context.meta or {}).get("io.github.mcp-agents/effect_id", "none")
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{effect_id}\n")
    return f"recorded {note}"


@server.tool(annotations=_HINTS)
async def record_in_turn(note: str, turn: int, ctx: Context) -> str:
    """Writes a line for good when its turn has come, which a file beside the lines says."""
    gate = Path(f"{sys.argv[1]}.turn-{turn}")
    while not gate.exists():  # noqa: ASYNC240  # a stat, in a process that does nothing else
        if os.getppid() != _OWNER:
            os._exit(1)  # who asked is dead: what was not done by then is not done
        await anyio.sleep(0.01)
    return record(note, ctx)


if __name__ == "__main__":
    server.run("stdio")
