"""Asking goes on until one model has answered: failover, pauses, deadlines, keys, and what is never repeated."""

import logging
import math
import random
from typing import Any

import pytest

from mcp_agents.kernel.errors import (
    AgentsError,
    Denied,
    Exhausted,
    Fault,
    Invalid,
    NotFound,
    Timeout,
    Unavailable,
)
from mcp_agents.kernel.messages import Message, Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, TextDelta
from mcp_agents.kernel.routing import Routing
from mcp_agents.models.attempts import ATTEMPTS
from mcp_agents.models.catalog import OFFLINE, ConfiguredModel
from mcp_agents.models.health import Vitals
from mcp_agents.models.router import Demand, PricedAnswer, Setback
from tests.models.asking import CANARY, user
from tests.models.support import CHEAP, DEAR, UNKNOWN, Desk, Item, Scripted

pytestmark = pytest.mark.anyio

ANSWER = ModelAnswer(text="hi")


def down() -> AgentsError:
    return Unavailable("MODEL_UNAVAILABLE", "It does not answer.")


def limited(after_ms: int | None = None) -> AgentsError:
    return Exhausted("MODEL_RATE_LIMITED", "No more for now.", retry_after_ms=after_ms)


def refused() -> AgentsError:
    return Denied("MODEL_KEY_REFUSED", "The key was refused.")


async def test_an_answer_comes_with_its_price_and_model() -> None:
    """Deltas pass through, the request carries the model's own settings, and the sum is exact."""
    answer = ModelAnswer(text="hi", usage=Usage(input_tokens=1000, output_tokens=20, cached_tokens=400))
    desk = Desk(DEAR, client=Scripted(p__dear=[[TextDelta("hi"), answer]]))
    schema = {"type": "object"}
    items = await desk.ask("dear", max_tokens=5, response_schema=schema, cache_key="run")
    assert items == [
        TextDelta("hi"),
        PricedAnswer(answer=answer, cost_micro_usd=600 * 3 + 120 + 20 * 15, model="dear"),
    ]
    (asked,) = desk.client.asked
    assert (asked.model, asked.api_base, asked.api_key, asked.max_tokens) == ("p/dear", "http://x", CANARY, 5)
    assert (asked.response_schema, asked.cache_key) == (schema, "run")


async def test_an_unknown_price_is_flagged() -> None:
    """The cost is 0 and says that it is not known."""
    desk = Desk(UNKNOWN, client=Scripted(p__unknown=[[ModelAnswer(text="", usage=Usage(input_tokens=9))]]))
    (item,) = await desk.ask("unknown")
    assert isinstance(item, PricedAnswer)
    assert (item.cost_micro_usd, item.priced) == (0, False)


async def test_the_offline_model_is_free_and_priced() -> None:
    """Its price is known to be nothing."""
    *_, item = await Desk(OFFLINE).ask("auto", messages=(user("say a b"),))
    assert isinstance(item, PricedAnswer)
    assert (item.answer.text, item.cost_micro_usd, item.priced, item.model) == ("a b", 0, True, "rule-based")


async def test_a_failure_of_the_first_is_told_and_the_next_is_asked_at_once() -> None:
    """In the middle of the text, in the second turn of a conversation too: what is sent is the same."""
    desk = Desk(DEAR, CHEAP, client=Scripted(p__dear=[[TextDelta("half"), down()]]))
    conversation = (
        user("x"),
        Message(role="assistant", text="y"),
        user("z"),
    )
    items = await desk.ask("cb:coding", messages=conversation)
    assert items == [
        TextDelta("half"),
        Setback(model="dear", code="MODEL_UNAVAILABLE", next_model="cheap", wait_ms=0, deltas_sent=True),
        PricedAnswer(answer=ModelAnswer(text="q/cheap"), cost_micro_usd=0, model="cheap"),
    ]
    first, second = desk.client.asked
    assert first.messages == second.messages == conversation
    assert sum(desk.slept) == 0
    assert desk.client.open == 0


async def test_a_lone_model_is_asked_again_after_growing_pauses() -> None:
    """Four attempts, half a second doubled each time, up to half a second of jitter; then its error."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[down()]] * ATTEMPTS))
    with pytest.raises(Unavailable, match="MODEL_UNAVAILABLE"):
        await desk.ask("dear")
    assert len(desk.client.asked) == ATTEMPTS
    assert len(desk.slept) == ATTEMPTS - 1
    for place, pause in enumerate(desk.slept):
        assert 0.5 * 2**place <= pause <= 0.5 * 2**place + 0.5


async def test_a_lone_models_second_answer_counts() -> None:
    """The setback names no other model, and how long it waits."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[down()]]))
    setback, answer = await desk.ask("dear")
    assert isinstance(setback, Setback)
    assert (setback.next_model, setback.deltas_sent) == ("", False)
    assert setback.wait_ms == round(desk.slept[0] * 1000) >= 500
    assert isinstance(answer, PricedAnswer)


async def test_retry_after_is_kept() -> None:
    """A lone model is left alone for as long as it said; another one is asked meanwhile."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[limited(30_000)]]))
    setback, _ = await desk.ask("dear")
    assert isinstance(setback, Setback)
    assert (setback.wait_ms, desk.slept) == (30_000, [30.0])

    desk = Desk(DEAR, CHEAP, client=Scripted(p__dear=[[limited(30_000)]]))
    await desk.ask("cb:coding")
    desk.clock.advance(29)
    assert await desk.first("cb:coding") == "cheap"
    desk.clock.advance(2)
    assert await desk.first("cb:coding") == "dear"
    assert sum(desk.slept) == 0


async def test_who_comes_while_the_only_model_cools_waits_too() -> None:
    """Without an attempt of its own that failed there is no setback."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[limited(90_000)]]))
    with pytest.raises(Exhausted, match="MODEL_RATE_LIMITED"):  # longer than anybody waits
        await desk.ask("dear")
    desk.clock.advance(60)
    (answer,) = await desk.ask("dear")
    assert isinstance(answer, PricedAnswer)
    assert desk.slept == [30.0]


async def test_a_model_that_rests_for_long_is_refused_with_the_time() -> None:
    """Nobody waits for minutes; the error says how long it would be."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[refused()]]))
    with pytest.raises(Denied):
        await desk.ask("dear")
    with pytest.raises(Unavailable, match="MODELS_RESTING") as raised:
        await desk.ask("dear")
    assert raised.value.retry_after_ms == 300_000
    assert "dear: MODEL_KEY_REFUSED" in raised.value.public
    assert len(desk.client.asked) == 1


async def test_the_deadline_ends_it() -> None:
    """No pause that would outlast the turn, no attempt behind it, and an attempt gets what is left."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[3.0, down()]]))
    with pytest.raises(Unavailable):
        await desk.ask("dear", seconds=3.2)
    assert desk.slept == []
    assert [request.timeout for request in desk.client.asked] == [pytest.approx(3.2)]
    with pytest.raises(Timeout, match="MODEL_TIMEOUT"):
        await desk.ask("dear", seconds=0)
    assert len(desk.client.asked) == 1


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (down(), ["p/dear", "q/cheap"]),
        (Timeout("MODEL_TIMEOUT", "Late."), ["p/dear", "q/cheap"]),
        (Unavailable("MODEL_ANSWER_MALFORMED", "What?"), ["p/dear", "q/cheap"]),
        (limited(), ["p/dear", "q/cheap"]),
        (refused(), ["p/dear", "q/cheap"]),
        (Exhausted("MODEL_QUOTA_EXHAUSTED", "No credit."), ["p/dear", "q/cheap"]),
        (NotFound("MODEL_NOT_FOUND", "Who?"), ["p/dear", "q/cheap"]),
        (Invalid("MODEL_CONTENT_FILTERED", "No."), ["p/dear"]),
        (Invalid("MODEL_REQUEST_REFUSED", "No."), ["p/dear"]),
        (Fault("SECRET_DAMAGED", "Ours."), ["p/dear"]),
    ],
    ids=lambda value: value.code if isinstance(value, AgentsError) else "",
)
async def test_each_error_goes_where_the_table_says(error: AgentsError, asked: list[str]) -> None:
    """What another model may mend goes on; what is the request's own fault is raised at once."""
    desk = Desk(DEAR, CHEAP, client=Scripted(p__dear=[[error]]))
    if len(asked) == 1:
        with pytest.raises(type(error), match=error.code):
            await desk.ask("cb:coding")
    else:
        await desk.ask("cb:coding")
    assert desk.client.models == asked


@pytest.mark.parametrize(
    "error", [refused(), NotFound("MODEL_NOT_FOUND", "?"), Exhausted("MODEL_QUOTA_EXHAUSTED", "?")]
)
async def test_a_refused_key_is_not_tried_again_on_the_same_model(error: AgentsError) -> None:
    """Alone it is the end; with another one that fails too, that one alone is tried again."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[error]]))
    with pytest.raises(type(error)):
        await desk.ask("dear")
    assert desk.client.models == ["p/dear"]
    desk = Desk(DEAR, CHEAP, client=Scripted(p__dear=[[error]], q__cheap=[[down()]]))
    await desk.ask("cb:coding")
    assert desk.client.models == ["p/dear", "q/cheap", "q/cheap"]


async def test_too_long_a_conversation_goes_to_a_larger_window_only() -> None:
    """And counts against nobody."""
    small = ConfiguredModel(name="small", wire="litellm", provider_model="p/dear", context_window=50)
    large = ConfiguredModel(name="large", wire="litellm", provider_model="q/cheap", context_window=200)
    same = ConfiguredModel(name="same", wire="litellm", provider_model="p/dear", context_window=50)
    error = Invalid("MODEL_CONTEXT_TOO_LONG", "Too long.")
    desk = Desk(small, same, large, client=Scripted(p__dear=[[error]]), mine=("small", "same", "large"))
    setback, _ = await desk.ask("mine")
    assert isinstance(setback, Setback)
    assert setback.next_model == "large"
    vitals, _ = await desk.router.vitals(desk.space, small)
    assert vitals == Vitals(recent=vitals.recent)
    desk = Desk(small, same, client=Scripted(p__dear=[[error]]), mine=("small", "same"))
    with pytest.raises(Invalid, match="MODEL_CONTEXT_TOO_LONG"):
        await desk.ask("mine")
    assert len(desk.client.asked) == 1


async def test_an_answer_that_ended_is_not_asked_for_again() -> None:
    """Whatever the client does behind it."""
    desk = Desk(DEAR, CHEAP, client=Scripted(p__dear=[[ANSWER, down()]]))
    assert [type(item) for item in await desk.ask("cb:coding")] == [PricedAnswer]
    assert len(desk.client.asked) == 1


async def test_a_stream_without_an_answer_is_a_defect_and_is_closed() -> None:
    """A client that breaks its port is not believed, however often it is asked."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[TextDelta("a")]] * ATTEMPTS))
    with pytest.raises(Fault, match="MODEL_STREAM_ENDED"):
        await desk.ask("dear")
    assert desk.client.open == 0


async def test_closing_closes_the_call_and_counts_against_nobody() -> None:
    """Whoever is no longer interested has not seen a failure."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[TextDelta("a"), TextDelta("b"), ANSWER]]))
    demand = Demand(virtual_model="dear", messages=(user("x"),))
    stream = desk.router.ask(desk.space, await desk.router.choose(desk.space, demand), demand)
    assert await anext(stream) == TextDelta("a")
    assert (await desk.router.vitals(desk.space, DEAR))[0].in_flight == 1
    await stream.aclose()
    vitals, _ = await desk.router.vitals(desk.space, DEAR)
    assert desk.client.open == 0
    assert vitals == Vitals(recent=vitals.recent)


async def test_fallbacks_of_a_run_are_asked_when_the_named_model_fails() -> None:
    """A model that was named has no other stand-in than those wished."""
    desk = Desk(DEAR, UNKNOWN, CHEAP, client=Scripted(p__dear=[[down()]], p__unknown=[[down()]]))
    items = await desk.ask("dear", routing=Routing(fallback_models=("unknown", "cheap")))
    assert [item.next_model for item in items if isinstance(item, Setback)] == ["unknown", "cheap"]


# ---- tenants' own keys ----


async def test_a_tenants_key_replaces_the_operators_for_its_provider_only() -> None:
    """Sent where the operator configured the model to be; every other tenant still has the operator's."""
    desk = Desk(DEAR, CHEAP)
    await desk.router.keys.set(desk.space, "p", "sk-of-tenant-a", "alice")
    for name in ("dear", "cheap"):
        await desk.ask(name)
    await desk.ask("dear", desk.of("b"))
    sent = [(request.api_key, request.api_base) for request in desk.client.asked]
    assert sent == [("sk-of-tenant-a", "http://x"), ("", ""), (CANARY, "http://x")]
    await desk.router.keys.delete(desk.space, "p")
    await desk.ask("dear")
    assert desk.client.asked[-1].api_key == CANARY


async def test_a_bad_key_of_one_tenant_harms_no_other() -> None:
    """The breaker that it opens is its own, and a new key starts anew."""
    desk = Desk(DEAR, client=Scripted(p__dear=[[refused()]]))
    await desk.router.keys.set(desk.space, "p", "sk-bad-of-a", "alice")
    with pytest.raises(Denied):
        await desk.ask("dear")
    with pytest.raises(Unavailable, match="MODELS_RESTING"):
        await desk.ask("dear")
    await desk.ask("dear", desk.of("b"))
    await desk.router.keys.set(desk.space, "p", "sk-good-of-a", "alice")
    await desk.ask("dear")
    assert [request.api_key for request in desk.client.asked] == ["sk-bad-of-a", CANARY, "sk-good-of-a"]


async def test_a_short_turn_is_not_held_against_the_model() -> None:
    """Else a tenant with hasty agents could open everybody's breaker."""
    desk = Desk(DEAR)
    for seconds, known in ((0.3, ""), (29.0, ""), (30.0, "MODEL_TIMEOUT")):
        desk.client.scripts["p/dear"] = [[seconds, Timeout("MODEL_TIMEOUT", "Late.")]]
        with pytest.raises(Timeout):
            await desk.ask("dear", seconds=seconds)
        assert (await desk.router.vitals(desk.space, DEAR))[0].last_error == known


async def test_a_key_is_nowhere_to_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    """Not in the store, a log, an error, a repr or a result."""
    caplog.set_level(logging.DEBUG)
    desk = Desk(DEAR, client=Scripted(p__dear=[[TextDelta("a"), down()], [refused()]]))
    seen: list[Any] = [await desk.router.keys.set(desk.space, "p", CANARY + "-tenant", "alice")]
    demand = Demand(virtual_model="dear", messages=(user("x"),))
    choice = await desk.router.choose(desk.space, demand)

    async def listen() -> None:
        nonlocal seen
        async for item in desk.router.ask(desk.space, choice, demand):
            seen += [item]

    with pytest.raises(Denied) as raised:
        await listen()
    with pytest.raises(Invalid, match="PROVIDER_KEY_INVALID") as invalid:
        await desk.router.keys.set(desk.space, "p", CANARY + " tenant", "alice")
    credential = await desk.router.keys.credential(desk.space, "p", CANARY)
    seen += [choice, demand, await desk.router.keys.all(desk.space), credential, desk.client.asked]
    for error in (raised.value, invalid.value):
        seen += [error, error.public, error.next_step, error.details]
    stored = [cell.record.value for cell in desk.store._cells.values()]
    assert stored
    assert desk.client.asked[-1].api_key == CANARY + "-tenant"
    assert CANARY not in "\n".join([caplog.text, *map(repr, seen), *map(repr, stored)])


@pytest.mark.parametrize("key", ["", "short", "with space", "line\nbreak-in-it", "ключ-ключ-ключ", "x" * 8193])
async def test_what_can_be_no_key_is_refused(key: str) -> None:
    """Also a provider that can be none."""
    desk = Desk(DEAR)
    with pytest.raises(Invalid, match="PROVIDER_KEY_INVALID"):
        await desk.router.keys.set(desk.space, "p", key, "alice")
    with pytest.raises(Invalid, match="PROVIDER_KEY_INVALID"):
        await desk.router.keys.set(desk.space, "p.q", "sk-12345678", "alice")


async def test_keys_of_tenants_are_apart() -> None:
    """One's list and deletion do not reach the other's."""
    desk = Desk(DEAR)
    made = await desk.router.keys.set(desk.space, "p", "sk-of-tenant-a", "alice")
    assert await desk.router.keys.all(desk.of("b")) == []
    with pytest.raises(NotFound, match="PROVIDER_KEY_UNKNOWN"):
        await desk.router.keys.delete(desk.of("b"), "p")
    assert await desk.router.keys.all(desk.space) == [made]
    assert (made.provider, made.created_by, len(made.fingerprint)) == ("p", "alice", 4)


# ---- many ----


async def test_ten_thousand_asks_under_injected_failures() -> None:
    """5 % of all attempts fail, each in one of four ways: at least 99.5 % of the asks succeed, with confidence."""
    dice = random.Random(20260101)
    errors = [
        down,
        lambda: Timeout("MODEL_TIMEOUT", "Late."),
        lambda: Unavailable("MODEL_ANSWER_MALFORMED", "What?"),
        limited,
    ]

    def play(request: ModelRequest) -> list[Item]:
        took = dice.uniform(0.2, 2.0)
        if dice.random() < 0.05:
            return [took, TextDelta("half"), dice.choice(errors)()]
        return [took, TextDelta("whole"), ANSWER]

    desk = Desk(DEAR, CHEAP)
    desk.client.always = play
    asks, good = 10_000, 0
    for _ in range(asks):
        try:
            items = await desk.ask("auto")
        except AgentsError:
            continue
        good += isinstance(items[-1], PricedAnswer)
    failed = len(desk.client.asked) - good
    assert 0.04 < failed / len(desk.client.asked) < 0.06
    assert wilson(good, asks) >= 0.995


def wilson(good: int, all_of_them: int, z: float = 1.96) -> float:
    """The lower bound of the 95 % Wilson interval."""
    share = good / all_of_them
    middle = share + z * z / (2 * all_of_them)
    spread = z * math.sqrt(share * (1 - share) / all_of_them + z * z / (4 * all_of_them**2))
    return (middle - spread) / (1 + z * z / all_of_them)
