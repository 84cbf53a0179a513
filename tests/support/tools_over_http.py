"""A real MCP tool server over Streamable HTTP, in a thread of its own."""

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
import uvicorn
from mcp.server.mcpserver import MCPServer


@asynccontextmanager
async def greeter() -> AsyncIterator[str]:
    """The URL of a server with one tool, `greet`."""
    tools = MCPServer("greeter", log_level="ERROR")

    @tools.tool()
    def greet(name: str) -> str:
        """Greets somebody."""
        return f"Hello, {name}"

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(tools.streamable_http_app(), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(thread.join)
