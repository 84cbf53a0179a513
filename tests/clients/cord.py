"""A connection that can be cut: a loopback pass-through in front of a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream

from mcp_agents.kernel.tasks import background, together


class Cord:
    """Passes bytes on, until it is cut for good."""

    def __init__(self, upstream: str, url: str) -> None:
        self.url = url
        self._upstream = urlsplit(upstream)
        self._open = anyio.CancelScope()

    def cut(self) -> None:
        """Breaks everything that is open; nothing comes through any more."""
        self._open.cancel()

    async def serve(self, listener: "anyio.abc.SocketListener") -> None:
        """Until it is cut."""
        with self._open:
            await listener.serve(self._connected)

    async def _connected(self, client: SocketStream) -> None:
        place = self._upstream
        async with (
            client,
            await anyio.connect_tcp(place.hostname or "", place.port or 80) as server,
            together() as tasks,
        ):
            tasks.start_soon(_pass, client, server, tasks.cancel_scope)
            await _pass(server, client, tasks.cancel_scope)


async def _pass(source: ByteReceiveStream, target: ByteSendStream, ended: anyio.CancelScope) -> None:
    try:
        while True:
            await target.send(await source.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        ended.cancel()


@asynccontextmanager
async def cord(upstream: str) -> AsyncIterator[Cord]:
    """A way to `upstream` (`http://host:port`) on a free port."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, background() as tasks:
        opened = Cord(upstream, f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")
        tasks.start_soon(opened.serve, listener)
        yield opened
