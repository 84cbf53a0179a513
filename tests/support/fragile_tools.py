"""A tool server whose tool takes effect and then takes the whole server with it, and a tool that knows.

`python -m tests.support.fragile_tools FILE`: each effect is a line of FILE; what `tell` says stands in FILE.told.
"""

import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer

server = MCPServer("fragile")


@server.tool(name="break")
def break_(note: str) -> str:
    """Takes effect, and never answers."""
    with Path(sys.argv[1]).open("a", encoding="utf-8") as effects:
        effects.write(f"{note}\n")
    os._exit(1)


@server.tool()
def tell(effect_id: str, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Says whether a call took effect."""
    said = Path(f"{sys.argv[1]}.told").read_text("utf-8")
    known = {"yes": True, "no": False}.get(said)
    return {"happened": known, "result": f"{tool} with {arguments['note']}"} if known is not None else {"shrug": True}


if __name__ == "__main__":
    server.run("stdio")
