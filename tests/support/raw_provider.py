"""A provider that answers with bytes as given, on a real local socket in the test's own event loop.

For what the scripted provider does not speak: other providers' forms, answers cut in odd places, broken HTTP.
It is not a model. Requests are answered in the order in which they come, each by the next answer, the last
answer by all that follow; `together` holds every answer back until so many requests are there.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self

import anyio
import anyio.lowlevel


@dataclass(slots=True)
class Received:
    """A request: its path with query, headers by lower-case name, and body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Answer:
    """An answer in pieces, each a chunk of its own. `head` replaces status line and headers, and the chunks too.

    With `ends` false the response stays open behind its last piece until the client leaves.
    """

    pieces: list[bytes]
    media: str = "text/event-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    head: bytes | None = None
    ends: bool = True


class RawProvider:
    """The provider; an async context manager. `left` is set once a client left a response that does not end."""

    def __init__(self, *answers: Answer, together: int = 1) -> None:
        self._answers = answers
        self._together = together
        self._all_there = anyio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests: list[Received] = []
        self.connections = 0
        self.left = anyio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (received := await _received(reader)) is not None:
                self.requests.append(received)
                answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
                if len(self.requests) >= self._together:
                    self._all_there.set()
                await self._all_there.wait()
                await _send(writer, answer)
                if not answer.ends:
                    await reader.read()
                    self.left.set()
                if not answer.ends or answer.head is not None:
                    return
        except ConnectionError:
            return  # the client left, which is the client's right
        finally:
            self._writers.discard(writer)
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=8192)
        self.root = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.api_base = self.root + "/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()


async def _received(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(head[0].split(" ")[1], headers, body)


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    if answer.head is not None:
        writer.write(answer.head + b"".join(answer.pieces))
        await writer.drain()
        return
    headers = {"Content-Type": answer.media, "Transfer-Encoding": "chunked"} | answer.headers
    lines = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    for piece in answer.pieces:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await anyio.lowlevel.checkpoint()
    if answer.ends:
        writer.write(b"0\r\n\r\n")
        await writer.drain()
