"""Prices come from the file that litellm ships, as whole micro-USD, without importing litellm."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcp_agents.adapters.litellm_prices import LitellmPriceBook
from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.model import Price

LIST = """{
 "a/b": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "cache_read_input_token_cost": 7.5e-08,
         "max_input_tokens": 128000, "max_output_tokens": 4096.0, "mode": "chat"},
 "c": {"input_cost_per_token": 0.0000000000005, "output_cost_per_token": 4.9e-13, "max_input_tokens": "many"},
 "half": {"input_cost_per_token": 1e-06},
 "odd": {"input_cost_per_token": "free", "output_cost_per_token": []}
}"""


@pytest.fixture
def book(tmp_path: Path) -> LitellmPriceBook:
    """A book over a small list."""
    path = tmp_path / "prices.json"
    path.write_text(LIST)
    return LitellmPriceBook(path)


def test_a_price_is_exact(book: LitellmPriceBook) -> None:
    """The decimal number as written is multiplied, no float in between."""
    assert book.price("a/b") == Price(
        input_micro_usd_per_mtok=150_000,
        output_micro_usd_per_mtok=600_000,
        cached_micro_usd_per_mtok=75_000,
        context_window=128_000,
        max_output_tokens=4096,
    )


def test_a_price_is_rounded_half_up_and_found_behind_its_provider(book: LitellmPriceBook) -> None:
    """Half a micro-USD counts as one, less as none; without a cached price, cached input costs as input."""
    assert book.price("provider/c") == Price(
        input_micro_usd_per_mtok=1, output_micro_usd_per_mtok=0, cached_micro_usd_per_mtok=1
    )


@pytest.mark.parametrize("model", ["nope", "half", "odd", "", "/", "a/nope"])
def test_what_has_no_whole_price_has_none(book: LitellmPriceBook, model: str) -> None:
    """A missing half is not taken for free."""
    assert book.price(model) is None


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_missing_or_damaged_list_is_a_fault(tmp_path: Path, content: str | None) -> None:
    """The cause is said, not guessed over."""
    path = tmp_path / "prices.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Fault, match="PRICE_LIST_UNREADABLE"):
        LitellmPriceBook(path).price("a/b")


def test_the_packaged_list_is_read_without_litellm() -> None:
    """A well-known model has a price, and litellm stays out of the process."""
    code = (
        "import sys; from mcp_agents.adapters.litellm_prices import LitellmPriceBook as Book;"
        "price = Book().price('openai/gpt-4o-mini');"
        "sys.exit(price is None or price.input_micro_usd_per_mtok <= 0 or 'litellm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
