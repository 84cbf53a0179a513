"""What a model is to this server: the configured models, and the virtual names that stand for them.

Records and names only: choosing is `choosing`, talking to a provider is an adapter. Above it: the router and
whoever composes it from the settings.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, Literal

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.model import Price, PriceBook
from mcp_agents.kernel.routing import Strategy

Wire = Literal["rule", "litellm", "openai"]
"""Which client a model is called through; `rule` is the offline rule-based model, which is not an LLM."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
"""What models and virtual models are called."""


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

    @property
    def provider(self) -> str:
        """The prefix of `provider_model` (`openai`), or "" without one: whose key it takes."""
        prefix, slash, _ = self.provider_model.partition("/")
        return prefix if slash else ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a virtual name asks for: a strategy, the task it prefers, and its models; without any, all of them."""

    strategy: Strategy
    task: str = ""
    models: tuple[str, ...] = ()


AUTO: Final = "auto"
VIRTUAL: Final[dict[str, Meaning]] = {
    AUTO: Meaning("balanced"),
    "cb:smart-chat": Meaning("balanced", "general_chat"),
    "cb:cost-optimal": Meaning("cost_optimized"),
    "cb:fastest": Meaning("performance_first"),
    "cb:coding": Meaning("task_specific", "coding"),
    "cb:analysis": Meaning("task_specific", "analysis"),
    "cb:creative": Meaning("task_specific", "creative"),
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


class ModelCatalog:
    """The operator's models and names, which do not change while the server runs."""

    def __init__(
        self, models: Sequence[ConfiguredModel], virtual_models: Mapping[str, tuple[str, ...]], prices: PriceBook
    ) -> None:
        """`models` in order of preference; `virtual_models`: names added or overridden, each with model names
        in order of preference. Raises `Invalid` (MODEL_SETTINGS_INVALID) when two models share a name, or a
        name points to a model that is not there."""
        self._models = {model.name: model for model in models}
        self._prices = prices
        if len(self._models) != len(models):
            names = sorted({model.name for model in models if sum(other.name == model.name for other in models) > 1})
            raise settings_invalid(
                f"More than one model is named {', '.join(names)}.", "Give every [[models]] entry its own."
            )
        added = {canonical(name): targets for name, targets in virtual_models.items()}
        for name, targets in added.items():
            self._check(name, targets)
        self._virtual = VIRTUAL | {name: Meaning("failover_chain", models=targets) for name, targets in added.items()}

    def _check(self, name: str, targets: tuple[str, ...]) -> None:
        if name in self._models:
            raise settings_invalid(f"{name} is a model and a virtual model.", "Rename one of them.")
        if missing := [target for target in targets if target not in self._models]:
            raise settings_invalid(
                f"The virtual model {name} names no configured model: {', '.join(missing)}.",
                f"Choose from: {', '.join(self._models) or 'none configured'}.",
            )
        if not targets:
            raise settings_invalid(f"The virtual model {name} names no model.", "Name at least one.")

    def models(self) -> list[ConfiguredModel]:
        """The configured models in order of preference."""
        return list(self._models.values())

    def model(self, name: str) -> ConfiguredModel | None:
        """The model of that name."""
        return self._models.get(name)

    def virtual(self) -> dict[str, Meaning]:
        """The virtual names of the house: the built-in ones, overridden and added to by the settings."""
        return dict(self._virtual)

    def names(self) -> list[str]:
        """Every name that the house knows: virtual names, models, aliases."""
        return list(dict.fromkeys([*self._virtual, *self._models, *ALIASES]))

    def providers(self) -> list[str]:
        """The providers of the configured models, by name."""
        return sorted({model.provider for model in self._models.values() if model.provider})

    def price(self, model: ConfiguredModel) -> Price | None:
        """What the model costs and can read: the settings, and the price book for what they leave out.

        None when a price is in neither. An input price of the settings counts for cached input too.
        """
        listed = self._prices.price(model.provider_model)
        paid, output = model.input_micro_usd_per_mtok, model.output_micro_usd_per_mtok
        if listed is None and (paid is None or output is None):
            return None
        book = listed or Price(input_micro_usd_per_mtok=0, output_micro_usd_per_mtok=0, cached_micro_usd_per_mtok=0)
        return Price(
            input_micro_usd_per_mtok=book.input_micro_usd_per_mtok if paid is None else paid,
            output_micro_usd_per_mtok=book.output_micro_usd_per_mtok if output is None else output,
            cached_micro_usd_per_mtok=book.cached_micro_usd_per_mtok if paid is None else paid,
            context_window=model.context_window or book.context_window,
            max_output_tokens=book.max_output_tokens,
        )


def canonical(name: str) -> str:
    """The name behind an alias; any other as it stands."""
    return ALIASES.get(name, name)


def unknown(asked: str, names: list[str]) -> Invalid:
    """The refusal of a name that is not there, with those that are."""
    near = get_close_matches(asked, names, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return Invalid(
        "MODEL_UNKNOWN",
        f"There is no model named {asked[:100]}.",
        f"{hint}Choose from: {', '.join(names)}.",
        details={"valid_names": names},
    )


def settings_invalid(public: str, next_step: str) -> Invalid:
    """The refusal of settings that contradict themselves."""
    return Invalid("MODEL_SETTINGS_INVALID", public, next_step)
