"""Applications on a real port of the loopback interface, and the wrappers that tests put around them."""

import base64
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def served(app: App, port: int = 0, **options: Any) -> AsyncIterator[int]:
    """Serves `app`, yields its port; `options` are uvicorn's.

    The socket listens before the block begins, so that nobody has to wait.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    options = {"lifespan": "on", **options}
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, **options)
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True


def mcp_app(server: MCPServer, *, era: str = "modern", token: str = "") -> App:
    """A server's HTTP application; `legacy` knows no `server/discover`, `token` is asked for as a bearer."""
    inner = server.streamable_http_app()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if token and headers.get("authorization") != f"Bearer {token}":
            await respond(send, 401, b"no", {"www-authenticate": "Bearer"})
            return
        body = await whole(receive)
        if era == "legacy" and b"server/discover" in body:
            await respond(send, 400, b"what?", {"content-type": "text/plain"})
            return
        await inner(scope, replayed(body, receive), send)

    return app


def raw_app(answer: Callable[[dict[str, Any], Send], Awaitable[None]]) -> App:
    """A legacy server in plain HTTP that lists one tool `word` and answers calls with `answer`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
            return
        body = await whole(receive)
        message = json.loads(body) if body else {}
        method = message.get("method")
        if method == "initialize":
            info = {"name": "raw", "version": "1"}
            result: Any = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
        elif method == "tools/list":
            result = {"tools": [{"name": "word", "inputSchema": {"type": "object"}}]}
        elif method == "tools/call":
            await answer(message, send)
            return
        else:
            await respond(send, 202 if "id" not in message else 400, b"", {})
            return
        reply = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        await respond(send, 200, json.dumps(reply).encode(), {"content-type": "application/json"})

    return app


async def gzip_bomb(message: dict[str, Any], send: Send) -> None:
    """50 MiB of spaces around a valid answer, compressed to some 50 KiB."""
    body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}).encode()
    packed = gzip.compress(body + b" " * 50_000_000)
    await respond(send, 200, packed, {"content-type": "application/json", "content-encoding": "gzip"})


async def flood(message: dict[str, Any], send: Send) -> None:
    """A document that never ends."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    for _ in range(64):
        await send({"type": "http.response.body", "body": b" " * 1_000_000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def event_flood(message: dict[str, Any], send: Send) -> None:
    """Events without an answer among them, far beyond any bound."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(400):
        await send({"type": "http.response.body", "body": b": " + b"x" * 50_000 + b"\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def whole(receive: Receive) -> bytes:
    """The body of a request."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = bool(message.get("more_body"))
    return b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, then what really comes."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return pending.pop() if pending else await receive()

    return again


async def respond(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    """A whole answer."""
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def signed_in_app(server: MCPServer, *, issuer: str = "") -> App:
    """A server that takes only tokens of its own small authorization server on the same port.

    `issuer` is what that one calls itself; its own origin by default. The client is `us` with `cl13nt-secret`.
    """
    inner = mcp_app(server, token="issued")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        origin, path = f"http://{headers['host']}", scope["path"]
        if "oauth-protected-resource" in path:
            document: Any = {"resource": f"{origin}/mcp", "authorization_servers": [issuer or origin]}
        elif "oauth-authorization-server" in path:
            document = {
                "issuer": issuer or origin,
                "authorization_endpoint": f"{origin}/authorize",
                "token_endpoint": f"{origin}/token",
                "response_types_supported": ["code"],
                "grant_types_supported": ["client_credentials"],
            }
        elif path == "/token":
            basic = "Basic " + base64.b64encode(b"us:cl13nt-secret").decode()
            good = headers.get("authorization") == basic and b"client_credentials" in await whole(receive)
            document = {"access_token": "issued", "token_type": "Bearer", "expires_in": 60} if good else None
        else:
            await inner(scope, receive, send)
            return
        body = json.dumps(document or {"error": "invalid_client"}).encode()
        await respond(send, 200 if document else 401, body, {"content-type": "application/json"})

    return app
