"""What the tests of choosing and asking share: a book of prices, scripted clients, a router with spaces."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, cast

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.adapters.rule_model import RuleModel
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, Price, TextDelta
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Doors, Tenancy, TenantSpace
from mcp_agents.models.catalog import ConfiguredModel
from mcp_agents.models.keys import ProviderKeys
from mcp_agents.models.router import Demand, ModelRouter, PricedAnswer, Setback
from mcp_agents.security.keys import MasterKey, Vault
from mcp_agents.security.secrets import TenantSecrets
from tests.models.asking import CANARY, user
from tests.support.clock import TestClock


class Book:
    """A price book of two models."""

    def price(self, model: str) -> Price | None:
        known = {"p/dear": (3_000_000, 15_000_000, 300_000), "q/cheap": (100_000, 400_000, 10_000)}
        if model not in known:
            return None
        paid, output, cached = known[model]
        return Price(
            input_micro_usd_per_mtok=paid,
            output_micro_usd_per_mtok=output,
            cached_micro_usd_per_mtok=cached,
            context_window=100,
            max_output_tokens=10,
        )


DEAR = ConfiguredModel(
    name="dear", wire="litellm", provider_model="p/dear", tasks=("coding",), api_base="http://x", api_key=CANARY
)
UNKNOWN = ConfiguredModel(name="unknown", wire="litellm", provider_model="p/unknown", tasks=("analysis", "coding"))
CHEAP = ConfiguredModel(name="cheap", wire="litellm", provider_model="q/cheap", tasks=("general_chat",))

Item = TextDelta | ModelAnswer | AgentsError | float
"""What a script says: a piece, the answer, an error, or seconds that pass."""


class Scripted:
    """A model that plays the next script of the model it is asked for; without one it answers with its name."""

    def __init__(self, clock: TestClock | None = None, **scripts: Iterable[Iterable[Item]]) -> None:
        """`scripts` by provider model, `__` for `/`."""
        self._clock = clock
        self.scripts = defaultdict(list, {name.replace("__", "/"): [*each] for name, each in scripts.items()})
        self.asked: list[ModelRequest] = []
        self.open = 0
        self.always: Callable[[ModelRequest], Iterable[Item]] = lambda request: [ModelAnswer(text=request.model)]

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        self.asked.append(request)
        left = self.scripts[request.model]
        self.open += 1
        try:
            for item in left.pop(0) if left else self.always(request):
                if isinstance(item, AgentsError):
                    raise item
                if isinstance(item, float):
                    assert self._clock
                    self._clock.advance(item)
                else:
                    yield item
        finally:
            self.open -= 1

    @property
    def models(self) -> list[str]:
        """Who was asked, in order."""
        return [request.model for request in self.asked]


class Desk:
    """A router over the memory store, with a clock that its pauses move."""

    def __init__(self, *models: ConfiguredModel, client: Scripted | None = None, **virtual: tuple[str, ...]) -> None:
        """`virtual` names with `__` for `:`."""
        self.clock = TestClock()
        self.client = client or Scripted()
        self.client._clock = self.clock
        self.slept: list[float] = []
        nothing = cast("Any", None)
        self.store = MemoryStore(self.clock)
        doors = Doors(self.store, nothing, nothing, nothing, nothing, self.clock, NoFaults())
        self._tenancy = Tenancy(doors)
        self.space = self.of("a")
        self.router = ModelRouter(
            models,
            {name.replace("__", ":"): targets for name, targets in virtual.items()},
            Book(),
            {"litellm": self.client, "rule": RuleModel()},
            keys=ProviderKeys(TenantSecrets(Vault(MasterKey(b"k" * 32)), self.clock), self.clock),
            clock=self.clock,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)

    def of(self, tenant: str) -> TenantSpace:
        """A tenant's space."""
        return self._tenancy.of(Principal(tenant=tenant, subject="s", scopes=frozenset()))

    async def first(self, name: str, space: TenantSpace | None = None, **more: Any) -> str:
        """The model that a name stands for now."""
        choice = await self.router.choose(space or self.space, Demand(virtual_model=name, **more))
        return choice.candidates[0].name

    async def ask(
        self, name: str, space: TenantSpace | None = None, **more: Any
    ) -> list[TextDelta | Setback | PricedAnswer]:
        """Chooses and asks; everything that came."""
        demand = Demand(virtual_model=name, messages=more.pop("messages", (user("x"),)), **more)
        where = space or self.space
        choice = await self.router.choose(where, demand)
        return [item async for item in self.router.ask(where, choice, demand)]
