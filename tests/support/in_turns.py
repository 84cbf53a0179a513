"""One address in front of several servers: every connection goes to the next one. For tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from mcp_agents.kernel.tasks import background


class InTurns:
    """Where connections went; `ports` may be filled in once the servers behind are known."""

    def __init__(self) -> None:
        self.ports: Sequence[int] = ()
        self.url = ""
        self.went: list[int] = []
        self._turn = cycle(range(10_000_000))

    async def connected(self, caller: SocketStream) -> None:
        """Passes on what one connection says, both ways."""
        async with caller:
            port = self.ports[next(self._turn) % len(self.ports)]
            self.went.append(port)
            async with await anyio.connect_tcp("127.0.0.1", port) as behind, anyio.create_task_group() as both:
                both.start_soon(_copied, caller, behind)
                both.start_soon(_copied, behind, caller)


async def _copied(source: ByteStream, target: ByteStream) -> None:
    try:
        async for data in source:
            await target.send(data)
        await target.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return


@asynccontextmanager
async def in_turns() -> AsyncIterator[InTurns]:
    """The address, open; whoever connects before it has ports is turned away."""
    front = InTurns()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, background() as tasks:
        front.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, front.connected)
        yield front
