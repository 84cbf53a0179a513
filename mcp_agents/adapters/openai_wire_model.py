"""One model call over OpenAI's chat-completions wire, without litellm: for OpenAI and whoever speaks like it.

It fills the kernel's `Model` port as `litellm_model` does, for vLLM, Ollama, llama.cpp, LM Studio and most
gateways, at a small part of the cost. It never retries, never chooses, never prices and never shows what a
provider wrote in an error. Nothing comes from the environment, neither a key nor a proxy; no redirect is
followed, no compressed answer read, and neither a line nor an answer may be of any size. Addresses come from
the operator's settings alone; `addresses` lets a rule judge them all the same when a connection is made.

Above it: the model router. Below: aiohttp; `chat_wire` for the form, `sse` for events, `model_errors` for what
goes wrong.
"""

import asyncio
import io
import ipaddress
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import aiohttp
import anyio
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from mcp_agents.adapters.chat_wire import Fragment, Gathered, is_reasoning, wire_format, wire_messages, wire_tools
from mcp_agents.adapters.model_errors import code_of_status, model_error, refined
from mcp_agents.adapters.sse import Events
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, TextDelta

log = logging.getLogger(__name__)

Addresses = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""The addresses that a connection to a host and port may use. Raises `Denied` when it may use none."""

OPENAI: Final = "https://api.openai.com/v1"
CONNECTIONS: Final = 20_000
"""Connections at once, in all and to one host."""
LARGEST_ANSWER: Final = 32 << 20
"""Bytes of one answer on the wire, events and all."""
_LARGEST_REFUSAL: Final = 64 << 10
_LONGEST_KEY_HINT: Final = 64
_END_SECONDS: Final = 0.1
"""How long the end of a stream may follow behind its last event, so that its connection can be used again."""
_NO_SCHEMA: Final = re.compile(r"gpt-3\.5|gpt-4(?!o|\.)|o1-(mini|preview)")
"""OpenAI's models that are older than structured output."""
_DONE: Final = b"[DONE]"
_encode: Final = msgspec.json.encode


class OpenaiWireModel:
    """The wire behind the `Model` port. One per process and event loop; `aclose` ends its connections."""

    def __init__(self, *, addresses: Addresses | None = None) -> None:
        """`addresses`: asked for each new connection; without it the system's resolver decides."""
        self._addresses = addresses
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        """Text deltas, then one `ModelAnswer`; see the table of `model_errors` for what is raised.

        Closing or cancelling this closes the connection. `request.timeout` counts for the whole answer, not for
        each piece, and not for the time that the reader of this takes.
        """
        began = anyio.current_time()
        body, dropped = _body(request)
        response = await self._post(request, body)
        deadline = _Deadline(response.content, request.timeout - (anyio.current_time() - began))
        try:
            events, gathered, size, done = Events(), Gathered(), 0, False
            while not done and (received := await _received(deadline)):
                size += len(received)
                if size > LARGEST_ANSWER:
                    raise model_error("MODEL_ANSWER_TOO_LARGE")
                for data in events.feed(received):
                    if data == _DONE:
                        done = True
                        break
                    if text := _add(gathered, data):
                        yield TextDelta(text)
            if not gathered.finish_reason:
                raise model_error("MODEL_ANSWER_MALFORMED")
            if text := gathered.rest():
                yield TextDelta(text)
            answer = gathered.answer(request, dropped)
            if done:
                await _ended(response)
            yield answer
        finally:
            deadline.cancel()
            response.close()  # a connection whose answer was read to its end has gone back to the pool before

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _post(self, request: ModelRequest, body: bytes) -> aiohttp.ClientResponse:
        """The response once its head says that an answer follows. Raises what the head says instead."""
        try:
            with anyio.fail_after(request.timeout):
                url = await self._url(request)
                response = await self._opened().post(
                    url, data=io.BytesIO(body), headers=_headers(request.api_key), allow_redirects=False
                )
                if response.status != 200:
                    raise await _refusal(response)
        except (aiohttp.ClientError, OSError, ValueError) as cause:
            raise _failed(cause) from None
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise model_error("MODEL_ANSWER_MALFORMED")
        return response

    async def _url(self, request: ModelRequest) -> URL:
        url = URL((request.api_base or OPENAI).rstrip("/") + "/chat/completions")
        if self._addresses is not None and url.host and _is_address(url.host):
            await self._addresses(url.host, url.port or 0)  # no resolver is asked for these
        return url

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = None if self._addresses is None else _JudgedResolver(self._addresses)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, resolver=resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # the deadline is ours
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class _JudgedResolver(AbstractResolver):
    """Resolves to the addresses that the rule returns, and to no other."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._addresses(host, port)
        ]

    async def close(self) -> None:
        """Nothing is open."""


class _Deadline:
    """Breaks off reading once the time is used up, with `TimeoutError`. Only time spent reading counts.

    One timer for the whole answer: a scope for each piece would cost more than the piece.
    """

    __slots__ = ("_content", "_left", "_loop", "_since", "_timer")

    def __init__(self, content: aiohttp.StreamReader, seconds: float) -> None:
        self._content = content
        self._left = seconds
        self._since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self) -> bytes:
        """What has come, at least a byte; nothing at the end."""
        self._since = began = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._left, self._look)
        try:
            return await self._content.readany()
        finally:
            self._since = None
            self._left -= self._loop.time() - began

    def cancel(self) -> None:
        """Stops watching."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:  # the reader has it; the next read starts the timer again
            return
        left = self._left - (self._loop.time() - self._since)
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._content.set_exception(TimeoutError())


# ---- what is asked ----


def _body(request: ModelRequest) -> tuple[bytes, tuple[str, ...]]:
    """The request as JSON, and the names of what was left out. What is not set is not sent."""
    model = request.model.removeprefix("openai/")
    reasoning = is_reasoning(model)
    dropped = []
    if reasoning and request.temperature is not None:
        dropped.append("temperature")
    if request.response_schema is not None and _NO_SCHEMA.match(model):
        dropped.append("response_schema")
    optional: dict[str, Any] = {
        "temperature": None if "temperature" in dropped else request.temperature,
        "max_completion_tokens" if reasoning else "max_tokens": request.max_tokens,
        "tools": wire_tools(request.tools),
        "response_format": None if "response_schema" in dropped else wire_format(request.response_schema),
        "prompt_cache_key": request.cache_key[:_LONGEST_KEY_HINT] or None,
    }
    body = {
        "model": model,
        "messages": wire_messages(request.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in optional.items() if value is not None},
    }
    try:
        return _encode(body), tuple(dropped)
    except UnicodeEncodeError:
        raise model_error("MODEL_REQUEST_REFUSED") from None


def _headers(api_key: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise model_error("MODEL_KEY_REFUSED")
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


# ---- what is answered ----


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct, gc=False):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(Struct, gc=False):
    cached_tokens: int | None = None


class _Used(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Problem(Struct, gc=False):
    """What a provider says in place of an answer; each part may be anything."""

    message: Any = None
    type: Any = None
    code: Any = None


class _Event(Struct, gc=False):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: _Used | None = None
    error: _Problem | str | None = None


_decode: Final = msgspec.json.Decoder(_Event).decode


def _add(gathered: Gathered, data: bytes) -> str:
    """Takes in an event and returns the text of it that can be shown."""
    try:
        event = _decode(data)
    except msgspec.MsgspecError:
        event = _cut_event(data)
    if event.error is not None:
        raise _problem(event.error)
    if event.usage is not None:
        gathered.usage = _usage(event.usage)
    if not gathered.model and event.model:
        gathered.model = event.model
    if not event.choices:
        return ""
    choice = event.choices[0]
    if choice.finish_reason:
        gathered.finish_reason = choice.finish_reason
    delta = choice.delta
    if delta is None:
        return ""
    if delta.tool_calls:
        gathered.fragments += map(_fragment, delta.tool_calls)
    return gathered.take(delta.content) if delta.content else ""


def _cut_event(data: bytes) -> _Event:
    """An event with half of a character in it, which the strict decoder refuses: the next may bring the rest."""
    try:
        return msgspec.convert(json.loads(data), _Event)
    except (ValueError, RecursionError):
        raise model_error("MODEL_ANSWER_MALFORMED") from None


def _fragment(call: _Call) -> Fragment:
    function = call.function or _Function()
    arguments = function.arguments
    if isinstance(arguments, dict):
        arguments = _encode(arguments).decode()
    return Fragment(call.index, call.id or "", function.name or "", arguments or "")


def _usage(used: _Used) -> Usage:
    details = used.prompt_tokens_details
    return Usage(
        input_tokens=used.prompt_tokens or 0,
        output_tokens=used.completion_tokens or 0,
        cached_tokens=(details.cached_tokens if details else 0) or 0,
    )


async def _received(deadline: _Deadline) -> bytes:
    try:
        return await deadline.read()
    except TimeoutError:
        raise model_error("MODEL_TIMEOUT") from None
    except (aiohttp.ClientError, OSError) as cause:
        log.info("the provider's answer broke off: %s", type(cause).__name__)
        raise model_error("MODEL_ANSWER_MALFORMED") from None


async def _ended(response: aiohttp.ClientResponse) -> None:
    """Reads the end behind the last event, if it comes at once. What fails here fails no answer."""
    with anyio.move_on_after(_END_SECONDS):
        try:
            await response.content.readany()
        except (aiohttp.ClientError, OSError) as cause:
            log.debug("the provider ended its stream badly: %s", type(cause).__name__)


# ---- what goes wrong ----


class _Refused(Struct, gc=False):
    error: _Problem | str | None = None


def _failed(cause: Exception) -> AgentsError:
    """The error for a request that got no head of a response."""
    match cause:
        case TimeoutError():
            code = "MODEL_TIMEOUT"
        case aiohttp.ClientResponseError():  # what came is not HTTP
            code = "MODEL_ANSWER_MALFORMED"
        case _:
            code = "MODEL_UNAVAILABLE"
    log.info("the provider did not answer: %s", type(cause).__name__)
    return model_error(code)


async def _refusal(response: aiohttp.ClientResponse) -> AgentsError:
    """The error for a status other than 200, made exact by the body. The provider's own words stay behind."""
    try:
        content = bytearray()
        while len(content) < _LARGEST_REFUSAL and (received := await response.content.readany()):
            content += received
        said = _words(msgspec.json.decode(content, type=_Refused).error)
    except (aiohttp.ClientError, OSError, msgspec.MsgspecError):
        said = ""
    finally:
        response.close()
    code = refined(code_of_status(response.status), said) or "MODEL_ANSWER_MALFORMED"
    log.info("the provider's answer was %d: %s", response.status, code)
    return model_error(code, response.headers.get("Retry-After"))


def _problem(problem: _Problem | str) -> AgentsError:
    """The error for one that comes as an event, in the middle of an answer."""
    status = problem.code if isinstance(problem, _Problem) and isinstance(problem.code, int) else 0
    code = refined(code_of_status(status) or "MODEL_REQUEST_REFUSED", _words(problem))
    if code == "MODEL_REQUEST_REFUSED":
        code = "MODEL_ANSWER_MALFORMED"
    log.info("the provider's answer held an error: %s", code)
    return model_error(code)


def _words(problem: _Problem | str | None) -> str:
    if isinstance(problem, _Problem):
        return f"{problem.code} {problem.type} {problem.message}"
    return problem or ""
