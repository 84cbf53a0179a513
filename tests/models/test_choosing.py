"""Choosing is a pure function: one table per strategy from a frozen catalogue, and what holds for every input."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.model import Price
from mcp_agents.kernel.routing import STRATEGIES, Routing, Strategy
from mcp_agents.models.choosing import Option, rank
from mcp_agents.models.health import Vitals
from mcp_agents.models.pricing import blended_per_1k, dearest


def price(paid: int, output: int) -> Price:
    return Price(input_micro_usd_per_mtok=paid, output_micro_usd_per_mtok=output, cached_micro_usd_per_mtok=paid)


SMALL = Option(name="small", provider="p", tasks=("general_chat",), price=price(100_000, 500_000))  # 200 per 1k
LARGE = Option(name="large", provider="q", tasks=("coding", "analysis"), price=price(3_000_000, 15_000_000))  # 6000
MID = Option(name="mid", provider="q", tasks=("coding",), price=price(1_000_000, 5_000_000))  # 2000
LOCAL = Option(name="local", provider="r")
ALL = (LARGE, SMALL, MID, LOCAL)
"""The configured order."""


def with_vitals(**vitals: Vitals) -> tuple[Option, ...]:
    return tuple(replace(option, vitals=vitals.get(option.name, Vitals())) for option in ALL)


def fast(ms: float, **more: Any) -> Vitals:
    return Vitals(latency_ms=ms, success=1.0, **more)


OPEN = Vitals(state="open", ready_in_ms=9000, last_error="MODEL_UNAVAILABLE")
MEASURED = {"large": fast(900), "small": fast(3000), "mid": fast(400), "local": fast(2000)}


@pytest.mark.parametrize(
    ("strategy", "vitals", "order"),
    [
        # nothing measured: price, or the configured order
        ("cost_optimized", {}, "small mid large local"),
        ("balanced", {}, "small mid large local"),
        ("performance_first", {}, "large small mid local"),
        ("reliability_first", {}, "large small mid local"),
        ("task_specific", {}, "large small mid local"),
        ("load_balanced", {}, "large small mid local"),
        ("failover_chain", {}, "large small mid local"),
        ("model_specific", {}, "large"),
        # everything measured
        ("cost_optimized", MEASURED, "small mid large local"),
        ("balanced", MEASURED, "small mid large local"),
        ("performance_first", MEASURED, "mid large local small"),
        ("failover_chain", MEASURED, "large small mid local"),
        # the cheapest is slow, or fails often: balanced passes over it, cost does not
        ("balanced", {"small": fast(31_000)}, "mid large local small"),
        ("balanced", {"small": Vitals(latency_ms=100, success=0.8)}, "mid large local small"),
        ("cost_optimized", {"small": fast(31_000)}, "small mid large local"),
        # a model that nobody measured is tried while it is idle
        ("performance_first", {"large": fast(900), "mid": fast(400)}, "small local mid large"),
        ("performance_first", {"large": fast(9), "small": Vitals(in_flight=1)}, "mid local large small"),
        # success, where unknown is nearly perfect
        ("reliability_first", {"large": Vitals(success=0.95), "mid": Vitals(success=1.0)}, "mid small local large"),
        # load
        ("load_balanced", {"large": Vitals(in_flight=2), "small": Vitals(in_flight=1)}, "mid local small large"),
        ("load_balanced", {"large": Vitals(recent=2), "small": Vitals(recent=1), "mid": Vitals(recent=3)},
         "local small large mid"),
        # whoever cannot be asked now comes last, the soonest first
        ("cost_optimized", {"small": OPEN}, "mid large local small"),
        ("failover_chain", {"large": OPEN, "small": Vitals(state="cooling", ready_in_ms=100)}, "mid local small large"),
        ("model_specific", {"large": OPEN}, "large"),
    ],
)  # fmt: skip
def test_each_strategy_orders_as_the_table_says(strategy: Strategy, vitals: dict[str, Vitals], order: str) -> None:
    """From one catalogue, with different measurements."""
    ranking = rank(with_vitals(**vitals), (), strategy, "", Routing())
    assert [option.name for option in ranking.order] == order.split()
    assert ranking.strategy == strategy


@pytest.mark.parametrize(
    ("strategy", "task", "wishes", "order"),
    [
        ("task_specific", "coding", {}, "large mid small local"),
        ("task_specific", "creative", {}, "large small mid local"),
        ("balanced", "general_chat", {}, "small mid large local"),
        ("balanced", "coding", {}, "mid large small local"),
        # a run's wishes go before the name's own
        ("balanced", "general_chat", {"task_type": "analysis"}, "large small mid local"),
        ("balanced", "", {"strategy": "failover_chain"}, "large small mid local"),
        ("balanced", "", {"strategy": "model_specific"}, "large"),
        ("cost_optimized", "", {"preferred_providers": ("r", "q")}, "local mid large small"),
        ("cost_optimized", "", {"preferred_providers": ("nobody",)}, "small mid large local"),
        # limits leave out
        ("failover_chain", "", {"max_cost_per_1k_tokens": 2000}, "small mid"),
        ("failover_chain", "", {"max_cost_per_1k_tokens": 1999}, "small"),
        ("performance_first", "", {"max_latency_ms": 900}, "mid large"),
        ("cost_optimized", "", {"max_latency_ms": 2000, "max_cost_per_1k_tokens": 6000}, "mid large"),
    ],
)
def test_wishes_filter_and_order(strategy: Strategy, task: str, wishes: dict[str, Any], order: str) -> None:
    """With everything measured."""
    ranking = rank(with_vitals(**MEASURED), (), strategy, task, Routing(**wishes))
    assert [option.name for option in ranking.order] == order.split()


def test_an_unmeasured_latency_keeps_every_limit() -> None:
    """Else a server that just started would refuse every run with one."""
    assert len(rank(ALL, (), "balanced", "", Routing(max_latency_ms=1)).order) == len(ALL)


def test_fallbacks_stand_right_behind_the_first() -> None:
    """In their own order, health and limits included; what they do not name follows."""
    named = {option.name: option for option in with_vitals(mid=OPEN)}
    ranking = rank(list(named.values()), [named["local"], named["mid"]], "cost_optimized", "", Routing())
    assert [option.name for option in ranking.order] == ["small", "local", "large", "mid"]
    alone = rank([SMALL], [LOCAL, LARGE], "model_specific", "", Routing(max_cost_per_1k_tokens=6000))
    assert [option.name for option in alone.order] == ["small", "large"]


def test_when_nothing_is_left_each_limit_is_named() -> None:
    """Which limit left out which model."""
    wishes = Routing(max_cost_per_1k_tokens=300, max_latency_ms=1000)
    with pytest.raises(Invalid, match="MODEL_NONE_FITS") as raised:
        rank(with_vitals(**MEASURED), (), "balanced", "", wishes)
    assert raised.value.details["excluded"] == [
        "large: it costs 6000 micro-USD per 1k tokens, and max_cost_per_1k_tokens is 300",
        "small: it answers in 3000 ms, and max_latency_ms is 1000",
        "mid: it costs 2000 micro-USD per 1k tokens, and max_cost_per_1k_tokens is 300",
        "local: its price is not known, and max_cost_per_1k_tokens is 300",
    ]


def test_the_reason_says_what_was_measured() -> None:
    """Readable, and with the figures that decided."""
    options = with_vitals(small=fast(840, in_flight=2), mid=OPEN)
    ranking = rank(options, (), "balanced", "general_chat", Routing(max_cost_per_1k_tokens=2000))
    assert ranking.reason == (
        "balanced for general_chat: small (200 micro-USD per 1k tokens, 840 ms, 100.0% success, 2 in flight); "
        "then mid (2000 micro-USD per 1k tokens, latency unknown, success unknown, open after MODEL_UNAVAILABLE, "
        "ready in 9 s); left out: large (it costs 6000 micro-USD per 1k tokens, and max_cost_per_1k_tokens is 2000), "
        "local (its price is not known, and max_cost_per_1k_tokens is 2000)."
    )


def test_the_worst_price_is_one_that_no_candidate_exceeds() -> None:
    """Part by part; unknown when one of them is."""
    small, large = price(1, 9), price(5, 2)
    worst = dearest([small, large])
    assert worst is not None
    assert (worst.input_micro_usd_per_mtok, worst.output_micro_usd_per_mtok) == (5, 9)
    assert dearest([small, None]) is None
    sized = [replace(small, context_window=10, max_output_tokens=3), replace(large, context_window=20)]
    worst = dearest(sized)
    assert worst is not None
    assert (worst.context_window, worst.max_output_tokens) == (20, None)


# ---- what holds for every input ----

unknown = st.none()
vitals = st.builds(
    Vitals,
    ready_in_ms=st.sampled_from([0, 0, 500, 9000]),
    latency_ms=unknown | st.floats(1, 60_000),
    success=unknown | st.floats(0, 1),
    in_flight=st.integers(0, 5),
    recent=st.floats(0, 10),
)
options = st.lists(
    st.builds(
        Option,
        name=st.sampled_from("abcdefgh"),
        provider=st.sampled_from("pqr"),
        tasks=st.sampled_from([(), ("coding",), ("coding", "analysis")]),
        price=unknown | st.builds(price, st.integers(0, 10**7), st.integers(0, 10**7)),
        vitals=vitals,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda option: option.name,
)
routings = st.builds(
    Routing,
    strategy=unknown | st.sampled_from(STRATEGIES),
    preferred_providers=st.sampled_from([(), ("q",), ("r", "p")]),
    max_latency_ms=unknown | st.integers(1, 60_000),
    max_cost_per_1k_tokens=unknown | st.integers(0, 10_000),
    task_type=st.sampled_from(["", "coding", "creative"]),
)


@given(options, st.sampled_from(STRATEGIES), routings, st.booleans())
def test_what_holds_for_every_choice(pool: list[Option], strategy: Strategy, routing: Routing, spare: bool) -> None:
    """The same each time; nobody twice; limits kept by all; who can be asked first; nobody lost unless left out."""
    fallbacks = pool[::-1] if spare else []
    limited = routing.max_latency_ms is not None or routing.max_cost_per_1k_tokens is not None
    try:
        ranking = rank(pool, fallbacks, strategy, "", routing)
    except Invalid:
        assert limited
        return
    assert ranking == rank(pool, fallbacks, strategy, "", routing)
    names = [option.name for option in ranking.order]
    assert len(names) == len(set(names))
    waits = [option.vitals.ready_in_ms for option in ranking.order]
    assert waits == sorted(waits)
    for option in ranking.order:
        limit, latency = routing.max_cost_per_1k_tokens, routing.max_latency_ms
        assert limit is None or (option.price is not None and blended_per_1k(option.price) <= limit)
        assert latency is None or option.vitals.latency_ms is None or option.vitals.latency_ms <= latency
    if ranking.strategy != "model_specific" or spare:
        assert {*names, *(name for name, _ in ranking.left_out)} == {option.name for option in pool}
    assert ranking.reason.startswith(ranking.strategy)
    assert names[0] in ranking.reason


@given(options)
def test_the_cheapest_is_never_dearer_than_another_that_can_be_asked(pool: list[Option]) -> None:
    """Of those whose price is known."""
    first, *rest = rank(pool, (), "cost_optimized", "", Routing()).order
    for other in rest:
        if other.vitals.ready_in_ms == first.vitals.ready_in_ms == 0 and other.price is not None:
            assert first.price is not None
            assert blended_per_1k(first.price) <= blended_per_1k(other.price)
