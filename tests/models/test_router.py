"""Virtual names stand for configured models, and every answer has its exact price."""

import subprocess
import sys
from collections.abc import AsyncIterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.adapters.rule_model import RuleModel
from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, Price, TextDelta
from mcp_agents.models.catalog import OFFLINE, ConfiguredModel
from mcp_agents.models.router import ModelRouter, PricedAnswer, cost_micro_usd
from tests.models.asking import CANARY, user


class Book:
    """A price book of three models."""

    def price(self, model: str) -> Price | None:
        known = {"p/dear": (3_000_000, 15_000_000, 300_000), "p/cheap": (100_000, 400_000, 10_000)}
        if model not in known:
            return None
        paid, output, cached = known[model]
        return Price(
            input_micro_usd_per_mtok=paid,
            output_micro_usd_per_mtok=output,
            cached_micro_usd_per_mtok=cached,
            context_window=100,
            max_output_tokens=50,
        )


class Scripted:
    """A model that answers what it was given and remembers what it was asked."""

    def __init__(self, *items: TextDelta | ModelAnswer) -> None:
        self.items = items
        self.asked: list[ModelRequest] = []
        self.closed = 0

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        self.asked.append(request)
        try:
            for item in self.items:
                yield item
        finally:
            self.closed += 1


DEAR = ConfiguredModel(
    name="dear", wire="litellm", provider_model="p/dear", tasks=("coding",), api_base="http://x", api_key=CANARY
)
UNKNOWN = ConfiguredModel(name="unknown", wire="litellm", provider_model="p/unknown", tasks=("analysis", "coding"))
CHEAP = ConfiguredModel(name="cheap", wire="litellm", provider_model="p/cheap", tasks=("general_chat",))


def router(*models: ConfiguredModel, client: Scripted | None = None, **virtual: tuple[str, ...]) -> ModelRouter:
    names = {name.replace("__", ":"): targets for name, targets in virtual.items()}
    return ModelRouter(models, names, Book(), {"litellm": client or Scripted(), "rule": RuleModel()})


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("auto", "dear"),
        ("cb:smart-chat", "cheap"),
        ("smart-balanced", "cheap"),
        ("cb:cost-optimal", "cheap"),
        ("smart-cheap", "cheap"),
        ("cb:fastest", "dear"),
        ("smart-fast", "dear"),
        ("cb:coding", "dear"),
        ("smart-coding", "dear"),
        ("cb:analysis", "unknown"),
        ("smart-analysis", "unknown"),
        ("cb:creative", "dear"),
        ("smart-creative", "dear"),
        ("unknown", "unknown"),
        ("cheap", "cheap"),
    ],
)
def test_each_name_stands_for_one_model(asked: str, name: str) -> None:
    """Virtual names, their aliases and the models' own names resolve as the table says."""
    assert router(DEAR, UNKNOWN, CHEAP).resolve(asked).name == name


def test_settings_override_and_add_names() -> None:
    """An override counts for the alias too."""
    models = router(DEAR, UNKNOWN, CHEAP, cb__coding=("cheap", "dear"), mine=("unknown",))
    assert [models.resolve(name).name for name in ("cb:coding", "smart-coding", "mine")] == [
        "cheap",
        "cheap",
        "unknown",
    ]
    assert "mine" in models.names()


def test_every_listed_name_resolves() -> None:
    """What is offered can be chosen."""
    models = router(DEAR, CHEAP, mine=("cheap",))
    assert len(models.names()) == 16
    for name in models.names():
        models.check(name)


def test_an_unknown_name_lists_the_valid_ones() -> None:
    """The error helps whoever mistyped."""
    with pytest.raises(Invalid, match="MODEL_UNKNOWN") as raised:
        router(DEAR).check("cb:codin")
    assert raised.value.details["valid_names"] == router(DEAR).names()
    assert raised.value.next_step.startswith("Did you mean cb:coding? Choose from: auto, ")


def test_without_a_model_the_error_says_so() -> None:
    """No name resolves, and a known one says what is missing."""
    with pytest.raises(Invalid, match="MODEL_NOT_CONFIGURED"):
        router().resolve("auto")
    assert router(OFFLINE).resolve("auto") == OFFLINE


@pytest.mark.parametrize(
    ("models", "virtual"),
    [((DEAR, DEAR), {}), ((DEAR,), {"mine": ("gone",)}), ((DEAR,), {"mine": ()}), ((DEAR,), {"dear": ("dear",)})],
)
def test_settings_that_contradict_themselves_are_refused(
    models: tuple[ConfiguredModel, ...], virtual: dict[str, tuple[str, ...]]
) -> None:
    """They are refused at start, not at the first call."""
    with pytest.raises(Invalid, match="MODEL_SETTINGS_INVALID"):
        ModelRouter(models, virtual, Book(), {"litellm": Scripted()})


def test_a_wire_without_a_client_is_refused() -> None:
    """A model that could never be called is refused at start."""
    with pytest.raises(Invalid, match="MODEL_SETTINGS_INVALID"):
        ModelRouter([DEAR], {}, Book(), {})


def test_the_cheapest_counts_settings_before_the_book() -> None:
    """A price of 0 is free, an unknown one is never the cheapest."""
    free = ConfiguredModel(
        name="free", wire="litellm", provider_model="p/dear", input_micro_usd_per_mtok=0, output_micro_usd_per_mtok=0
    )
    assert router(UNKNOWN, CHEAP, free).resolve("cb:cost-optimal") == free


def test_each_price_of_the_settings_overrides_its_own() -> None:
    """What the settings leave out comes from the book; half a price without a book is none."""
    half = ConfiguredModel(
        name="half", wire="litellm", provider_model="p/dear", output_micro_usd_per_mtok=7, context_window=5
    )
    assert router(half).price(half) == Price(
        input_micro_usd_per_mtok=3_000_000,
        output_micro_usd_per_mtok=7,
        cached_micro_usd_per_mtok=300_000,
        context_window=5,
        max_output_tokens=50,
    )
    lonely = ConfiguredModel(name="l", wire="litellm", provider_model="p/none", input_micro_usd_per_mtok=7)
    assert router(lonely).price(lonely) is None


tokens = st.integers(0, 10**8)


@given(tokens, tokens, tokens, st.tuples(tokens, tokens, tokens))
def test_the_cost_is_rounded_once_half_up(read: int, wrote: int, cached: int, prices: tuple[int, int, int]) -> None:
    """It is the exact sum, rounded; cached input is never more than the input."""
    price = Price(
        input_micro_usd_per_mtok=prices[0], output_micro_usd_per_mtok=prices[1], cached_micro_usd_per_mtok=prices[2]
    )
    part = min(read, cached)
    exact = Fraction((read - part) * prices[0] + part * prices[2] + wrote * prices[1], 10**6)
    cost = cost_micro_usd(Usage(input_tokens=read, output_tokens=wrote, cached_tokens=cached), price)
    assert Fraction(-1, 2) < cost - exact <= Fraction(1, 2)


@pytest.mark.anyio
async def test_an_answer_comes_with_its_price() -> None:
    """Deltas pass through, the request carries the model's own settings, and the sum is exact."""
    usage = Usage(input_tokens=1000, output_tokens=20, cached_tokens=400)
    answer = ModelAnswer(text="hi", usage=usage)
    client = Scripted(TextDelta("hi"), answer)
    items = [item async for item in router(DEAR, client=client).stream(DEAR, (user("x"),), max_tokens=5)]
    assert items == [TextDelta("hi"), PricedAnswer(answer=answer, cost_micro_usd=600 * 3 + 120 + 20 * 15)]
    (asked,) = client.asked
    assert (asked.model, asked.api_base, asked.api_key, asked.max_tokens) == ("p/dear", "http://x", CANARY, 5)


@pytest.mark.anyio
async def test_an_unknown_price_is_flagged() -> None:
    """The cost is 0 and says that it is not known."""
    client = Scripted(ModelAnswer(text="", usage=Usage(input_tokens=9)))
    (item,) = [item async for item in router(UNKNOWN, client=client).stream(UNKNOWN, (user("x"),))]
    assert isinstance(item, PricedAnswer)
    assert (item.cost_micro_usd, item.priced) == (0, False)


@pytest.mark.anyio
async def test_the_offline_model_is_free_and_priced() -> None:
    """Its price is known to be nothing."""
    *_, item = [item async for item in router(OFFLINE).stream(OFFLINE, (user("say a b"),))]
    assert isinstance(item, PricedAnswer)
    assert (item.answer.text, item.cost_micro_usd, item.priced) == ("a b", 0, True)


@pytest.mark.anyio
async def test_a_stream_without_an_answer_is_a_defect_and_is_closed() -> None:
    """A client that breaks its port is not believed."""
    client = Scripted(TextDelta("a"))
    with pytest.raises(Fault, match="MODEL_STREAM_ENDED"):
        _ = [item async for item in router(DEAR, client=client).stream(DEAR, (user("x"),))]
    assert client.closed == 1


def test_a_key_does_not_show_in_a_models_text() -> None:
    """Neither the record nor a request prints it."""
    assert CANARY not in repr(DEAR)
    assert CANARY not in repr(ModelRequest(model="m", messages=(), api_key=CANARY))


def test_routing_imports_no_provider_client() -> None:
    """Rooms know the port only."""
    code = (
        "import mcp_agents.models.router, sys;"
        "sys.exit(bool({'litellm', 'httpx', 'httpx2', 'aiohttp'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
