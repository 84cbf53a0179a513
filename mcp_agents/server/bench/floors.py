"""What there is to stay close to: the model loop alone, without a record of anything, and streams read bare."""

from typing import Final

import aiohttp
import msgspec

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.messages import Message, ToolCall
from mcp_agents.kernel.model import Model, ModelAnswer, ModelRequest, TextDelta, ToolSchema

PROMPT: Final = 'Please call add with {"a": 2, "b": 40}'
_ADD: Final = ToolSchema(
    name="demo__add",
    description="Adds.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
    },
)
TOKENS: Final = 200


async def bare_loop(model: Model) -> str:
    """Two turns with one addition between them; the answer. Raises `Fault` when the sum is not in it."""
    messages = [Message(role="user", text=PROMPT)]
    call: ToolCall = (await _answer(model, messages)).tool_calls[0]
    total = call.arguments["a"] + call.arguments["b"]
    messages += [
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", text=str(total), call_id=call.call_id, tool=call.tool),
    ]
    text = (await _answer(model, messages)).text
    if "42" not in text:
        raise Fault("BENCH_ANSWER", "The bare loop did not get its sum.")
    return text


async def _answer(model: Model, messages: list[Message]) -> ModelAnswer:
    async for item in model.stream(ModelRequest(model="", messages=tuple(messages), tools=(_ADD,))):
        if isinstance(item, ModelAnswer):
            return item
    raise Fault("MODEL_STREAM_ENDED", "The model's answer ended without an end.")


async def streamed(model: Model) -> None:
    """One stream of `TOKENS` through a model client. Raises `Fault` unless every delta came."""
    messages = (Message(role="user", text="Speak."),)
    items = model.stream(ModelRequest(model="", messages=messages))
    _all_of(sum([isinstance(item, TextDelta) async for item in items]))


async def streamed_bare(http: aiohttp.ClientSession, provider: str) -> None:
    """The same with aiohttp and msgspec alone: each event is decoded, nothing is checked."""
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "Speak."}]}
    seen = 0
    async with http.post(f"{provider}/chat/completions", json=body) as response:
        pending = b""
        while received := await response.content.readany():
            *events, pending = (pending + received).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    choices = msgspec.json.decode(event[6:])["choices"]
                    seen += bool(choices and choices[0]["delta"].get("content"))
    _all_of(seen)


def _all_of(seen: int) -> None:
    if seen != TOKENS:
        raise Fault("BENCH_ANSWER", f"A stream of {TOKENS} tokens was delivered in {seen} deltas.")
