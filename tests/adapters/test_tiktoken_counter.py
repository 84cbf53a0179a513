"""Counting: no text ends the process that counts it, no name reaches the network, and nothing grows with it."""

import socket

import pytest

from mcp_agents.adapters import tiktoken_counter
from mcp_agents.adapters.tiktoken_counter import TiktokenCounter

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("run", [" ", "\n", "\t ", "a", "^", "ä", "\u3000", "a ", "\r\n"])
async def test_a_million_of_anything_is_counted(run: str) -> None:
    """The library's pattern panics on a million blanks."""
    text = run * (1_200_000 // len(run))
    assert 0 < await TiktokenCounter().count("openai/gpt-5-mini", text) <= len(text.encode())


async def test_a_long_text_counts_as_the_sum_of_its_pieces() -> None:
    """What is cut apart costs a few tokens at most."""
    counter, line = TiktokenCounter(), "The tide comes in and the tide goes out. "
    one = await counter.count("openai/gpt-5-mini", line * 1_000)
    many = await counter.count("openai/gpt-5-mini", line * 10_000)
    assert abs(many - 10 * one) <= 20


@pytest.mark.parametrize(
    "model", ["openai/davinci", "openai/gpt2", "gpt2", "text-davinci-001", "openai/" + "x" * 10_000]
)
async def test_no_name_of_a_model_reaches_the_network(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary that is not packaged is not fetched."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("somebody was to be asked for a vocabulary")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert await TiktokenCounter().count(model, "The tide comes in. " * 200) > 500


async def test_names_that_are_made_up_are_forgotten() -> None:
    """An import may hold thousands."""
    for number in range(2_000):
        await TiktokenCounter().count(f"made/up-{number}", "word")
    assert tiktoken_counter._vocabulary.cache_info().currsize <= 1_024
