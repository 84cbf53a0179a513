"""One model call through litellm, for every provider it knows.

It fills the kernel's `Model` port. It never retries, never chooses, never prices and never shows what a
provider wrote in an error: that text may hold keys. litellm is imported on the first call, in a thread
(it takes seconds), with its look-ups on the network, its `.env` reading, its telemetry and its own
retries switched off; nothing but the provider is contacted. Parameters a model does not take (a
temperature for a reasoning model) are left out (`drop_params`) and named once in the log, so that one
agent can run on any model.

Above it: the model router. Below: litellm; `litellm_errors` names what goes wrong.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec

from mcp_agents.adapters.litellm_errors import model_error, refusal
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, TextDelta

log = logging.getLogger(__name__)

CONNECTIONS: Final = 20_000
"""Connections at once, in all and to one host. litellm's own limits are 1,000 and 500, and `0` means 100."""
_LIVING: Final[set["LitellmModel"]] = set()
"""The adapters of this process that may still call: litellm's connections are process-wide."""
_NO_KEY: Final = "no-key"
"""Sent to an `api_base` that has no key configured, so that a key of the environment never goes there."""
_encode: Final = msgspec.json.encode


class LitellmModel:
    """litellm behind the `Model` port. One per process and event loop; `aclose` ends its connections."""

    def __init__(self) -> None:
        self._litellm: Any = None
        self._loading = anyio.Lock()
        self._told: set[tuple[str, str]] = set()
        _LIVING.add(self)

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        """Text deltas, then one `ModelAnswer`; see the table of `litellm_errors` for what is raised.

        Closing or cancelling this closes the provider's stream. `request.timeout` counts for the whole
        answer, not for each piece, and not for the time that the reader of this takes.
        """
        litellm = await self._loaded()
        left = request.timeout
        answer = _Answer(request)
        async with AsyncExitStack() as stack:
            while True:
                began = anyio.current_time()
                try:
                    with anyio.fail_after(left):
                        if answer.chunks is None:
                            answer.chunks = await litellm.acompletion(**self._call(litellm, request))
                            stack.push_async_callback(_close, answer.chunks)
                        chunk = await anext(answer.chunks, None)
                    text = answer.add(chunk) if chunk is not None else answer.rest()
                except AgentsError:
                    raise
                except Exception as cause:  # noqa: BLE001 - the boundary to litellm, which raises whatever it met
                    raise refusal(cause) from None
                left = max(0.0, left - (anyio.current_time() - began))
                if text:
                    yield TextDelta(text)
                if chunk is None:
                    yield answer.whole()
                    return

    async def aclose(self) -> None:
        """Closes pooled connections when this was the last one in the process; litellm shares them all."""
        _LIVING.discard(self)
        if self._litellm is not None and not _LIVING:
            await self._litellm.close_litellm_async_clients()
            self._litellm.in_memory_llm_clients_cache.flush_cache()

    async def _loaded(self) -> Any:
        if self._litellm is None:
            async with self._loading:
                if self._litellm is None:
                    self._litellm = await anyio.to_thread.run_sync(_load, abandon_on_cancel=True)
        return self._litellm

    def _call(self, litellm: Any, request: ModelRequest) -> dict[str, Any]:
        """The arguments of `litellm.acompletion`; what is not set is not sent."""
        optional: dict[str, Any] = {
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "tools": [_tool(tool.name, tool.description, tool.parameters) for tool in request.tools] or None,
            "api_base": request.api_base or None,
            "api_key": request.api_key or (_NO_KEY if request.api_base else None),
        }
        for name in ("temperature", "max_tokens", "tools"):
            if optional[name] is not None and (request.model, name) not in self._told:
                self._told.add((request.model, name))
                if name not in (litellm.get_supported_openai_params(model=request.model) or (name,)):
                    log.warning("%s does not take %s; it is left out", request.model, name)
        return {
            "model": request.model,
            "messages": [_wire_message(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "timeout": request.timeout,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
            **{name: value for name, value in optional.items() if value is not None},
        }


def _load() -> Any:
    """Imports litellm so that it stays off the network and out of the way. Takes seconds; run in a thread."""
    environment = os.environ  # noqa: TID251 - litellm reads these at import and nowhere else
    environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches its price list
    environment["LITELLM_MODE"] = "PRODUCTION"  # else it reads a .env file of the current directory
    environment["AIOHTTP_CONNECTOR_LIMIT"] = str(CONNECTIONS)
    environment["AIOHTTP_CONNECTOR_LIMIT_PER_HOST"] = str(CONNECTIONS)
    litellm: Any = import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.disable_hf_tokenizer_download = True  # else counting tokens of some models fetches a tokenizer
    litellm.callbacks = []
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its warnings quote what providers wrote
    return litellm


async def _close(chunks: Any) -> None:
    with anyio.move_on_after(2, shield=True):
        await chunks.aclose()


# ---- the wire, both ways ----


def _tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _wire_message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    wire: dict[str, Any] = {"role": message.role}
    if message.text or not message.tool_calls:
        wire["content"] = message.text
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.tool, "arguments": call.malformed or _encode(call.arguments).decode()},
            }
            for call in message.tool_calls
        ]
    return wire


@dataclass(slots=True)
class _Answer:
    """What has come so far."""

    request: ModelRequest
    chunks: Any = None
    fragments: list["Fragment"] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    held: str = ""
    model: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)

    def add(self, chunk: Any) -> str:
        """Takes in a chunk and returns its text, without half of a character that was cut in two."""
        self.model = self.model or str(chunk.model or "")
        if used := getattr(chunk, "usage", None):
            self.usage = _usage(used)
        text = self.held
        for choice in chunk.choices[:1]:
            text += choice.delta.content or ""
            self.fragments += [_fragment(call) for call in choice.delta.tool_calls or ()]
            self.finish_reason = choice.finish_reason or self.finish_reason
        self.held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return self._out(text.removesuffix(self.held))

    def rest(self) -> str:
        """The end of the stream: checks that it is one, and returns text still held back."""
        # litellm makes up a "stop" when the provider sent no reason; its own record tells which it was.
        if not (self.chunks.received_finish_reason or self.chunks.intermittent_finish_reason):
            raise model_error("MODEL_ANSWER_MALFORMED")
        if self.finish_reason == "content_filter":
            raise model_error("MODEL_CONTENT_FILTERED")
        return self._out(self.held)

    def _out(self, text: str) -> str:
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self.text.append(whole)
        return whole

    def whole(self) -> ModelAnswer:
        turn = 1 + sum(1 for message in self.request.messages if message.role == "assistant")
        calls = join(self.fragments, turn=turn)
        return ModelAnswer(
            text="".join(self.text),
            tool_calls=calls,
            usage=self.usage,
            model=self.model or self.request.model,
            finish_reason=self.finish_reason,
        )


def _usage(used: Any) -> Usage:
    details = getattr(used, "prompt_tokens_details", None)
    return Usage(
        input_tokens=used.prompt_tokens or 0,
        output_tokens=used.completion_tokens or 0,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
    )


@dataclass(frozen=True, slots=True)
class Fragment:
    """A streamed piece of a tool call; empty strings for what a piece does not hold."""

    index: int | None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


def _fragment(call: Any) -> Fragment:
    function = call.function
    return Fragment(call.index, call.id or "", function.name or "", function.arguments or "")


def join(fragments: Iterable[Fragment], *, turn: int) -> tuple[ToolCall, ...]:
    """The calls that the fragments make, in the order in which they began.

    Pieces belong together by index; without one, a piece with a new id begins a call and any other piece
    continues the last. A missing or repeated id is replaced by `call_{turn}_{place}`, the same each time.
    Arguments that are no JSON object are kept as text in `malformed`.
    Raises `Unavailable` (MODEL_ANSWER_MALFORMED) for a call without a name.
    """
    slots: list[list[Fragment]] = []
    open_slot: dict[int, list[Fragment]] = {}
    for piece in fragments:
        slot = open_slot.get(piece.index) if piece.index is not None else (slots[-1] if slots else None)
        known = next((part.call_id for part in slot or () if part.call_id), "")
        if slot is None or (piece.name and piece.call_id and known and piece.call_id != known):
            slot = []
            slots.append(slot)
        slot.append(piece)
        if piece.index is not None:
            open_slot[piece.index] = slot
    calls: list[ToolCall] = []
    taken: set[str] = set()
    for place, slot in enumerate(slots, 1):
        call_id = next((part.call_id for part in slot if part.call_id), "")
        if not call_id or call_id in taken:
            call_id = f"call_{turn}_{place}"
        taken.add(call_id)
        name = next((part.name for part in slot if part.name), "")
        if not name:
            raise model_error("MODEL_ANSWER_MALFORMED")
        calls.append(_joined(call_id, name, "".join(part.arguments for part in slot)))
    return tuple(calls)


def _joined(call_id: str, name: str, raw: str) -> ToolCall:
    if not raw.strip():
        return ToolCall(call_id=call_id, tool=name)
    try:
        return ToolCall(call_id=call_id, tool=name, arguments=msgspec.json.decode(raw, type=dict[str, Any]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        readable = raw.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return ToolCall(call_id=call_id, tool=name, malformed=readable)
