"""The catalog over a store in memory, with spaces of two tenants."""

from typing import Any, cast

import pytest

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.agents.catalog import AgentCatalog, Checks
from mcp_agents.agents.spec import AgentDraft
from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Doors, Tenancy, TenantSpace
from tests.support.clock import TestClock


class Rooms:
    """A catalog, whose tools are those of the server `box`."""

    def __init__(self, clock: TestClock) -> None:
        nothing = cast("Any", None)
        self.store = MemoryStore(clock)
        doors = Doors(self.store, nothing, nothing, nothing, nothing, clock, NoFaults())
        self.catalog = AgentCatalog(clock, Checks(model=self.check_model, unknown=self.unknown))
        self.own, self.other = (
            Tenancy(doors).of(Principal(tenant=tenant, subject="s", scopes=frozenset())) for tenant in ("a", "b")
        )
        self.gone_models = {"nonsense"}
        self.boxed = {"box/*", "box/look", "box/put"}

    async def check_model(self, space: TenantSpace, name: str) -> None:
        if name in self.gone_models:
            raise Invalid("MODEL_UNKNOWN", "There is no such model.")

    async def unknown(self, space: TenantSpace, bindings: tuple[str, ...]) -> list[str]:
        return [binding for binding in bindings if binding not in self.boxed]


@pytest.fixture
def rooms(clock: TestClock) -> Rooms:
    """One catalog."""
    return Rooms(clock)


def draft(**fields: Any) -> AgentDraft:
    """An agent named `helper`, unless it says otherwise."""
    return AgentDraft.model_validate({"name": "helper", **fields})
