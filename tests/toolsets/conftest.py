"""The tool server rooms over a store in memory, with real tool servers behind them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from mcp_agents_auth.embedded import build_auth
from mcp_agents_auth.run_tokens import RunTokens
from mcp_agents_tools.toolsets.credentials import Credentials
from mcp_agents_tools.toolsets.hub import UpstreamHub
from mcp_agents_tools.toolsets.oauth import OauthClient
from mcp_agents_tools.toolsets.servers import StdioPolicy, StoredToolServers
from mcp_agents_tools.toolsets.sign_ins import SignIns
from mcp_agents_tools.toolsets.toolbox import UpstreamToolsets

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Doors, Tenancy, TenantSpace
from mcp_agents.kernel.toolset import Invocation, Outcome
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.keys import MasterKey, Vault
from mcp_agents.security.secrets import TenantSecrets
from tests.support.clock import TestClock

ADMIN = Principal(tenant="acme", subject="ann", scopes=frozenset({"toolservers:admin", "toolservers:write"}))
WRITER = Principal(tenant="acme", subject="bob", scopes=frozenset({"toolservers:write"}))
STRANGER = Principal(tenant="other", subject="eve", scopes=frozenset({"toolservers:admin"}))
HOME = "http://127.0.0.1:1"
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@dataclass
class House:
    """What a test needs, and shortcuts to it."""

    clock: TestClock
    store: MemoryStore
    hub: UpstreamHub
    secrets: TenantSecrets
    identities: RunTokens
    tenancy: Tenancy

    def servers(self, stdio: StdioPolicy = "trusted") -> StoredToolServers:
        """The servers under a policy."""
        oauth = OauthClient(self.hub.egress)
        kept = Credentials(self.secrets, oauth, self.clock)
        sign_ins = SignIns(kept, oauth, self.identities, self.secrets, self.clock, HOME)
        return StoredToolServers(self.hub, self.secrets, sign_ins, self.clock, stdio=stdio)

    def toolsets(self, stdio: StdioPolicy = "trusted") -> UpstreamToolsets:
        """The toolsets over them."""
        return UpstreamToolsets(self.hub, self.servers(stdio))

    def space(self, principal: Principal = ADMIN) -> TenantSpace:
        """A caller's space."""
        return self.tenancy.of(principal)

    async def call(
        self, tool: str, arguments: dict[str, Any] | None = None, *, principal: Principal = ADMIN, timeout: float = 20.0
    ) -> Outcome:
        """Opens everything of the server in `server__tool` and calls that tool once."""
        bindings = (f"{tool.split('__')[0]}/*",)
        async with self.toolsets().open(self.space(principal), principal, bindings) as toolset:
            return await toolset.call(invocation(tool, arguments or {}, timeout=timeout))


def invocation(tool: str, arguments: dict[str, Any], *, timeout: float = 20.0) -> Invocation:
    """A call as the loop makes it."""
    return Invocation(
        effect_id="eff_1",
        tool=tool,
        arguments=arguments,
        execution_id="ex_1",
        traceparent=TRACE,
        timeout=timeout,
        depth=2,
    )


@pytest.fixture
async def house(clock: TestClock) -> AsyncIterator[House]:
    """Open rooms of a loopback deployment."""
    store = MemoryStore(clock)
    doors = Doors(
        store=store,
        log=cast(Any, None),
        queue=cast(Any, None),
        bus=cast(Any, None),
        objects=cast(Any, None),
        clock=clock,
        faults=NoFaults(),
    )
    vault, tenancy = Vault(MasterKey(b"m" * 32)), Tenancy(doors)
    auth = build_auth(tenancy.platform(), vault, clock, "https://agents.example", "https://agents.example/mcp")
    async with UpstreamHub(AddressRule(allow_private=True), clock=clock, connect_seconds=10.0) as hub:
        yield House(clock, store, hub, TenantSecrets(vault, clock), auth.identities, tenancy)
