"""One model call through litellm, for every provider it knows.

It fills the kernel's `Model` port. It never retries, never chooses, never prices and never shows what a
provider wrote in an error: that text may hold keys. litellm is imported on the first call, in a thread
(it takes seconds), with its look-ups on the network, its `.env` reading, its telemetry and its own
retries switched off; nothing but the provider is contacted. Parameters a model does not take (a
temperature for a reasoning model) are left out (`drop_params`), named in the answer and once in the log, so
that one agent can run on any model.

Above it: the model router. Below: litellm; `chat_wire` for the form, `litellm_errors` for what goes wrong.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

import anyio
import anyio.to_thread

from mcp_agents.adapters.chat_wire import Fragment, Gathered, is_reasoning, wire_format, wire_messages, wire_tools
from mcp_agents.adapters.litellm_errors import refusal
from mcp_agents.adapters.model_errors import model_error
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, TextDelta

log = logging.getLogger(__name__)

CONNECTIONS: Final = 20_000
"""Connections at once, in all and to one host. litellm's own limits are 1,000 and 500, and `0` means 100."""
_LIVING: Final[set["LitellmModel"]] = set()
"""The adapters of this process that may still call: litellm's connections are process-wide."""
_NO_KEY: Final = "no-key"
"""Sent to an `api_base` that has no key configured, so that a key of the environment never goes there."""
_ITS_TIMEOUT: Final = 3600.0
"""Seconds that litellm would wait by itself. The deadline is ours; its own counts the reader's time too."""
_EPHEMERAL: Final = {"type": "ephemeral"}
_OPTIONAL: Final = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "tools": "tools",
    "response_schema": "response_format",
}
"""What a model may not take: the names of `ModelRequest`, and what litellm calls them."""


class LitellmModel:
    """litellm behind the `Model` port. One per process and event loop; `aclose` ends its connections."""

    def __init__(self) -> None:
        self._litellm: Any = None
        self._loading = anyio.Lock()
        self._known: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}
        _LIVING.add(self)

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        """Text deltas, then one `ModelAnswer`; see the table of `model_errors` for what is raised.

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
                            answer.dropped = self._dropped(litellm, request)
                            answer.chunks = await litellm.acompletion(**_call(litellm, request, answer.dropped))
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
            if shared := vars(self._litellm).get("module_level_aclient"):  # Anthropic's and others', which that forgets
                await shared.client._transport.aclose()
            self._litellm.in_memory_llm_clients_cache.flush_cache()

    async def _loaded(self) -> Any:
        if self._litellm is None:
            async with self._loading:
                if self._litellm is None:
                    self._litellm = await anyio.to_thread.run_sync(_load, abandon_on_cancel=True)
        return self._litellm

    def _dropped(self, litellm: Any, request: ModelRequest) -> tuple[str, ...]:
        """What is set and not taken by this model, by the names of `ModelRequest`; each told once in the log."""
        wanted = tuple(name for name in _OPTIONAL if getattr(request, name) not in (None, ()))
        key = (request.model, wanted)
        if key not in self._known:
            taken = _taken(litellm, request.model, wanted)
            dropped = tuple(name for name in wanted if name not in taken)
            self._known[key] = dropped
            if dropped:
                log.warning("%s does not take %s; it is left out", request.model, ", ".join(dropped))
        return self._known[key]


# ---- what is asked ----


def _taken(litellm: Any, model: str, wanted: tuple[str, ...]) -> set[str]:
    """The names of `ModelRequest` that the model takes together; all of them where litellm does not know it."""
    supported = litellm.get_supported_openai_params(model=model) or tuple(_OPTIONAL.values())
    taken = {name for name, called in _OPTIONAL.items() if called in supported}
    if is_reasoning(model):
        taken.discard("temperature")  # litellm lists it, but lets through only what is the default anyway
    if "tools" in wanted and _is_claude(model) and not litellm.utils.supports_native_structured_output(model):
        taken.discard("response_schema")  # it would become a tool that must be called, and no other ever could be
    return taken


def _call(litellm: Any, request: ModelRequest, dropped: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of `litellm.acompletion`; what is not set is not sent."""
    messages, tools = wire_messages(request.messages), wire_tools(request.tools)
    hint = None
    if request.cache_key:
        if _is_claude(request.model):
            _mark(messages, tools or [])
        elif "prompt_cache_key" in (litellm.get_supported_openai_params(model=request.model) or ()):
            hint = request.cache_key
    optional: dict[str, Any] = {
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "tools": tools,
        "response_format": wire_format(request.response_schema),
        "prompt_cache_key": hint,
        "api_base": request.api_base or None,
        "api_key": request.api_key or (_NO_KEY if request.api_base else None),
    }
    left_out = {_OPTIONAL[name] for name in dropped}
    return {
        "model": request.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "timeout": _ITS_TIMEOUT,
        "num_retries": 0,
        "max_retries": 0,
        "drop_params": True,
        **{name: value for name, value in optional.items() if value is not None and name not in left_out},
    }


def _is_claude(model: str) -> bool:
    """Whether the model is reached over Anthropic's or Bedrock's own form, which takes cache marks."""
    provider, _, name = model.lower().rpartition("/")
    return provider == "anthropic" or ("claude" in name and provider.split("/")[0] in ("", "bedrock", "vertex_ai"))


def _mark(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> None:
    """Marks how far a prompt may be cached: the tools, the system message, and what the model was told last."""
    for tool in tools[-1:]:
        tool["cache_control"] = _EPHEMERAL
    marked = [message for message in messages if message["role"] == "system"][-1:]
    marked += [message for message in messages if message["role"] in ("user", "tool")][-1:]
    for message in marked:
        if message["role"] == "tool":
            message["cache_control"] = _EPHEMERAL
        elif message["content"]:  # an empty text cannot be marked
            message["content"] = [{"type": "text", "text": message["content"], "cache_control": _EPHEMERAL}]


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


# ---- what comes back ----


@dataclass(slots=True)
class _Answer:
    """litellm's chunks, and what has come of them so far."""

    request: ModelRequest
    dropped: tuple[str, ...] = ()
    chunks: Any = None
    gathered: Gathered = field(default_factory=Gathered)

    def add(self, chunk: Any) -> str:
        """Takes in a chunk and returns the text of it that can be shown."""
        gathered = self.gathered
        gathered.model = gathered.model or str(chunk.model or "")
        if used := getattr(chunk, "usage", None):
            gathered.usage = _usage(used)
        for choice in chunk.choices[:1]:
            gathered.fragments += [_fragment(call) for call in choice.delta.tool_calls or ()]
            gathered.finish_reason = choice.finish_reason or gathered.finish_reason
            return gathered.take(choice.delta.content or "")
        return ""

    def rest(self) -> str:
        """The end of the stream: checks that it is one, and returns text still held back."""
        # litellm makes up a "stop" when the provider sent no reason; its own record tells which it was.
        if not (self.chunks.received_finish_reason or self.chunks.intermittent_finish_reason):
            raise model_error("MODEL_ANSWER_MALFORMED")
        return self.gathered.rest()

    def whole(self) -> ModelAnswer:
        return self.gathered.answer(self.request, self.dropped)


def _usage(used: Any) -> Usage:
    details = getattr(used, "prompt_tokens_details", None)
    return Usage(
        input_tokens=used.prompt_tokens or 0,
        output_tokens=used.completion_tokens or 0,
        cached_tokens=getattr(details, "cached_tokens", None) or 0,
    )


def _fragment(call: Any) -> Fragment:
    function = call.function
    return Fragment(call.index, call.id or "", function.name or "", function.arguments or "")
