"""A well-behaved tool server on the real SDK, over stdio as a program and over HTTP as an application.

`ledger_append` has a side effect that can be counted: a line in the file that `LEDGER` names.
"""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel

PATH = Path(__file__)


class Sum(BaseModel):
    """A structured answer."""

    total: int


def add(a: int, b: int) -> Sum:
    """Adds."""
    return Sum(total=a + b)


def ledger_append(line: str) -> str:
    """Appends a line to the ledger."""
    with Path(os.environ["LEDGER"]).open("a") as ledger:
        ledger.write(line + "\n")
    return "written"


def meta(ctx: Context[Any, Any]) -> dict[str, Any]:
    """Tells the `_meta` of its own request."""
    return dict(ctx.request_context.meta or {})


def environment() -> dict[str, str]:
    """Tells its own environment."""
    return dict(os.environ)


def fail() -> str:
    """Always reports an error."""
    raise ToolError("the shelf is empty")


def die(line: str) -> str:
    """Writes to the ledger and ends the process without an answer."""
    ledger_append(line)
    os._exit(3)


async def hang() -> str:
    """Never answers."""
    await anyio.sleep_forever()
    return "never"


def pid() -> int:
    """The process that answers."""
    return os.getpid()


def long_text(size: int) -> str:
    """Returns that many letters."""
    return "x" * size


def picture() -> list[TextContent | ImageContent]:
    """Returns a text and an image."""
    return [
        TextContent(type="text", text="look:"),
        ImageContent(type="image", data="AAAA", mime_type="image/png"),
    ]


def keyed(line: str, request_key: str) -> dict[str, str]:
    """Tells its arguments; takes an idempotency key."""
    return {"line": line, "request_key": request_key}


def header(ctx: Context[Any, Any]) -> dict[str, str]:
    """Tells the HTTP headers of its own request."""
    return dict(ctx.headers or {})


def server() -> MCPServer:
    """The server with its tools."""
    made = MCPServer("good", log_level="ERROR")
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True)
    made.add_tool(add, annotations=reads)
    for function in (ledger_append, meta, environment, fail, die, hang, pid, long_text, keyed, header):
        made.add_tool(function)
    made.add_tool(picture, structured_output=False)
    return made


if __name__ == "__main__":
    # A child of its own, in the same group, that would outlive us if only we were ended.
    if len(sys.argv) > 1:
        child = os.fork()
        if child == 0:
            os.execvp("sleep", ["sleep", "600"])
        Path(sys.argv[1]).write_text(str(child))
    server().run("stdio")
