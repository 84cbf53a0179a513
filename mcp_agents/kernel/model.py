"""Port: one call of a language model, as a stream.

Above it: virtual names, prices and the loop. Below: litellm, a thin client of OpenAI's wire, the rule-based
offline model. An adapter joins streamed fragments, reports malformed tool arguments as data, and maps every
provider error to one of the eight kinds; it never retries on its own.
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

    `response_schema` is a JSON Schema that the answer's text is to follow, as far as the provider keeps it.
    `cache_key`, of at most 64 characters, is the same for calls that begin alike: a hint to the provider's
    prompt cache, without effect where there is none. `timeout` is in seconds for the whole answer.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    response_schema: dict[str, Any] | None = None
    cache_key: str = ""
    api_base: str = ""
    api_key: str = field(default="", repr=False)
    timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer, in order."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """The whole answer; always the last item of a stream. `model` is what the provider says it used.

    `dropped` names the fields of the request that were set and not sent, because this model does not take them.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    finish_reason: str = ""
    dropped: tuple[str, ...] = ()


class Model(Protocol):
    """A provider client."""

    def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        """Text deltas, then exactly one `ModelAnswer`. Raises one of the eight kinds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model costs, in micro-USD per million tokens, and how many tokens it can read and write."""

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
