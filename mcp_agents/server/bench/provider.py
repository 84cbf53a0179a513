"""A provider on OpenAI's wire that costs next to nothing, so that ten thousand calls at once measure the caller.

It is no model: asked with tools it calls the first one, and shown a tool's result it repeats it, followed by as
many words as it was told to say. `--latency` is how long each answer takes to begin. A provider that follows
rules instead is `mcp_agents.adapters.rule_model_http`. `python -m mcp_agents.server.bench.provider` prints its
address and serves on loopback until it is stopped.
"""

import asyncio
from typing import Any, Final

import anyio
import click
import msgspec
from msgspec import Struct

from mcp_agents.server.bench.machine import many_files, run
from mcp_agents.server.listening import listen

ARGUMENTS: Final = '{"a": 2, "b": 40}'
"""What it calls a tool with that takes arguments."""
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_USAGE: Final = {"prompt_tokens": 20, "completion_tokens": 32, "total_tokens": 52}
_encode: Final = msgspec.json.encode


class _Message(Struct, frozen=True):
    role: str
    content: Any = None


class _Function(Struct, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class _Tool(Struct, frozen=True):
    function: _Function


class _Body(Struct, frozen=True):
    messages: list[_Message]
    tools: list[_Tool] = []


_decode: Final = msgspec.json.Decoder(_Body).decode


class Provider(asyncio.Protocol):
    """One connection: requests one after the other, each answered as server-sent events."""

    def __init__(self, latency: float, tokens: int, *, apart: bool) -> None:
        """`latency` in seconds; `apart` sends every token on its own instead of the answer at once."""
        self._latency, self._apart = latency, apart
        self._words = "".join(f" word{number % 10}" for number in range(tokens))  # litellm takes repetition for a fault
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's is one

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        pieces = _pieces(_decode(rest[:length]), self._words)
        asyncio.get_running_loop().call_later(self._latency, self._answer, pieces)

    def _answer(self, pieces: list[bytes]) -> None:
        if self._transport is None:
            return
        if not self._apart:
            self._transport.write(_HEAD + b"".join(pieces))
            return
        self._transport.write(_HEAD)
        self._next(pieces[::-1])

    def _next(self, left: list[bytes]) -> None:
        if self._transport is None:
            return
        self._transport.write(left.pop())
        if left:
            asyncio.get_running_loop().call_soon(self._next, left)


def _pieces(body: _Body, words: str) -> list[bytes]:
    """The answer as chunks of its response."""
    last = body.messages[-1]
    if body.tools and last.role != "tool":
        called = body.tools[0].function
        function = {"name": called.name, "arguments": ARGUMENTS if called.parameters.get("required") else "{}"}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": [call]}]
        finish = "tool_calls"
    else:
        said = f"{last.content}{words}" if last.role == "tool" else words
        deltas = [{"role": "assistant", "content": ""}, *({"content": f" {word}"} for word in said.split())]
        finish = "stop"
    events = [_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas]
    events.append(_event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))
    events.append(_event({"choices": [], "usage": _USAGE}))
    return [*events, _chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]


def _event(body: dict[str, Any]) -> bytes:
    envelope = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    return _chunk(b"data: " + _encode(envelope | body) + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@click.command()
@click.option("--latency", type=click.FloatRange(0), default=0.0, help="Seconds before each answer begins.")
@click.option("--tokens", type=click.IntRange(1), default=32, help="Words of each answer.")
@click.option("--apart", is_flag=True, help="Send every token on its own.")
def main(*, latency: float, tokens: int, apart: bool) -> None:
    """Answer on OpenAI's wire without a model. Example: --latency 1.0"""
    many_files()

    async def serve() -> None:
        with listen("127.0.0.1", 0) as listener:
            loop = asyncio.get_running_loop()
            await loop.create_server(lambda: Provider(latency, tokens, apart=apart), sock=listener, backlog=20_000)
            click.echo(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
            await anyio.sleep_forever()

    run(serve)


if __name__ == "__main__":
    main()
