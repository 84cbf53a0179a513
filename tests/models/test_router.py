"""Virtual names stand for configured models, a tenant's own names too, and every answer has its exact price."""

import base64
import re
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.errors import Conflict, Exhausted, Invalid
from mcp_agents.kernel.messages import Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, Price
from mcp_agents.kernel.routing import Routing
from mcp_agents.models import routes
from mcp_agents.models.catalog import OFFLINE, ConfiguredModel, Meaning
from mcp_agents.models.keys import ProviderKeys
from mcp_agents.models.pricing import cost_micro_usd
from mcp_agents.models.router import Demand, ModelRouter
from mcp_agents.security.keys import MasterKey, Vault
from mcp_agents.security.secrets import TenantSecrets
from tests.models.asking import CANARY
from tests.models.support import CHEAP, DEAR, UNKNOWN, Book, Desk, Scripted
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("auto", "cheap"),
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
async def test_each_name_stands_for_one_model(asked: str, name: str) -> None:
    """Virtual names, their aliases and the models' own names resolve as the table says; nothing is measured yet."""
    assert await Desk(DEAR, UNKNOWN, CHEAP).first(asked) == name


async def test_settings_override_and_add_names() -> None:
    """An override counts for the alias too."""
    desk = Desk(DEAR, UNKNOWN, CHEAP, cb__coding=("cheap", "dear"), mine=("unknown",))
    assert [await desk.first(name) for name in ("cb:coding", "smart-coding", "mine")] == ["cheap", "cheap", "unknown"]
    assert "mine" in desk.router.names()


async def test_every_listed_name_resolves() -> None:
    """What is offered can be chosen."""
    desk = Desk(DEAR, CHEAP, mine=("cheap",))
    assert len(desk.router.names()) == 16
    for name in desk.router.names():
        await desk.router.check(desk.space, name)


@pytest.mark.parametrize("asked", ["cb:codin", "cb:nothing", "", "x" * 200, "a.b*", "ключ", "cb:>"])
async def test_an_unknown_name_lists_the_valid_ones(asked: str) -> None:
    """The error helps whoever mistyped; what can be no name at all is as unknown."""
    desk = Desk(DEAR)
    with pytest.raises(Invalid, match="MODEL_UNKNOWN") as raised:
        await desk.router.check(desk.space, asked)
    assert raised.value.details["valid_names"] == desk.router.names()
    assert "Choose from: auto, " in raised.value.next_step
    assert raised.value.next_step.startswith("Did you mean cb:coding? ") or asked != "cb:codin"


async def test_without_a_model_the_error_says_so() -> None:
    """No name resolves, and a known one says what is missing."""
    desk = Desk()
    with pytest.raises(Invalid, match="MODEL_NOT_CONFIGURED"):
        await desk.router.check(desk.space, "auto")
    assert await Desk(OFFLINE).first("auto") == "rule-based"


async def test_measurements_move_a_name_to_another_model() -> None:
    """What was learned by asking counts at the next choice, and fades."""
    desk = Desk(DEAR, CHEAP, client=Scripted(p__dear=[[5.0, ModelAnswer(text="")]]))
    await desk.ask("cb:fastest")
    assert await desk.first("cb:fastest") == "cheap"  # nobody has measured it yet
    await desk.ask("cb:fastest")
    assert await desk.first("cb:fastest") == "cheap"
    assert await desk.first("dear", routing=Routing(max_latency_ms=6000)) == "dear"
    with pytest.raises(Invalid, match="MODEL_NONE_FITS"):
        await desk.first("dear", routing=Routing(max_latency_ms=4000))
    desk.clock.advance(3600)
    assert await desk.first("cb:fastest") == "dear"


async def test_a_choice_says_why_and_what_it_may_cost() -> None:
    """The worst price counts every candidate; one without a price leaves it unknown."""
    desk = Desk(DEAR, CHEAP)
    choice = await desk.router.choose(desk.space, Demand(virtual_model="auto"))
    assert [candidate.name for candidate in choice.candidates] == ["cheap", "dear"]
    assert choice.worst == desk.router.price(DEAR)
    assert choice.strategy == "balanced"
    assert choice.reason.startswith("balanced: cheap (175 micro-USD per 1k tokens, ")
    desk = Desk(DEAR, UNKNOWN)
    assert (await desk.router.choose(desk.space, Demand(virtual_model="auto"))).worst is None


async def test_an_unknown_fallback_is_refused() -> None:
    """Fallbacks are configured models; a virtual name is none."""
    desk = Desk(DEAR, CHEAP)
    with pytest.raises(Invalid, match="MODEL_UNKNOWN"):
        await desk.first("dear", routing=Routing(fallback_models=("cb:coding",)))


# ---- the tenant's own names ----


async def test_a_tenant_adds_and_overrides_names_for_itself_alone() -> None:
    """An override counts for the alias too, goes before the settings, and ends with its removal."""
    desk = Desk(DEAR, UNKNOWN, CHEAP, cb__coding=("unknown",))
    set_route = desk.router.set_route
    await set_route(desk.space, "smart-coding", Meaning("failover_chain", models=("cheap", "dear")), by="s")
    await set_route(desk.space, "team:x/1.0", Meaning("cost_optimized", models=("dear", "cheap")), by="s")
    for name in ("cb:coding", "smart-coding", "team:x/1.0"):
        assert await desk.first(name) == "cheap"
    assert await desk.first("cb:coding", desk.of("b")) == "unknown"
    with pytest.raises(Invalid, match="MODEL_UNKNOWN") as raised:
        await desk.first("team:x/1.0", desk.of("b"))
    assert "team:x/1.0" not in raised.value.details["valid_names"]
    with pytest.raises(Invalid, match="MODEL_UNKNOWN") as raised:
        await desk.first("team:x/1.1")
    assert raised.value.next_step.startswith("Did you mean team:x/1.0?")
    assert sorted(await desk.router.routes(desk.space)) == ["cb:coding", "team:x/1.0"]
    assert await set_route(desk.space, "cb:coding", Meaning("failover_chain"), by="s") == ("cb:coding", 0)
    assert await desk.first("cb:coding") == "unknown"
    assert await desk.router.routes(desk.of("b")) == {}


async def test_what_can_be_no_route_is_refused() -> None:
    """A model's own name, no name at all, a target that is not configured."""
    desk = Desk(DEAR)
    for name in ("dear", "a b", "", "x" * 65):
        with pytest.raises(Invalid, match="MODEL_ROUTE_INVALID"):
            await desk.router.set_route(desk.space, name, Meaning("balanced", models=("dear",)), by="s")
    with pytest.raises(Invalid, match="MODEL_UNKNOWN"):
        await desk.router.set_route(desk.space, "mine", Meaning("balanced", models=("dear", "auto")), by="s")


async def test_a_stale_change_of_a_route_is_refused() -> None:
    """Of two that read the same revision the second is told."""
    desk = Desk(DEAR, CHEAP)
    meaning = Meaning("failover_chain", models=("dear",))
    _, first = await desk.router.set_route(desk.space, "mine", meaning, by="s")
    _, second = await desk.router.set_route(desk.space, "mine", meaning, by="s", expected=first)
    assert second > first
    for changed in (meaning, Meaning("failover_chain")):
        with pytest.raises(Conflict, match="REVISION_CONFLICT"):
            await desk.router.set_route(desk.space, "mine", changed, by="s", expected=first)


async def test_routes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing one is always possible."""
    monkeypatch.setattr(routes, "ROUTES", 2)
    desk = Desk(DEAR)
    meaning = Meaning("failover_chain", models=("dear",))
    for name in ("a", "b", "a"):
        await desk.router.set_route(desk.space, name, meaning, by="s")
    with pytest.raises(Exhausted, match="MODEL_ROUTES_EXHAUSTED"):
        await desk.router.set_route(desk.space, "c", meaning, by="s")


async def test_a_route_outlives_some_of_its_models() -> None:
    """Those that are configured no more are passed over; with none left the error says what to do."""
    desk = Desk(DEAR, CHEAP)
    await desk.router.set_route(desk.space, "mine", Meaning("failover_chain", models=("dear", "cheap")), by="s")
    later = Desk(CHEAP)
    later._tenancy = desk._tenancy
    assert await later.first("mine", desk.space) == "cheap"
    with pytest.raises(Invalid, match="MODEL_ROUTE_STALE"):
        await Desk(OFFLINE).first("mine", desk.space)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", fullmatch=True))
def test_a_routes_key_is_safe_and_reads_back(name: str) -> None:
    """Whatever a name may hold; two names never share a key."""
    token = routes._token(name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", token)
    assert base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode() == name


# ---- settings and prices ----


@pytest.mark.parametrize(
    ("models", "virtual"),
    [((DEAR, DEAR), {}), ((DEAR,), {"mine": ("gone",)}), ((DEAR,), {"mine": ()}), ((DEAR,), {"dear": ("dear",)})],
)
def test_settings_that_contradict_themselves_are_refused(
    models: tuple[ConfiguredModel, ...], virtual: dict[str, tuple[str, ...]]
) -> None:
    """They are refused at start, not at the first call."""
    with pytest.raises(Invalid, match="MODEL_SETTINGS_INVALID"):
        made(models, virtual)


def made(models: tuple[ConfiguredModel, ...], virtual: dict[str, tuple[str, ...]], *wires: str) -> ModelRouter:
    clock = TestClock()
    clients = {wire: Scripted() for wire in wires or ("litellm",)}
    keys = ProviderKeys(TenantSecrets(Vault(MasterKey(b"k" * 32)), clock), clock)
    return ModelRouter(models, virtual, Book(), clients, keys=keys, clock=clock)


def test_a_wire_without_a_client_is_refused() -> None:
    """A model that could never be called is refused at start."""
    with pytest.raises(Invalid, match="MODEL_SETTINGS_INVALID"):
        made((DEAR,), {}, "rule")


async def test_the_cheapest_counts_settings_before_the_book() -> None:
    """A price of 0 is free, an unknown one is never the cheapest."""
    free = ConfiguredModel(
        name="free", wire="litellm", provider_model="p/dear", input_micro_usd_per_mtok=0, output_micro_usd_per_mtok=0
    )
    assert await Desk(UNKNOWN, CHEAP, free).first("cb:cost-optimal") == "free"


def test_each_price_of_the_settings_overrides_its_own() -> None:
    """What the settings leave out comes from the book; half a price without a book is none."""
    half = ConfiguredModel(
        name="half", wire="litellm", provider_model="p/dear", output_micro_usd_per_mtok=7, context_window=5
    )
    assert Desk(half).router.price(half) == Price(
        input_micro_usd_per_mtok=3_000_000,
        output_micro_usd_per_mtok=7,
        cached_micro_usd_per_mtok=300_000,
        context_window=5,
        max_output_tokens=10,
    )
    lonely = ConfiguredModel(name="l", wire="litellm", provider_model="p/none", input_micro_usd_per_mtok=7)
    assert Desk(lonely).router.price(lonely) is None


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
