"""The rule-based model's HTTP twin: OpenAI's chat-completions wire on top of `rule_model.decide`.

For benchmarks and tests that want a provider in its own process, reached as any other through the model
adapters (`openai/rule-based` with its address as `api_base`). It is not an LLM, keeps nothing between
requests, asks for no key, and listens on loopback only. `python -m mcp_agents.adapters.rule_model_http
--port 0` prints one line with its address and serves until it is stopped.

Above it: whoever speaks HTTP. Below: `rule_model`.
"""

import socket
import time
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec
import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mcp_agents.adapters.rule_model import NAME, decide, words
from mcp_agents.kernel.messages import Message, Role, ToolCall
from mcp_agents.kernel.model import ModelAnswer, ToolSchema

_FRAGMENT: Final = 12
"""Characters of arguments in one streamed fragment: several per call, as real providers send them."""


class _Function(Struct, frozen=True):
    name: str
    arguments: str = "{}"


class _Call(Struct, frozen=True):
    id: str
    function: _Function


class _Part(Struct, frozen=True):
    type: str
    text: str = ""


class _Message(Struct, frozen=True):
    role: Role
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str = ""


class _Offered(Struct, frozen=True):
    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


class _Tool(Struct, frozen=True):
    function: _Offered


class _Options(Struct, frozen=True):
    include_usage: bool = False


class _Body(Struct, frozen=True):
    messages: list[_Message]
    model: str = NAME
    tools: list[_Tool] | None = None
    stream: bool = False
    stream_options: _Options | None = None


_decode: Final = msgspec.json.Decoder(_Body).decode
_encode: Final = msgspec.json.encode


def app() -> Starlette:
    """The ASGI application: `POST /v1/chat/completions` and `GET /v1/models`."""
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _complete, methods=["POST"]),
            Route("/v1/models", _models, methods=["GET"]),
        ]
    )


async def _models(_: Request) -> Response:
    return _json({"object": "list", "data": [{"id": NAME, "object": "model", "created": 0, "owned_by": "mcp-agents"}]})


async def _complete(request: Request) -> Response:
    try:
        body = _decode(await request.body())
    except msgspec.MsgspecError as error:
        refusal = {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
        return _json({"error": refusal}, status=400)
    messages = tuple(_message(message) for message in body.messages)
    tools = tuple(
        ToolSchema(name=tool.function.name, description=tool.function.description, parameters=tool.function.parameters)
        for tool in body.tools or ()
    )
    answer = decide(messages, tools)
    if not body.stream:
        return _json(_whole(answer))
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(_pieces(answer, usage=usage), media_type="text/event-stream")


def _message(message: _Message) -> Message:
    content = message.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    calls = tuple(_heard(call) for call in message.tool_calls or ())
    return Message(role=message.role, text=text, tool_calls=calls, call_id=message.tool_call_id)


def _heard(call: _Call) -> ToolCall:
    try:
        arguments = msgspec.json.decode(call.function.arguments, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return ToolCall(call_id=call.id, tool=call.function.name, malformed=call.function.arguments)
    return ToolCall(call_id=call.id, tool=call.function.name, arguments=arguments)


def _told(call: ToolCall) -> str:
    return call.malformed or _encode(call.arguments).decode()


def _usage(answer: ModelAnswer) -> dict[str, int]:
    used = answer.usage
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
    }


def _whole(answer: ModelAnswer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    if answer.tool_calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.tool, "arguments": _told(call)}}
            for call in answer.tool_calls
        ]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return _envelope("chat.completion") | {"choices": [choice], "usage": _usage(answer)}


def _pieces(answer: ModelAnswer, *, usage: bool) -> Iterator[bytes]:
    """The answer as server-sent events: the role, words, fragments of calls, the end, and usage when asked for."""
    envelope = _envelope("chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _event(envelope | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for word in words(answer.text):
        yield chunk({"content": word})
    for index, call in enumerate(answer.tool_calls):
        named = {"name": call.tool, "arguments": ""}
        yield chunk({"tool_calls": [{"index": index, "id": call.call_id, "type": "function", "function": named}]})
        told = _told(call)
        for at in range(0, len(told), _FRAGMENT):
            piece = {"arguments": told[at : at + _FRAGMENT]}
            yield chunk({"tool_calls": [{"index": index, "function": piece}]})
    yield chunk({}, answer.finish_reason)
    if usage:
        yield _event(envelope | {"choices": [], "usage": _usage(answer)})
    yield b"data: [DONE]\n\n"


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-rules", "object": kind, "created": int(time.time()), "model": NAME}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + _encode(body) + b"\n\n"


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(_encode(body), status_code=status, media_type="application/json")


@click.command()
@click.option("--port", default=0, show_default=True, help="Port on 127.0.0.1; 0 picks a free one.")
def main(port: int) -> None:
    """Serve the rule-based model (not an LLM) on OpenAI's wire. Example: --port 9100"""
    listener = socket.create_server(("127.0.0.1", port))
    click.echo(f"rule-based model listening on http://127.0.0.1:{listener.getsockname()[1]}/v1")
    uvicorn.Server(uvicorn.Config(app(), log_level="warning", ws="none")).run(sockets=[listener])


if __name__ == "__main__":
    main()
