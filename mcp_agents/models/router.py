"""From a virtual model name to a call with a price.

Choice here is by configuration and known price alone, so the same name means the same model until the
settings change: `cb:cost-optimal` is the cheapest by known price, a task name the first model in the
configured order that holds the task (or the first at all), the others the configured order. Choosing by
measured latency and success, limits per run and failover need measurements that nobody takes yet; until
then `cb:fastest` and `auto` follow the configured order, which is the operator's judgement.

Above it: the execution loop, and the surface, which checks names when they are saved. Below: the kernel's
`Model` and `PriceBook` ports, filled by whoever composes the server.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.kernel.messages import Message, Usage
from mcp_agents.kernel.model import Model, ModelAnswer, ModelRequest, Price, PriceBook, TextDelta, ToolSchema
from mcp_agents.models.catalog import ALIASES, VIRTUAL, ConfiguredModel

_MTOK: Final = 1_000_000
_OUTPUT_SHARE: Final = 4
"""A blended price weighs three input tokens to one output token: input * 3 / 4 + output / 4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedAnswer:
    """A whole answer and what it cost; `priced` is false when no price is known and the cost is therefore 0."""

    answer: ModelAnswer
    cost_micro_usd: int
    priced: bool = True


class ModelRouter:
    """The configured models behind their names."""

    def __init__(
        self,
        models: Sequence[ConfiguredModel],
        virtual_models: Mapping[str, tuple[str, ...]],
        prices: PriceBook,
        clients: Mapping[str, Model],
    ) -> None:
        """`models` in order of preference; `virtual_models`: names added or overridden, each with model names
        in order of preference; `clients` by wire. Raises `Invalid` (MODEL_SETTINGS_INVALID) when two models
        share a name, or a name points to a model or a wire that is not there."""
        self._models = {model.name: model for model in models}
        self._overrides = {ALIASES.get(name, name): targets for name, targets in virtual_models.items()}
        self._prices = prices
        self._clients = clients
        if len(self._models) != len(models):
            names = sorted({model.name for model in models if sum(other.name == model.name for other in models) > 1})
            raise _settings(f"More than one model is named {', '.join(names)}.", "Give every [[models]] entry its own.")
        for model in models:
            if model.wire not in clients:
                raise _settings(f"The model {model.name} needs the wire {model.wire}.", "Choose another wire.")
        for name, targets in self._overrides.items():
            if name in self._models:
                raise _settings(f"{name} is a model and a virtual model.", "Rename one of them.")
            if missing := [target for target in targets if target not in self._models]:
                raise _settings(
                    f"The virtual model {name} names no configured model: {', '.join(missing)}.",
                    f"Choose from: {', '.join(self._models) or 'none configured'}.",
                )
            if not targets:
                raise _settings(f"The virtual model {name} names no model.", "Name at least one.")

    def names(self) -> list[str]:
        """Every name that `resolve` takes: virtual names, added ones, models, aliases."""
        return list(dict.fromkeys([*VIRTUAL, *self._overrides, *self._models, *ALIASES]))

    def models(self) -> list[ConfiguredModel]:
        """The configured models in order of preference."""
        return list(self._models.values())

    def check(self, virtual_model: str) -> None:
        """Raises what `resolve` would raise; for saving an agent."""
        self.resolve(virtual_model)

    def resolve(self, virtual_model: str) -> ConfiguredModel:
        """The model a name stands for now.

        Raises `Invalid`: MODEL_UNKNOWN for a name that is not there (it lists the valid ones), MODEL_NOT_CONFIGURED
        when there is no model at all.
        """
        if direct := self._models.get(virtual_model):
            return direct
        name = ALIASES.get(virtual_model, virtual_model)
        if targets := self._overrides.get(name):
            return self._models[targets[0]]
        meaning = VIRTUAL.get(name)
        if meaning is None:
            raise self._unknown(virtual_model)
        models = self.models()
        if not models:
            raise Invalid(
                "MODEL_NOT_CONFIGURED",
                "No model is configured.",
                "Add a [[models]] entry to the settings, or start with the rule-based model (it is not an LLM).",
            )
        match meaning.strategy:
            case "cheapest":
                return min(models, key=self._blended)
            case "task":
                return next((model for model in models if meaning.task in model.tasks), models[0])
            case "preference":
                return models[0]

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

    async def stream(
        self,
        model: ConfiguredModel,
        messages: tuple[Message, ...],
        *,
        tools: tuple[ToolSchema, ...] = (),
        temperature: float | None = None,
        max_tokens: int | None = None,
        timeout: float = 120.0,
    ) -> AsyncGenerator[TextDelta | PricedAnswer, None]:
        """One call: text deltas, then exactly one `PricedAnswer`. Raises what the model's client raises.

        `timeout` is in seconds for the whole answer. Closing this closes the call.
        """
        request = ModelRequest(
            model=model.provider_model,
            messages=messages,
            tools=tools,
            temperature=temperature,
            max_tokens=max_tokens,
            api_base=model.api_base,
            api_key=model.api_key,
            timeout=timeout,
        )
        price = self.price(model)
        async with AsyncExitStack() as stack:
            items = self._clients[model.wire].stream(request)
            if close := getattr(items, "aclose", None):
                stack.push_async_callback(close)
            async for item in items:
                match item:
                    case TextDelta():
                        yield item
                    case ModelAnswer():
                        cost = cost_micro_usd(item.usage, price) if price else 0
                        yield PricedAnswer(answer=item, cost_micro_usd=cost, priced=price is not None)
                        return
        raise Fault("MODEL_STREAM_ENDED", "The model's answer ended without an end.", "Try again.")

    def _blended(self, model: ConfiguredModel) -> tuple[bool, float]:
        """Sorts unknown prices last; equal ones keep the configured order."""
        price = self.price(model)
        if price is None:
            return True, 0.0
        weighted = price.input_micro_usd_per_mtok * (_OUTPUT_SHARE - 1) + price.output_micro_usd_per_mtok
        return False, weighted / _OUTPUT_SHARE

    def _unknown(self, asked: str) -> Invalid:
        names = self.names()
        near = get_close_matches(asked, names, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return Invalid(
            "MODEL_UNKNOWN",
            f"There is no model named {asked[:100]}.",
            f"{hint}Choose from: {', '.join(names)}.",
            details={"valid_names": names},
        )


def cost_micro_usd(usage: Usage, price: Price) -> int:
    """What the tokens cost in whole micro-USD, rounded once, half up; cached input is part of the input."""
    cached = min(usage.cached_tokens, usage.input_tokens)
    exact = (
        (usage.input_tokens - cached) * price.input_micro_usd_per_mtok
        + cached * price.cached_micro_usd_per_mtok
        + usage.output_tokens * price.output_micro_usd_per_mtok
    )
    return (exact + _MTOK // 2) // _MTOK


def _settings(public: str, next_step: str) -> Invalid:
    return Invalid("MODEL_SETTINGS_INVALID", public, next_step)
