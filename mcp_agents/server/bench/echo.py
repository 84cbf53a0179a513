"""The floors over MCP: an echo, and the bare model loop, on the bare SDK; no auth, no store.

`python -m mcp_agents.server.bench.echo PROVIDER` prints its URL and serves on loopback until it is stopped.
"""

from functools import partial
from typing import Any

import click
import mcp_types as mcp
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server

from mcp_agents.kernel.model import Model
from mcp_agents.server.bench.floors import bare_loop
from mcp_agents.server.bench.machine import run
from mcp_agents.server.compose import bare_models
from mcp_agents.server.listening import listen

_SCHEMA: dict[str, Any] = {"type": "object"}


class _Floors:
    """The two tools."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def call(self, ctx: ServerRequestContext[Any, Any], params: mcp.CallToolRequestParams) -> mcp.CallToolResult:
        if params.name == "loop":
            text = await bare_loop(self._model)
        else:
            text = str((params.arguments or {}).get("text", ""))
        return mcp.CallToolResult(content=[mcp.TextContent(type="text", text=text)], structured_content={"text": text})

    async def list(
        self, ctx: ServerRequestContext[Any, Any], params: mcp.PaginatedRequestParams | None
    ) -> mcp.ListToolsResult:
        return mcp.ListToolsResult(tools=[mcp.Tool(name=name, input_schema=_SCHEMA) for name in ("echo", "loop")])


async def _serve(provider: str) -> None:
    async with bare_models(provider) as models:
        floors = _Floors(models["direct"])
        server = Server(
            "floors", on_list_tools=floors.list, on_call_tool=floors.call, get_tool_input_schema=lambda _: _SCHEMA
        )
        with listen("127.0.0.1", 0) as listener:
            click.echo(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp")
            config = uvicorn.Config(server.streamable_http_app(), log_level="error")
            await uvicorn.Server(config).serve(sockets=[listener])


@click.command()
@click.argument("provider")
def main(provider: str) -> None:
    """Serve the floors; the loop asks PROVIDER, an address of OpenAI's wire."""
    run(partial(_serve, provider))


if __name__ == "__main__":
    main()
