"""The plugin `models`: what models and names there are, how they do, whom a name would ask, and own names and keys."""

from datetime import datetime
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct
from pydantic import Field

from mcp_agents.kernel.routing import Routing, Strategy
from mcp_agents.kernel.tenancy import Topic
from mcp_agents.models.catalog import ALIASES, ConfiguredModel, Meaning
from mcp_agents.models.health import Vitals
from mcp_agents.models.keys import ProviderKey
from mcp_agents.models.pricing import blended_per_1k
from mcp_agents.models.router import Demand
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Listed, Plugin

plugin = Plugin("models", title="Models", scopes=scopes.MODELS)

_NAME = Field(min_length=1, max_length=200, description="A virtual name, an alias or a configured model.")
_PROVIDER = Field(min_length=1, max_length=64, description="The provider: what stands before the / of a model.")


class HealthView(Struct, frozen=True, kw_only=True):
    """How a model does, measured by the process that answers; null is unknown.

    `state` is closed (all is well), open or cooling (not asked for `ready_in_ms`), or half_open (one call tries).
    """

    state: Literal["closed", "open", "half_open", "cooling"]
    ready_in_ms: int
    latency_ms: int | None
    first_token_ms: int | None
    success: float | None
    in_flight: int
    last_error: str


class ModelView(Struct, frozen=True, kw_only=True):
    """A configured model. Prices are micro-USD per million tokens, `blended_per_1k` per 1,000; null is unknown."""

    name: str
    provider: str
    provider_model: str
    tasks: tuple[str, ...]
    region: str
    input_micro_usd_per_mtok: int | None
    output_micro_usd_per_mtok: int | None
    cached_micro_usd_per_mtok: int | None
    blended_per_1k: float | None
    context_window: int | None
    max_output_tokens: int | None
    own_key: bool
    health: HealthView


class VirtualView(Struct, frozen=True, kw_only=True):
    """A virtual name; without `models` it stands for all of them. `revision` is 0 where it is not the tenant's own."""

    name: str
    aliases: tuple[str, ...]
    strategy: Strategy
    task: str
    models: tuple[str, ...]
    own: bool
    revision: int


class ModelList(Struct, frozen=True, kw_only=True):
    """What an agent's `virtual_model` may be."""

    models: tuple[ModelView, ...]
    virtual_models: tuple[VirtualView, ...]


class CandidateView(Struct, frozen=True, kw_only=True):
    """A model that may answer, and what is known of it."""

    model: str
    provider: str
    facts: str


class LeftOutView(Struct, frozen=True, kw_only=True):
    """A model that does not keep a limit."""

    model: str
    reason: str


class Resolution(Struct, frozen=True, kw_only=True):
    """Who would be asked now, in this order, and why."""

    virtual_model: str
    strategy: Strategy
    reason: str
    candidates: tuple[CandidateView, ...]
    left_out: tuple[LeftOutView, ...]


class RouteView(Struct, frozen=True, kw_only=True):
    """A virtual name of the tenant as it stands now."""

    virtual_model: str
    models: tuple[str, ...]
    strategy: Strategy
    revision: int
    removed: bool


class KeyView(Struct, frozen=True, kw_only=True):
    """A provider's key, never the key itself. `fingerprint`: the last four digits of a hash of it."""

    provider: str
    fingerprint: str
    created_at: datetime
    created_by: str
    revision: int


class KeyList(Struct, frozen=True, kw_only=True):
    """The tenant's keys by provider, and the providers of the configured models."""

    keys: tuple[KeyView, ...]
    providers: tuple[str, ...]


class KeyDeleted(Struct, frozen=True, kw_only=True):
    """Whose key was deleted."""

    provider: str
    deleted: bool = True


class Nothing(Arguments):
    """No arguments."""


class ModelResolving(Arguments):
    """A name, and what a run would wish."""

    virtual_model: str = _NAME
    strategy: Strategy | None = Field(None, description="Another strategy than the name's own.")
    task_type: str = Field("", max_length=64, description="Models that hold this task come first.")
    preferred_providers: tuple[str, ...] = Field((), max_length=20, description="These providers come first.")
    fallback_models: tuple[str, ...] = Field((), max_length=20, description="Asked when the first one fails.")
    max_latency_ms: int | None = Field(None, ge=1, description="Leaves out models measured to be slower.")
    max_cost_per_1k_tokens: int | None = Field(
        None, ge=0, description="In micro-USD, three input tokens to one output; leaves out dearer models."
    )


class ModelRouting(Arguments):
    """A virtual name and what it shall stand for."""

    virtual_model: str = Field(min_length=1, max_length=64, description="The name to add or override.")
    models: tuple[str, ...] | None = Field(
        max_length=50, description="Configured models in order of preference; null or empty removes the name."
    )
    strategy: Strategy = Field("failover_chain", description="How to choose among them.")
    expected_revision: int | None = Field(None, ge=1, description="The revision you read.")


class KeySetting(Arguments):
    """A provider and a key for it."""

    noted: ClassVar[tuple[str, ...]] = ("provider",)
    provider: str = _PROVIDER
    key: str = Field(min_length=1, max_length=10_000, description="Stored encrypted, never returned.", repr=False)


class KeyRef(Arguments):
    """One provider."""

    noted: ClassVar[tuple[str, ...]] = ("provider",)
    provider: str = _PROVIDER


def _health(vitals: Vitals) -> HealthView:
    return HealthView(
        state=vitals.state,
        ready_in_ms=vitals.ready_in_ms,
        latency_ms=_whole(vitals.latency_ms),
        first_token_ms=_whole(vitals.first_token_ms),
        success=None if vitals.success is None else round(vitals.success, 4),
        in_flight=vitals.in_flight,
        last_error=vitals.last_error,
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


async def _model(call: Call, model: ConfiguredModel) -> ModelView:
    price = call.services.models.price(model)
    vitals, own_key = await call.services.models.vitals(call.space, model)
    return ModelView(
        name=model.name,
        provider=model.provider,
        provider_model=model.provider_model,
        tasks=model.tasks,
        region=model.region,
        input_micro_usd_per_mtok=price.input_micro_usd_per_mtok if price else None,
        output_micro_usd_per_mtok=price.output_micro_usd_per_mtok if price else None,
        cached_micro_usd_per_mtok=price.cached_micro_usd_per_mtok if price else None,
        blended_per_1k=blended_per_1k(price) if price else None,
        context_window=price.context_window if price else model.context_window,
        max_output_tokens=price.max_output_tokens if price else None,
        own_key=own_key,
        health=_health(vitals),
    )


def _virtual(name: str, meaning: Meaning, revision: int) -> VirtualView:
    return VirtualView(
        name=name,
        aliases=tuple(alias for alias, target in ALIASES.items() if target == name),
        strategy=meaning.strategy,
        task=meaning.task,
        models=meaning.models,
        own=bool(revision),
        revision=revision,
    )


def _key(key: ProviderKey) -> KeyView:
    return KeyView(**{name: getattr(key, name) for name in KeyView.__struct_fields__})


@plugin.tool("model_list", title="List models", arguments=Nothing, result=ModelList, hints=READS)
async def model_list(call: Call, args: Nothing) -> ModelList:
    """Lists the configured models with price, context window, tasks and measured health, and the virtual names
    that stand for them, the tenant's own included. Any of these names may be an agent's virtual_model."""
    models = call.services.models
    revisions = await models.routes(call.space)
    return ModelList(
        models=tuple([await _model(call, model) for model in models.models()]),
        virtual_models=tuple(
            _virtual(name, meaning, revisions.get(name, 0))
            for name, meaning in (await models.meanings(call.space)).items()
        ),
    )


@plugin.tool("model_resolve", title="Resolve a model name", arguments=ModelResolving, result=Resolution, hints=READS)
async def model_resolve(call: Call, args: ModelResolving) -> Resolution:
    """Says which models a name would ask now, in which order and why, and which ones the limits leave out.
    Nothing is asked."""
    routing = Routing(**args.model_dump(exclude={"virtual_model"}))
    choice = await call.services.models.choose(call.space, Demand(virtual_model=args.virtual_model, routing=routing))
    return Resolution(
        virtual_model=args.virtual_model,
        strategy=choice.strategy,
        reason=choice.reason,
        candidates=tuple(
            CandidateView(model=candidate.name, provider=candidate.model.provider, facts=candidate.facts)
            for candidate in choice.candidates
        ),
        left_out=tuple(LeftOutView(model=model, reason=reason) for model, reason in choice.left_out),
    )


@plugin.tool(
    "model_route_set",
    title="Set a virtual model",
    arguments=ModelRouting,
    result=RouteView,
    hints=Hints(destructive=True, idempotent=True),
)
async def model_route_set(call: Call, args: ModelRouting) -> RouteView:
    """Adds a virtual name of the tenant's own, or overrides one of the house, for this tenant alone. Without
    models the name is removed, and the house's meaning counts again."""
    meaning = Meaning(args.strategy, models=args.models or ())
    name, revision = await call.services.models.set_route(
        call.space, args.virtual_model, meaning, by=call.principal.subject, expected=args.expected_revision
    )
    return RouteView(
        virtual_model=name,
        models=meaning.models,
        strategy=args.strategy,
        revision=revision,
        removed=not meaning.models,
    )


@plugin.tool(
    "provider_key_set",
    title="Set a provider's key",
    arguments=KeySetting,
    result=KeyView,
    hints=Hints(destructive=True, idempotent=True),
)
async def provider_key_set(call: Call, args: KeySetting) -> KeyView:
    """Stores the tenant's own key for a provider, encrypted; the tenant's calls of that provider's models use it
    in place of the operator's. It is never returned. A key that is there is replaced."""
    key = await call.services.models.set_key(call.space, args.provider, args.key, by=call.principal.subject)
    return _key(key)


@plugin.tool("provider_key_list", title="List providers' keys", arguments=Nothing, result=KeyList, hints=READS)
async def provider_key_list(call: Call, args: Nothing) -> KeyList:
    """Lists for which providers the tenant has a key of its own, with a fingerprint to tell keys apart, and the
    providers that one may be set for. Never the keys."""
    models = call.services.models
    return KeyList(
        keys=tuple(_key(key) for key in await models.keys.all(call.space)), providers=tuple(models.providers())
    )


@plugin.tool(
    "provider_key_delete",
    title="Delete a provider's key",
    arguments=KeyRef,
    result=KeyDeleted,
    hints=Hints(destructive=True, idempotent=True),
)
async def provider_key_delete(call: Call, args: KeyRef) -> KeyDeleted:
    """Deletes the tenant's key for a provider; its calls use the operator's again."""
    await call.services.models.keys.delete(call.space, args.provider)
    return KeyDeleted(provider=args.provider)


async def _listed_models(call: Call) -> list[Listed]:
    return [
        Listed(uri="cb://models", name="models", title="Models", description="Models, prices, and the names for them.")
    ]


async def _listed_health(call: Call) -> list[Listed]:
    return [
        Listed(uri="cb://models/health", name="models_health", title="Models' health", description="How the models do.")
    ]


async def _topic(call: Call) -> Topic:
    return call.space.bucket_topic("cb_models")


@plugin.resource("cb://models", name="models", title="Models", listing=_listed_models, topic=_topic)
async def models_resource(call: Call) -> Any:
    """Every configured model and every virtual name, as `model_list` returns them."""
    return msgspec.to_builtins(await model_list(call, Nothing.model_validate({})))


@plugin.resource("cb://models/health", name="models_health", title="Models' health", listing=_listed_health)
async def models_health_resource(call: Call) -> Any:
    """How each configured model does: breaker, latency, success, calls in flight."""
    views = [await _model(call, model) for model in call.services.models.models()]
    return {view.name: msgspec.to_builtins(view.health) for view in views}
