"""MCP over HTTP by hand, in both eras: every byte of a request is the test's, every byte of an answer is kept."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import httpx2
from mcp.shared.inbound import NAME_BEARING_METHODS, encode_header_value
from mcp_types import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY

Era = Literal["modern", "legacy"]

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
ERAS: Final[tuple[Era, ...]] = ("modern", "legacy")
ACCEPT: Final = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}

_VOLATILE: Final = frozenset({"date", "content-length", "mcp-session-id"})


@dataclass(frozen=True)
class Answer:
    """What came back. Two are equal when status, lasting headers and every byte of the body are."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    challenge: str = field(default="", compare=False)
    session: str = field(default="", compare=False)

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message, out of JSON or out of the last event of a stream."""
        text = self.body.decode()
        if "event:" in text[:64] or text.startswith("data:"):
            text = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")][-1]
        message: dict[str, Any] = json.loads(text)
        return message

    @property
    def result(self) -> dict[str, Any]:
        """The result of a call that must not be a protocol error."""
        assert self.status == 200, self
        assert "result" in self.message, self.message
        result: dict[str, Any] = self.message["result"]
        return result

    @property
    def value(self) -> dict[str, Any]:
        """The structured result of a tool that must succeed."""
        assert not self.result.get("isError"), self.result
        value: dict[str, Any] = self.result["structuredContent"]
        return value

    @property
    def good(self) -> bool:
        """Whether it is a result and not an error of any kind."""
        if self.status != 200:
            return False
        return not self.message.get("result", {"isError": True}).get("isError", False)

    @property
    def error(self) -> dict[str, Any]:
        """A failed tool's error as data, or the protocol's."""
        message = self.message
        if "error" in message:
            protocol: dict[str, Any] = message["error"]
            return protocol
        assert message["result"]["isError"], message
        error: dict[str, Any] = message["result"]["_meta"]["io.github.mcp-agents/error"]
        return error

    def without(self, value: str) -> "Answer":
        """The same with `value` blotted out."""
        return Answer(self.status, self.headers, self.body.replace(value.encode(), b"<it>"))


class Wire:
    """One caller's requests to one server."""

    def __init__(self, http: httpx2.AsyncClient, url: str, token: str) -> None:
        self.url, self.token = url, token
        self._http = http
        self._sessions: dict[str, str] = {}

    async def send(
        self,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        path: str = "/mcp/all",
        method: str = "POST",
    ) -> Answer:
        """Sends exactly these bytes; the token and the usual headers are added unless `headers` says otherwise."""
        given = {**ACCEPT, "Authorization": f"Bearer {self.token}", **(headers or {})}
        sent = {name: value for name, value in given.items() if value}
        response = await self._http.request(method, self.url + path, content=content, headers=sent)
        lasting = tuple(sorted((name, value) for name, value in response.headers.items() if name not in _VOLATILE))
        return Answer(
            response.status_code,
            lasting,
            response.content,
            response.headers.get("www-authenticate", ""),
            response.headers.get("mcp-session-id", ""),
        )

    async def ask(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        era: Era = "modern",
        path: str = "/mcp/all",
        meta: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """A well-formed request of an era."""
        if era == "modern":
            body = envelope(method, params, meta)
            return await self.send(json.dumps(body).encode(), {**routing(method, params), **(headers or {})}, path=path)
        session = await self._session(path)
        given = {**(params or {}), **({"_meta": meta} if meta else {})}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": given}
        known = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": session, **(headers or {})}
        return await self.send(json.dumps(body).encode(), known, path=path)

    async def call(
        self, tool: str, arguments: dict[str, Any], *, era: Era = "modern", path: str = "/mcp/all", **more: Any
    ) -> Answer:
        """Calls a tool."""
        return await self.ask("tools/call", {"name": tool, "arguments": arguments}, era=era, path=path, **more)

    async def read(self, uri: str, era: Era = "modern") -> Answer:
        """Reads a resource."""
        return await self.ask("resources/read", {"uri": uri}, era=era)

    async def listed(self, method: str, key: str, *, era: Era = "modern", path: str = "/mcp/all") -> list[Any]:
        """Every page of a listing."""
        found: list[Any] = []
        cursor: dict[str, Any] = {}
        while True:
            result = (await self.ask(method, cursor, era=era, path=path)).result
            found += result[key]
            if not result.get("nextCursor"):
                return found
            cursor = {"cursor": result["nextCursor"]}

    async def initialize(self, path: str = "/mcp/all") -> Answer:
        """Opens a session of the previous era."""
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        return await self.send(json.dumps(body).encode(), path=path)

    async def _session(self, path: str) -> str:
        if path not in self._sessions:
            answer = await self.initialize(path)
            assert answer.status == 200, answer
            self._sessions[path] = answer.session
            known = {"MCP-Protocol-Version": LEGACY, "Mcp-Session-Id": answer.session}
            note = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
            assert (await self.send(note, known, path=path)).status == 202
        return self._sessions[path]


def envelope(method: str, params: dict[str, Any] | None = None, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    """A request of the current revision."""
    about = {PROTOCOL_VERSION_META_KEY: MODERN, CLIENT_CAPABILITIES_META_KEY: {}, **(meta or {})}
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**(params or {}), "_meta": about}}


def routing(method: str, params: dict[str, Any] | None = None) -> dict[str, str]:
    """The headers that say again what the body says."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    key = NAME_BEARING_METHODS.get(method)
    if key and params and isinstance(params.get(key), str):
        headers["Mcp-Name"] = encode_header_value(params[key])
    return headers


@asynccontextmanager
async def browserless() -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client that adds nothing, follows nothing and knows no proxy."""
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx2.AsyncClient(timeout=60, trust_env=False, limits=limits) as http:
        yield http
