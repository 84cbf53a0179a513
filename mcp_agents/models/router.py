"""From a virtual model name to a call with a price: choosing, and asking until one model has answered.

`choose` reads what the tenant, the settings, the prices and the measurements say and lets `choosing` decide;
`ask` calls the candidates, measures them, and goes on to the next when one fails, as `attempts` says. An
attempt that failed is told as a `Setback`; an answer that has ended is never asked for twice.

Above it: the execution loop, and the surface, which checks names and shows what there is. Below: the kernel's
`Model` and `PriceBook` ports, filled by whoever composes the server.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from tenacity import AsyncRetrying, RetryCallState

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Fault, Invalid, Timeout
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.model import Model, ModelAnswer, ModelRequest, Price, PriceBook, TextDelta, ToolSchema
from mcp_agents.kernel.routing import Routing, Strategy
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.models.attempts import ATTEMPTS, LONGEST_WAIT, Candidate, Move, Trail, pause_after
from mcp_agents.models.catalog import (
    NAME,
    ConfiguredModel,
    Meaning,
    ModelCatalog,
    canonical,
    settings_invalid,
    unknown,
)
from mcp_agents.models.choosing import Option, facts, rank
from mcp_agents.models.health import HealthBoard, Lane, Vitals
from mcp_agents.models.keys import Credential, ProviderKey, ProviderKeys
from mcp_agents.models.pricing import cost_micro_usd, dearest
from mcp_agents.models.routes import Route, TenantRoutes

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 120.0
"""The longest that one attempt waits for a whole answer."""

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one turn asks for. `seconds` are left for the whole turn, all attempts and pauses together."""

    virtual_model: str
    messages: tuple[Message, ...] = ()
    tools: tuple[ToolSchema, ...] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    response_schema: dict[str, Any] | None = None
    cache_key: str = ""
    routing: Routing = field(default_factory=Routing)
    seconds: float = ANSWER_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who may answer, best first, never empty.

    `reason` is a sentence with what was measured. `worst` is a price that none of the candidates exceeds, part
    by part; None when one of them has no known price. `left_out`: a model and the limit that it does not keep.
    """

    candidates: tuple[Candidate, ...]
    strategy: Strategy
    reason: str
    worst: Price | None
    left_out: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """An attempt that failed before its answer. The turn's text starts again.

    `next_model` is expected to be asked after `wait_ms`; "" when it is the same again.
    """

    model: str
    code: str
    next_model: str
    wait_ms: int
    deltas_sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedAnswer:
    """A whole answer and what it cost; `priced` is false when no price is known and the cost is therefore 0.

    `model` is our name of the model that gave it.
    """

    answer: ModelAnswer
    cost_micro_usd: int
    priced: bool = True
    model: str = ""


class ModelRouter:
    """The configured models behind their names, and the tenants' own names and keys."""

    def __init__(
        self,
        models: Sequence[ConfiguredModel],
        virtual_models: Mapping[str, tuple[str, ...]],
        prices: PriceBook,
        clients: Mapping[str, Model],
        *,
        keys: ProviderKeys,
        clock: Clock,
        sleep: Sleep = anyio.sleep,
    ) -> None:
        """`models` in order of preference; `virtual_models`: names added or overridden, each with model names
        in order of preference; `clients` by wire. Raises `Invalid` (MODEL_SETTINGS_INVALID) when two models
        share a name, or a name points to a model or a wire that is not there."""
        self._catalog = ModelCatalog(models, virtual_models, prices)
        self._clients, self._clock, self._sleep = clients, clock, sleep
        self._health = HealthBoard(clock)
        self._routes = TenantRoutes()
        self.keys = keys
        for model in models:
            if model.wire not in clients:
                raise settings_invalid(f"The model {model.name} needs the wire {model.wire}.", "Choose another wire.")

    # ---- names ----

    def names(self) -> list[str]:
        """Every name that all tenants know: virtual names, models, aliases."""
        return self._catalog.names()

    def models(self) -> list[ConfiguredModel]:
        """The configured models in order of preference."""
        return self._catalog.models()

    def providers(self) -> list[str]:
        """The providers of the configured models: what a tenant's own key may be for."""
        return self._catalog.providers()

    def price(self, model: ConfiguredModel) -> Price | None:
        """What the model costs and can read; None when neither the settings nor the price book say."""
        return self._catalog.price(model)

    async def meanings(self, space: TenantSpace) -> dict[str, Meaning]:
        """The virtual names that this tenant knows; its own go before those of the house."""
        own = {found.value.virtual_model: _meaning(found.value) for found in await self._routes.all(space)}
        return self._catalog.virtual() | own

    async def check(self, space: TenantSpace, name: str) -> None:
        """For saving an agent. Raises `Invalid`: MODEL_UNKNOWN (it lists the valid names), MODEL_NOT_CONFIGURED, or
        MODEL_ROUTE_STALE for a tenant's name none of whose models is configured any more."""
        await self._pool(space, name)

    async def _pool(self, space: TenantSpace, name: str) -> tuple[Meaning, list[ConfiguredModel]]:
        """What a name means here, and its models in its own order."""
        if direct := self._catalog.model(name):
            return Meaning("model_specific"), [direct]
        route = await self._routes.get(space, canonical(name))
        meaning = _meaning(route.value) if route else self._catalog.virtual().get(canonical(name))
        if meaning is None:
            raise await self._unknown(space, name)
        if not self.models():
            raise Invalid(
                "MODEL_NOT_CONFIGURED",
                "No model is configured.",
                "Add a [[models]] entry to the settings, or start with the rule-based model (it is not an LLM).",
            )
        if not meaning.models:
            return meaning, self.models()
        pool = [model for target in meaning.models if (model := self._catalog.model(target))]
        if not pool:
            raise Invalid(
                "MODEL_ROUTE_STALE",
                f"None of the models of {name} is configured any more.",
                "Set it again with model_route_set, or remove it with an empty list of models.",
            )
        return meaning, pool

    async def _unknown(self, space: TenantSpace, asked: str) -> Invalid:
        own = [found.value.virtual_model for found in await self._routes.all(space)]
        return unknown(asked, list(dict.fromkeys([*self.names(), *own])))

    # ---- the tenant's own names and keys ----

    async def set_route(
        self, space: TenantSpace, name: str, meaning: Meaning, *, by: str, expected: int | None = None
    ) -> tuple[str, int]:
        """Adds or replaces a tenant's virtual name; one without models removes it. Returns the name behind an
        alias, and the revision, 0 when it was removed.

        Raises `Invalid`: MODEL_ROUTE_INVALID for a name that cannot be one or is a model's, MODEL_UNKNOWN for a
        target that is no configured model; `Conflict` (REVISION_CONFLICT); `Exhausted` (MODEL_ROUTES_EXHAUSTED).
        """
        name = canonical(name)
        if not meaning.models:
            await self._routes.remove(space, name, expected)
            return name, 0
        if not NAME.fullmatch(name) or self._catalog.model(name):
            raise Invalid(
                "MODEL_ROUTE_INVALID",
                "A virtual model has 1 to 64 of letters, digits and . _ : / -, and is no configured model's name.",
                "Choose another name.",
            )
        for target in meaning.models:
            self._configured(target)
        route = Route(
            virtual_model=name,
            models=meaning.models,
            strategy=meaning.strategy,
            updated_at=self._clock.now(),
            updated_by=by,
        )
        return name, await self._routes.set(space, route, expected)

    async def set_key(self, space: TenantSpace, provider: str, key: str, *, by: str) -> ProviderKey:
        """Stores a tenant's key for a provider of a configured model. Raises `Invalid` PROVIDER_UNKNOWN, and what
        `ProviderKeys.set` raises."""
        if provider not in self.providers():
            known = self.providers()
            raise Invalid(
                "PROVIDER_UNKNOWN",
                "No configured model is of that provider.",
                f"Choose from: {', '.join(known) or 'none configured'}.",
                details={"providers": known},
            )
        return await self.keys.set(space, provider, key, by)

    async def routes(self, space: TenantSpace) -> dict[str, int]:
        """The names that the tenant added or overrode, with their revisions."""
        return {found.value.virtual_model: found.revision for found in await self._routes.all(space)}

    def _configured(self, name: str) -> ConfiguredModel:
        model = self._catalog.model(name)
        if model is None:
            raise unknown(name, [model.name for model in self.models()])
        return model

    # ---- choosing ----

    async def choose(self, space: TenantSpace, demand: Demand) -> Choice:
        """The candidates for a demand: of it only `virtual_model` and `routing` are looked at.

        Raises what `check` raises, `Invalid` MODEL_UNKNOWN also for a fallback that is no configured model, and
        MODEL_NONE_FITS when the limits leave nothing.
        """
        meaning, pool = await self._pool(space, demand.virtual_model)
        fallbacks = [self._configured(name) for name in demand.routing.fallback_models]
        options = {model.name: await self._option(space, model) for model in (*pool, *fallbacks)}
        ranking = rank(
            [options[model.name] for model in pool],
            [options[model.name] for model in fallbacks],
            meaning.strategy,
            meaning.task,
            demand.routing,
        )
        candidates = tuple(
            Candidate(model=self._configured(option.name), price=option.price, facts=facts(option))
            for option in ranking.order
        )
        return Choice(
            candidates=candidates,
            strategy=ranking.strategy,
            reason=ranking.reason,
            worst=dearest([candidate.price for candidate in candidates]),
            left_out=ranking.left_out,
        )

    async def vitals(self, space: TenantSpace, model: ConfiguredModel) -> tuple[Vitals, bool]:
        """How a model does for this tenant, and whether it is asked with the tenant's own key."""
        credential = await self._credential(space, model)
        return self._health.vitals(Lane(model.name, credential.lane)), bool(credential.lane)

    async def _option(self, space: TenantSpace, model: ConfiguredModel) -> Option:
        vitals, _ = await self.vitals(space, model)
        return Option(
            name=model.name, provider=model.provider, tasks=model.tasks, price=self.price(model), vitals=vitals
        )

    async def _credential(self, space: TenantSpace, model: ConfiguredModel) -> Credential:
        return await self.keys.credential(space, model.provider, model.api_key)

    # ---- asking ----

    async def ask(
        self, space: TenantSpace, choice: Choice, demand: Demand
    ) -> AsyncGenerator[TextDelta | Setback | PricedAnswer, None]:
        """Asks the candidates until one has answered: deltas, a `Setback` for each attempt that failed, then
        exactly one `PricedAnswer`.

        At most four attempts, within `demand.seconds`. Raises the last attempt's error when nothing is left to
        try, and `Unavailable` MODELS_RESTING when no candidate can be asked soon. Closing this closes the call.
        """
        deadline = self._clock.monotonic() + demand.seconds
        credentials = {each.name: await self._credential(space, each.model) for each in choice.candidates}
        trail = Trail(choice.candidates, lambda each: self._health.vitals(Lane(each.name, credentials[each.name].lane)))
        pauses: list[float] = []
        async for attempt in AsyncRetrying(wait=lambda _: pauses[-1], sleep=self._sleep):
            candidate = await self._ready(trail, deadline)
            sent = False
            call = self._once(candidate, credentials[candidate.name], demand, deadline)
            try:
                async with aclosing(call):
                    async for item in call:
                        sent = sent or isinstance(item, TextDelta)
                        yield item
                        if isinstance(item, PricedAnswer):
                            return
            except AgentsError as error:
                move = self._next(trail, candidate, error, attempt.retry_state, deadline)
                pauses.append(move.wait)
                attempt.retry_state.set_exception((type(error), error, error.__traceback__))
                yield Setback(
                    model=candidate.name,
                    code=error.code,
                    next_model="" if move.candidate.name == candidate.name else move.candidate.name,
                    wait_ms=round(move.wait * 1000),
                    deltas_sent=sent,
                )

    async def _ready(self, trail: Trail, deadline: float) -> Candidate:
        """The best candidate that may be asked now; waits for one that may be soon."""
        while True:
            left, move = deadline - self._clock.monotonic(), trail.move()
            if left <= 0:
                raise Timeout(
                    "MODEL_TIMEOUT", "The model did not answer in time.", "Try again, or choose a faster virtual_model."
                )
            if not move.wait:
                return move.candidate
            if move.wait > min(LONGEST_WAIT, left):
                raise trail.resting(move.wait)
            await self._sleep(move.wait)

    def _next(
        self, trail: Trail, candidate: Candidate, error: AgentsError, attempt: RetryCallState, deadline: float
    ) -> Move:
        """Where to go after a failed attempt; raises its error when there is nowhere or no time."""
        log.info("%s failed with %s at attempt %d", candidate.name, error.code, attempt.attempt_number)
        trail.note(candidate, error)
        move = trail.move(pause_after(attempt))
        late = move.wait > min(LONGEST_WAIT, deadline - self._clock.monotonic())
        if late or attempt.attempt_number >= ATTEMPTS:
            raise error
        return move

    async def _once(
        self, candidate: Candidate, credential: Credential, demand: Demand, deadline: float
    ) -> AsyncGenerator[TextDelta | PricedAnswer, None]:
        """One call, measured: deltas, then the answer with its price."""
        model, price = candidate.model, candidate.price
        seconds = min(ANSWER_SECONDS, deadline - self._clock.monotonic())
        request = ModelRequest(
            model=model.provider_model,
            messages=demand.messages,
            tools=demand.tools,
            temperature=demand.temperature,
            max_tokens=demand.max_tokens,
            api_base=model.api_base,
            api_key=await credential.open(),
            timeout=seconds,
            response_schema=demand.response_schema,
            cache_key=demand.cache_key,
        )
        async with AsyncExitStack() as stack:
            measured = stack.enter_context(self._health.attempt(Lane(model.name, credential.lane), seconds))
            items = self._clients[model.wire].stream(request)
            if close := getattr(items, "aclose", None):
                stack.push_async_callback(close)
            async for item in items:
                match item:
                    case TextDelta():
                        measured.spoke()
                        yield item
                    case ModelAnswer():
                        measured.answered()
                        cost = cost_micro_usd(item.usage, price) if price else 0
                        yield PricedAnswer(
                            answer=item, cost_micro_usd=cost, priced=price is not None, model=candidate.name
                        )
                        return
            raise Fault("MODEL_STREAM_ENDED", "The model's answer ended without an end.", "Try again.")


def _meaning(route: Route) -> Meaning:
    return Meaning(route.strategy, models=route.models)
