"""Spaces of two tenants over one store in memory."""

from typing import Any, cast

import pytest

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.store import Store
from mcp_agents.kernel.tenancy import Doors, Tenancy, TenantSpace
from tests.support.clock import TestClock


def space_of(store: Store, clock: Clock, tenant: str) -> TenantSpace:
    """A tenant's space over a store and nothing else."""
    nothing = cast("Any", None)
    doors = Doors(store, nothing, nothing, nothing, nothing, clock, NoFaults())
    return Tenancy(doors).of(Principal(tenant=tenant, subject="s", scopes=frozenset()))


class Counted(MemoryStore):
    """The memory store, counting what is asked of the ledger; it can be told to lose the next writes' answers."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked = 0
        self.written = 0
        self.failing: list[Exception] = []

    async def get(self, bucket: Any, key: str) -> Any:
        self.asked += bucket == "cb_ledger"
        return await super().get(bucket, key)

    async def write(self, bucket: Any, key: str, value: bytes, *, revision: int, ttl: int = 0) -> int:
        self.written += bucket == "cb_ledger"
        written = await super().write(bucket, key, value, revision=revision, ttl=ttl)
        if bucket == "cb_ledger" and self.failing:
            raise self.failing.pop()
        return written


@pytest.fixture
def store(clock: TestClock) -> Counted:
    """One store."""
    return Counted(clock)


@pytest.fixture
def space(store: Counted, clock: TestClock) -> TenantSpace:
    """A tenant's space."""
    return space_of(store, clock, "acme")


@pytest.fixture
def other(store: Counted, clock: TestClock) -> TenantSpace:
    """Another tenant's."""
    return space_of(store, clock, "globex")
