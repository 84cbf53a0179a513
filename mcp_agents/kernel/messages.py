"""The one vocabulary of a conversation, whatever the provider's wire looks like."""

from typing import Any, Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool the model asked for.

    `arguments` is what could be parsed; when the model wrote nonsense it is empty and `malformed`
    holds the raw text, which goes back to the model as an error instead of to the tool.
    """

    call_id: str
    tool: str
    arguments: dict[str, Any] = {}
    malformed: str = ""


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a conversation. `call_id` is set on tool results, `tool_calls` on assistant turns."""

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    tool: str = ""


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one or more model calls.

    `cached_tokens` is the part of the input read from a cache. `lost_tokens` were reserved for calls whose
    answer was lost with their worker: booked as spent, since they may have been paid.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    lost_tokens: int = 0

    @property
    def total(self) -> int:
        """What counts against a limit of tokens."""
        return self.input_tokens + self.output_tokens + self.lost_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            lost_tokens=self.lost_tokens + other.lost_tokens,
        )


class Spend(Struct, frozen=True, omit_defaults=True):
    """Money in micro-USD, and tokens."""

    micro_usd: int = 0
    tokens: int = 0

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(self.micro_usd + other.micro_usd, self.tokens + other.tokens)

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(self.micro_usd - other.micro_usd, self.tokens - other.tokens)
