"""A loopback proxy that adds a bearer token where a request has none, and changes nothing else that is looked at.

The conformance suite cannot send a token. With this in front of it, the server under test keeps its whole
OAuth stack. Heads pass as bytes: Host and Origin are those that the suite sent, so that the server's own check
decides about them, and an Authorization that is there stays. Only Connection becomes `close`, for then one
connection is one request and its body needs no parsing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from mcp_agents.kernel.tasks import background, together

_HEAD_LIMIT: Final = 64 * 1024
_LINGER_SECONDS: Final = 30
_END: Final = b"\r\n\r\n"


@dataclass
class Proxy:
    """A running proxy and what it did."""

    url: str
    requests: int = 0
    injected: int = 0


@asynccontextmanager
async def injecting(upstream: str, token: str) -> AsyncIterator[Proxy]:
    """A proxy to `upstream` (`http://host:port`) on a free port, closed on the way out."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, background() as tasks:
        port = listener.extra(SocketAttribute.local_port)
        proxy = Proxy(f"http://127.0.0.1:{port}")
        tasks.start_soon(listener.serve, partial(_forward, proxy, upstream, token))
        yield proxy


async def _forward(proxy: Proxy, upstream: str, token: str, client: SocketStream) -> None:
    """One connection, which is one request."""
    place = urlsplit(upstream)
    incoming = BufferedByteReceiveStream(client)
    async with client:
        try:
            head = await incoming.receive_until(_END, _HEAD_LIMIT)
            async with await anyio.connect_tcp(place.hostname or "", place.port or 80) as server, together() as tasks:
                await server.send(_with_token(proxy, head, token))

                async def up() -> None:
                    await _copy(incoming, server)
                    tasks.cancel_scope.cancel()  # the client went: so does its request

                tasks.start_soon(up)
                await _copy(server, client)
                # The client closes. An end that comes while it has not read the whole answer breaks node's fetch.
                await anyio.sleep(_LINGER_SECONDS)
                tasks.cancel_scope.cancel()
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # gone in the middle: nobody is left to tell


def _with_token(proxy: Proxy, head: bytes, token: str) -> bytes:
    first, *fields = head.split(b"\r\n")
    names = {field: field.partition(b":")[0].strip().lower() for field in fields}
    kept = [field for field in fields if names[field] != b"connection"]
    proxy.requests += 1
    if b"authorization" not in names.values():
        proxy.injected += 1
        kept.append(b"Authorization: Bearer " + token.encode())
    return b"\r\n".join([first, *kept, b"Connection: close"]) + _END


async def _copy(source: ByteReceiveStream, target: ByteSendStream) -> None:
    try:
        while True:
            await target.send(await source.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return
