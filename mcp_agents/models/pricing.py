"""What tokens cost: exact sums in whole micro-USD, and the blended price that models are compared by.

Above it: choosing and the router. Below: the kernel's `Price`.
"""

from collections.abc import Sequence
from typing import Final

from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.model import Price

_MTOK: Final = 1_000_000
_INPUT_PARTS: Final = 3
_PARTS: Final = 4
"""A blended price weighs three input tokens to one output token."""


def cost_micro_usd(usage: Usage, price: Price) -> int:
    """What the tokens cost in whole micro-USD, rounded once, half up; cached input is part of the input."""
    cached = min(usage.cached_tokens, usage.input_tokens)
    exact = (
        (usage.input_tokens - cached) * price.input_micro_usd_per_mtok
        + cached * price.cached_micro_usd_per_mtok
        + usage.output_tokens * price.output_micro_usd_per_mtok
    )
    return (exact + _MTOK // 2) // _MTOK


def blended_per_1k(price: Price) -> float:
    """Micro-USD per 1,000 tokens, three of four of them input."""
    weighted = price.input_micro_usd_per_mtok * _INPUT_PARTS + price.output_micro_usd_per_mtok
    return weighted / _PARTS / 1000


def dearest(prices: Sequence[Price | None]) -> Price | None:
    """A price that no answer under any of these exceeds: the highest of each part. None when one is unknown.

    Its `max_output_tokens` and `context_window` are the largest, or None when one is unknown.
    """
    known = [price for price in prices if price is not None]
    if not known or len(known) < len(prices):
        return None
    return Price(
        input_micro_usd_per_mtok=max(price.input_micro_usd_per_mtok for price in known),
        output_micro_usd_per_mtok=max(price.output_micro_usd_per_mtok for price in known),
        cached_micro_usd_per_mtok=max(price.cached_micro_usd_per_mtok for price in known),
        context_window=_largest([price.context_window for price in known]),
        max_output_tokens=_largest([price.max_output_tokens for price in known]),
    )


def _largest(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None
