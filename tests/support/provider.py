"""A scripted provider: OpenAI's chat-completions wire on a real local HTTP server, answering from a script.

For tests of what stands above a provider, in this process (`async with ScriptedProvider(steps) as provider`)
or in its own (`python -m tests.support.provider --port N --script steps.json`, which prints one line with its
address). It is not a model. It counts every request on its own side, so that a client that was killed is
counted too, answers 500 to a request that no step expects, and remembers it; leaving the context raises when
a request was unexpected or a step was not used.

A step is chosen by the request alone: its `when` must occur in the first user message, its `turn` (if given)
must equal the number of assistant messages in the request, and it must not be used up. A request repeated
after a crash therefore meets the same step again if that step's `times` allow it.

`GET /counts` shows the counts; `POST /release/{name}` lets every answer go on that holds at `name`.
"""

import json
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import click
import msgspec
import uvicorn

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Call(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool call: `arguments` is sent as it stands, cut at the character offsets `split`."""

    name: str
    arguments: str = "{}"
    id: str | None = None
    split: list[int] = []


class Step(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What one request is answered with.

    `text` is sent in `chunks` if given, otherwise word by word. `status` other than 200 sends `body` as JSON
    with `headers`. `raw` sends that text with status 200 in place of an answer. `cut_after` breaks the
    connection after so many events, `unended` ends the stream without finish reason and `[DONE]`. `hold`
    waits for the release of that name before the first event, or, with `hold_after`, behind so many events.
    `pause` is how many seconds pass before each event, in each answer by chance up to the part `spread` of it more or
    less. `times` is how many requests the step answers; 0 is any
    number, also none.
    """

    when: str = ""
    turn: int | None = None
    times: int = 1
    text: str = ""
    chunks: list[str] | None = None
    calls: list[Call] = []
    usage: dict[str, Any] | None = None
    finish_reason: str = ""
    model: str = "scripted"
    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}
    raw: str | None = None
    cut_after: int | None = None
    unended: bool = False
    hold: str = ""
    hold_after: int = 0
    pause: float = 0
    spread: float = 0


class Counts(msgspec.Struct, kw_only=True):
    """What the provider saw.

    `held` names where answers hold now, `unused` the steps that were used fewer times than they say.
    """

    requests: int
    by_step: list[int]
    answered: int
    disconnected: int
    holding: int
    held: list[str]
    unexpected: list[str]
    unused: list[str]


class _Cut(Exception):
    """Ends a response in its middle."""


@dataclass
class _State:
    """Everything that happened, guarded by one condition: tests look at it from other threads."""

    steps: list[Step]
    used: Counter[int] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    released: set[str] = field(default_factory=set)
    answered: int = 0
    disconnected: int = 0
    holding: Counter[str] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: dict[str, Any]) -> Step | None:
        """The step for a request, counted; None, and remembered, when there is none."""
        messages = body.get("messages", [])
        first: dict[str, Any] = next((message for message in messages if message.get("role") == "user"), {})
        said = first.get("content") or ""
        said = said if isinstance(said, str) else json.dumps(said)
        turn = sum(1 for message in messages if message.get("role") == "assistant")
        with self.changed:
            self.requests.append(body)
            self.changed.notify_all()
            for place, step in enumerate(self.steps):
                fits = step.when in said and step.turn in (None, turn)
                if fits and (not step.times or self.used[place] < step.times):
                    self.used[place] += 1
                    return step
            self.unexpected.append(f"turn {turn}: {said[:200]}")
            return None

    def note(self, *, answered: int = 0, disconnected: int = 0) -> None:
        """Adds to the counts."""
        with self.changed:
            self.answered += answered
            self.disconnected += disconnected
            self.changed.notify_all()

    def hold(self, name: str, change: int) -> None:
        """One answer more, or less, holds at this name."""
        with self.changed:
            self.holding[name] += change
            self.changed.notify_all()

    def release(self, name: str) -> None:
        """Lets go what holds at this name, now and later."""
        with self.changed:
            self.released.add(name)
            self.changed.notify_all()

    def counts(self) -> Counts:
        """The counts as they stand."""
        with self.changed:
            return Counts(
                requests=len(self.requests),
                by_step=[self.used[place] for place in range(len(self.steps))],
                answered=self.answered,
                disconnected=self.disconnected,
                holding=self.holding.total(),
                held=[name for name, answers in self.holding.items() if answers],
                unexpected=list(self.unexpected),
                unused=[
                    f"step {place} ({step.when or 'any'}): used {self.used[place]} of {step.times}"
                    for place, step in enumerate(self.steps)
                    if self.used[place] < step.times
                ],
            )


class _App:
    """The ASGI application over a state."""

    def __init__(self, state: _State) -> None:
        self._state = state

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.endswith("/chat/completions"):
            await self._complete(await _body(receive), receive, send)
        elif path == "/counts":
            await _json(send, 200, msgspec.to_builtins(self._state.counts()))
        elif path == "/requests":
            await _json(send, 200, self._state.requests)
        elif path.startswith("/release/"):
            self._state.release(path.removeprefix("/release/"))
            await _json(send, 200, {})
        else:
            await _json(send, 404, {"error": {"message": f"no such path: {path}"}})

    async def _complete(self, raw: bytes, receive: Receive, send: Send) -> None:
        body = json.loads(raw)
        step = self._state.take(body)
        if step is None:
            await _json(send, 500, {"error": {"message": "unexpected request", "type": "script"}})
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, receive, tasks.cancel_scope)
                await self._answer(step, body, send)
                self._state.note(answered=1)
                tasks.cancel_scope.cancel()
        except* _Cut:
            # Neither an end of the chunks nor of the stream: the server closes the connection.
            raise RuntimeError("cut by the script") from None

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._state.note(disconnected=1)
        scope.cancel()

    async def _answer(self, step: Step, body: dict[str, Any], send: Send) -> None:
        if step.hold and not step.hold_after:
            await self._hold(step.hold)
        if step.status != 200:
            await _json(send, step.status, step.body, step.headers)
        elif step.raw is not None:
            await _respond(send, 200, step.raw.encode(), "text/event-stream" if body.get("stream") else "text/plain")
        elif not body.get("stream"):
            await _json(send, 200, _whole(step))
        else:
            await self._stream(step, send, usage=bool((body.get("stream_options") or {}).get("include_usage")))

    async def _stream(self, step: Step, send: Send, *, usage: bool) -> None:
        await send(_start(200, "text/event-stream", step.headers))
        pause = step.pause * random.uniform(1 - step.spread, 1 + step.spread)
        for place, event in enumerate(_events(step, usage=usage)):
            if place == step.cut_after:
                raise _Cut
            if step.hold and place == step.hold_after and place:
                await self._hold(step.hold)
            if pause:
                await anyio.sleep(pause)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _hold(self, name: str) -> None:
        self._state.hold(name, 1)
        try:
            await anyio.to_thread.run_sync(self._wait, name, abandon_on_cancel=True)
        finally:
            self._state.hold(name, -1)

    def _wait(self, name: str) -> None:
        with self._state.changed:
            self._state.changed.wait_for(lambda: name in self._state.released or "*" in self._state.released)


def _events(step: Step, *, usage: bool) -> Iterator[bytes]:
    yield _chunk(step, {"role": "assistant", "content": ""})
    for piece in step.chunks if step.chunks is not None else step.text.split(" "):
        last = step.chunks is not None or step.text.endswith(piece)
        yield _chunk(step, {"content": piece if last else piece + " "})
    for index, call in enumerate(step.calls):
        head = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield _chunk(step, {"tool_calls": [head]})
        ends = [0, *sorted(call.split), len(call.arguments)]
        for begin, end in pairwise(ends):
            yield _chunk(step, {"tool_calls": [{"index": index, "function": {"arguments": call.arguments[begin:end]}}]})
    if step.unended:
        return
    yield _chunk(step, {}, _finish(step))
    if usage and step.usage:
        yield _data(
            {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": step.model, "choices": []}
            | {"usage": step.usage}
        )
    yield b"data: [DONE]\n\n"


def _finish(step: Step) -> str:
    return step.finish_reason or ("tool_calls" if step.calls else "stop")


def _chunk(step: Step, delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": step.model, "choices": [choice]})


def _data(body: Any) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _whole(step: Step) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(step.chunks or [step.text])}
    if step.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in step.calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": _finish(step)}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": step.model, "choices": [choice]} | (
        {"usage": step.usage} if step.usage else {}
    )


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


def _start(status: int, media: str, headers: dict[str, str]) -> dict[str, Any]:
    sent = {"content-type": media} | headers
    pairs = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


async def _respond(send: Send, status: int, body: bytes, media: str, headers: dict[str, str] | None = None) -> None:
    await send(_start(status, media, headers or {}))
    await send({"type": "http.response.body", "body": body})


async def _json(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    await _respond(send, status, json.dumps(body).encode(), "application/json", headers)


def _server(state: _State) -> uvicorn.Server:
    config = uvicorn.Config(
        _App(state), log_config=None, log_level="critical", ws="none", lifespan="off", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


class ScriptedProvider:
    """The provider in a thread of this process; an async context manager."""

    def __init__(self, steps: list[Step]) -> None:
        self._state = _State(steps)
        self._server = _server(self._state)
        # Listening before the server runs: an early request waits in the backlog, and nobody polls for a start.
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self.root = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.api_base = self.root + "/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies received so far, in order."""
        with self._state.changed:
            return list(self._state.requests)

    def counts(self) -> Counts:
        """What the provider saw so far."""
        return self._state.counts()

    def release(self, name: str) -> None:
        """Lets go what holds at this name."""
        self._state.release(name)

    async def until(self, condition: Callable[[Counts], bool], timeout: float = 10) -> Counts:
        """Waits until the counts fulfil the condition. Raises AssertionError after `timeout` seconds."""

        def wait() -> bool:
            with self._state.changed:
                return self._state.changed.wait_for(lambda: condition(self._state.counts()), timeout)

        assert await anyio.to_thread.run_sync(wait), f"not reached: {self.counts()}"
        return self.counts()

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._state.release("*")
        self._server.should_exit = True
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join)
        counts = self.counts()
        if kind is None:
            assert not counts.unexpected, f"requests that no step expects: {counts.unexpected}"
            assert not counts.unused, f"steps that were not used: {counts.unused}"


@click.command()
@click.option("--port", default=0, show_default=True)
@click.option("--script", type=click.Path(path_type=Path, exists=True), required=True, help="A JSON list of steps.")
def main(port: int, script: Path) -> None:
    """Serve a script in a process of its own until it is stopped."""
    state = _State(msgspec.json.decode(script.read_bytes(), type=list[Step]))
    listener = socket.create_server(("127.0.0.1", port))
    click.echo(f"scripted provider listening on http://127.0.0.1:{listener.getsockname()[1]}/v1")
    sys.stdout.flush()
    _server(state).run(sockets=[listener])


if __name__ == "__main__":
    main()
