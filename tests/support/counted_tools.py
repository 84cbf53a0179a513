"""A real MCP tool server over Streamable HTTP whose side effects can be counted, in a thread of its own.

It outlives the processes that call it, as a remote server does. Each call that took effect is a line with the
effect id that came with it, under the `place` that the call names.
"""

import socket
import threading
from collections import Counter, defaultdict
from typing import Self

import anyio
import anyio.to_thread
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

_HINTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class CountedTools:
    """The server; an async context manager. All tools say that they may be repeated; who believes it is asked."""

    def __init__(self) -> None:
        self._effects: defaultdict[str, list[str]] = defaultdict(list)
        self._turns: set[tuple[str, int]] = set()
        self._deaths = Counter[str]()
        tools = MCPServer("counted", log_level="ERROR")
        tools.tool(annotations=_HINTS)(self.record)
        tools.tool(annotations=_HINTS)(self.record_in_turn)
        tools.tool(annotations=_HINTS)(self.record_slowly)
        config = uvicorn.Config(
            tools.streamable_http_app(), log_config=None, log_level="critical", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/mcp"

    async def record(self, place: str, ctx: Context) -> str:
        """Writes a line for good."""
        self._effects[place].append(_effect_id(ctx))
        return f"recorded in {place}"

    async def record_in_turn(self, place: str, turn: int, ctx: Context) -> str:
        """Writes a line for good when its turn has come."""
        deaths = self._deaths[place]
        while (place, turn) not in self._turns:
            if self._deaths[place] > deaths:
                raise ToolError("who asked is dead: what was not done by then is not done")
            await anyio.sleep(0.01)
        return await self.record(place, ctx)

    async def record_slowly(self, place: str, seconds: float, ctx: Context) -> str:
        """Takes so long, writes a line for good in the middle of it, and answers at the end."""
        await anyio.sleep(seconds / 2)
        answer = await self.record(place, ctx)
        await anyio.sleep(seconds / 2)
        return answer

    def effects(self, place: str) -> list[str]:
        """The effect ids of what happened there."""
        return list(self._effects[place])

    def open_turn(self, place: str, turn: int) -> None:
        """Lets the call go on that waits for this turn."""
        self._turns.add((place, turn))

    def died(self, place: str) -> None:
        """Whoever called from there is dead: no call of theirs waits any longer."""
        self._deaths[place] += 1

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join)


def _effect_id(ctx: Context) -> str:
    return str(dict(ctx.request_context.meta or {}).get("io.github.mcp-agents/effect_id", "none"))
