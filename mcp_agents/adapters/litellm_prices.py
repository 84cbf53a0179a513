"""The price list that litellm ships, read as a file.

It fills the kernel's `PriceBook` port. litellm itself is not imported for it (that costs seconds and
hundreds of megabytes), and nothing is looked up on the network: what the installed version knows is what
this knows. It is not a bill: providers round and discount as they like.

Above it: the model router. Below: one JSON file, read on the first question.
"""

import importlib.util
import threading
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.model import Price

_FILE: Final = "model_prices_and_context_window_backup.json"
_MICRO_USD_PER_MTOK: Final = Decimal(10**12)
"""One USD per token, in micro-USD per million tokens."""


class _Listed(Struct, frozen=True):
    """The part of an entry that is used; numbers as written, so that no float rounds them."""

    input_cost_per_token: Decimal | None = None
    output_cost_per_token: Decimal | None = None
    cache_read_input_token_cost: Decimal | None = None
    max_input_tokens: int | float | str | None = None
    max_output_tokens: int | float | str | None = None


class LitellmPriceBook:
    """Prices by provider model name, with or without its provider prefix (`openai/gpt-5-mini`, `gpt-5-mini`)."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: another list of the same form; by default the one of the installed litellm."""
        self._path = path
        self._entries: dict[str, msgspec.Raw] | None = None
        self._prices: dict[str, Price | None] = {}
        self._reading = threading.Lock()

    def price(self, model: str) -> Price | None:
        """Prices rounded once, half up, to whole micro-USD per million tokens; None for an unlisted or unpriced model.

        Raises `Fault` (`PRICE_LIST_UNREADABLE`) when the installed list is missing or damaged.
        """
        if model not in self._prices:
            entries = self._read()
            raw = entries.get(model) or entries.get(model.partition("/")[2])
            self._prices[model] = _price(raw) if raw else None
        return self._prices[model]

    def _read(self) -> dict[str, msgspec.Raw]:
        with self._reading:
            if self._entries is None:
                try:
                    content = (self._path or _packaged()).read_bytes()
                    self._entries = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
                except (OSError, msgspec.MsgspecError) as cause:
                    raise _unreadable() from cause
            return self._entries


def _packaged() -> Path:
    found = importlib.util.find_spec("litellm")
    if found is None or found.origin is None:
        raise _unreadable()
    return Path(found.origin).with_name(_FILE)


def _price(raw: msgspec.Raw) -> Price | None:
    try:
        listed = msgspec.json.decode(raw, type=_Listed)
    except msgspec.MsgspecError:
        return None
    if listed.input_cost_per_token is None or listed.output_cost_per_token is None:
        return None
    cached = listed.cache_read_input_token_cost
    return Price(
        input_micro_usd_per_mtok=_whole(listed.input_cost_per_token),
        output_micro_usd_per_mtok=_whole(listed.output_cost_per_token),
        cached_micro_usd_per_mtok=_whole(listed.input_cost_per_token if cached is None else cached),
        context_window=_tokens(listed.max_input_tokens),
        max_output_tokens=_tokens(listed.max_output_tokens),
    )


def _tokens(listed: float | str | None) -> int | None:
    return int(listed) if isinstance(listed, int | float) and listed > 0 else None


def _whole(usd_per_token: Decimal) -> int:
    return int((usd_per_token * _MICRO_USD_PER_MTOK).to_integral_value(ROUND_HALF_UP))


def _unreadable() -> Fault:
    return Fault(
        "PRICE_LIST_UNREADABLE",
        "The list of model prices cannot be read.",
        "Install litellm again, or give every model its prices in the settings.",
    )
