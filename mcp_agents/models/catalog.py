"""What a model is to this server: the configured models, and the virtual names that stand for them.

Records and names only: choosing is `router`, talking to a provider is an adapter. Above it: the router and
whoever composes it from the settings.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

Wire = Literal["rule", "litellm", "openai"]
"""Which client a model is called through; `rule` is the offline rule-based model, which is not an LLM."""

Strategy = Literal["preference", "cheapest", "task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredModel:
    """One entry of `[[models]]`, its key looked up already.

    The two prices override the price book, each for itself: absent means the book's, 0 means free.
    `context_window` is in tokens.
    """

    name: str
    wire: Wire
    provider_model: str
    api_base: str = ""
    api_key: str = field(default="", repr=False)
    tasks: tuple[str, ...] = ()
    input_micro_usd_per_mtok: int | None = None
    output_micro_usd_per_mtok: int | None = None
    context_window: int | None = None
    region: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a virtual name asks for: a strategy, and the task it prefers."""

    strategy: Strategy
    task: str = ""


AUTO: Final = "auto"
VIRTUAL: Final[dict[str, Meaning]] = {
    AUTO: Meaning("preference"),
    "cb:smart-chat": Meaning("task", "general_chat"),
    "cb:cost-optimal": Meaning("cheapest"),
    "cb:fastest": Meaning("preference"),
    "cb:coding": Meaning("task", "coding"),
    "cb:analysis": Meaning("task", "analysis"),
    "cb:creative": Meaning("task", "creative"),
}
"""The seven names that always exist."""

ALIASES: Final[dict[str, str]] = {
    "smart-balanced": "cb:smart-chat",
    "smart-cheap": "cb:cost-optimal",
    "smart-fast": "cb:fastest",
    "smart-coding": "cb:coding",
    "smart-analysis": "cb:analysis",
    "smart-creative": "cb:creative",
}

OFFLINE: Final = ConfiguredModel(
    name="rule-based",
    wire="rule",
    provider_model="rule-based",
    tasks=("general_chat",),
    input_micro_usd_per_mtok=0,
    output_micro_usd_per_mtok=0,
)
"""The rule-based model as an entry: what an offline server and `mcp-agents demo` configure."""
