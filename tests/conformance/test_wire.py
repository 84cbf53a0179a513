"""What the official suite found on the wire, kept without npm: white space around header values."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from tests.conformance.proxy import injecting
from tests.support.served import served

pytestmark = pytest.mark.anyio

REVISION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": REVISION,
    "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def posted(url: str, header: str) -> bytes:
    """The status line of a call of `agent_list` with one more header, sent byte for byte."""
    place = urlsplit(url)
    params = {"name": "agent_list", "arguments": {}, "_meta": META}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    head = [
        "POST /mcp HTTP/1.1",
        f"Host: {place.netloc}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"MCP-Protocol-Version: {REVISION}",
        "Mcp-Method: tools/call",
        header,
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    async with await anyio.connect_tcp(place.hostname or "", place.port or 0) as stream:
        await stream.send(("\r\n".join(head) + "\r\n\r\n" + body).encode())
        answer = b""
        while b"\r\n" not in answer:
            answer += await stream.receive()
        return answer.partition(b"\r\n")[0]


async def test_white_space_around_a_header_value_is_not_part_of_it(tmp_path: Path) -> None:
    """Before and behind, blank and tab; another name is still refused, and no token is no entry."""
    async with served(tmp_path) as server:
        async with injecting(server.url, await server.token("acme")) as proxy:
            for value in ("agent_list", "  agent_list", "agent_list  ", "\tagent_list\t"):
                assert await posted(proxy.url, f"Mcp-Name: {value}") == b"HTTP/1.1 200 OK"
            assert await posted(proxy.url, "Mcp-Name: agent_get") == b"HTTP/1.1 400 Bad Request"
            assert (proxy.requests, proxy.injected) == (5, 5)
        assert await posted(server.url, "Mcp-Name: agent_list") == b"HTTP/1.1 401 Unauthorized"
