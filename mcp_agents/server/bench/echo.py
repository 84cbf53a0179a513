"""The floor over MCP: an echo tool on the bare SDK, no auth, no store. `python -m mcp_agents.server.bench.echo`."""

from typing import Any

import mcp_types as mcp
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server

from mcp_agents.server.listening import listen


async def _call(ctx: ServerRequestContext[Any, Any], params: mcp.CallToolRequestParams) -> mcp.CallToolResult:
    text = str((params.arguments or {}).get("text", ""))
    return mcp.CallToolResult(content=[mcp.TextContent(type="text", text=text)], structured_content={"text": text})


async def _list(ctx: ServerRequestContext[Any, Any], params: mcp.PaginatedRequestParams | None) -> mcp.ListToolsResult:
    return mcp.ListToolsResult(tools=[mcp.Tool(name="echo", input_schema={"type": "object"})])


def main() -> None:
    """Serves on a free loopback port and prints its URL."""
    schema: dict[str, Any] = {"type": "object"}
    server = Server("echo", on_list_tools=_list, on_call_tool=_call, get_tool_input_schema=lambda _: schema)
    with listen("127.0.0.1", 0) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)  # noqa: T201  # read by the bench
        uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main()
