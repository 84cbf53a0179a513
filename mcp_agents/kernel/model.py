"""Port: one call of a language model, as a stream.

Above it: virtual names, prices and the loop. Below: litellm, the rule-based offline model. An adapter
joins streamed fragments, reports malformed tool arguments as data, and maps every provider error to
one of the eight kinds; it never retries on its own.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcp_agents.kernel.messages import Message, ToolCall, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSchema:
    """A tool as the model sees it: `name` is at most 64 characters of `[A-Za-z0-9_-]`."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call. `model` is the provider's name (`openai/gpt-5-mini`), already resolved.

    `response_schema` asks for JSON of that schema; `cache_key` names calls that begin alike, for a provider's cache.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    api_base: str = ""
    api_key: str = field(default="", repr=False)
    timeout: float = 120.0
    response_schema: dict[str, Any] | None = None
    cache_key: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, in order."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """The whole answer; always the last item of a stream. `model` is what the provider says it used."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    finish_reason: str = ""


class Model(Protocol):
    """A provider client."""

    def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        """Text deltas, then exactly one `ModelAnswer`. Raises one of the eight kinds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs, in micro-USD per million tokens, and how much it can read."""

    input_micro_usd_per_mtok: int
    output_micro_usd_per_mtok: int
    cached_micro_usd_per_mtok: int
    context_window: int | None = None
    max_output_tokens: int | None = None


class PriceBook(Protocol):
    """Known prices by provider model name."""

    def price(self, model: str) -> Price | None:
        """None when the model is not listed."""
        ...
