"""A served house on a scripted provider, with agents made for a test; what several tests of execution share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.server.cli.remote import Remote
from tests.support.provider import ScriptedProvider, Step
from tests.support.served import Served, served

TENANT = "acme"
CALLER = Principal(tenant=TENANT, subject="caller", scopes=TENANT_SCOPES)


@dataclass(frozen=True)
class Scripted:
    """The house, its client, and the provider it asks."""

    served: Served
    remote: Remote
    provider: ScriptedProvider

    @property
    def space(self) -> TenantSpace:
        """The tenant's own space, for looking behind the surface."""
        return self.served.house.tenancy.of(CALLER)

    async def run(self, agent: str, prompt: str, **more: Any) -> dict[str, Any]:
        """One call of `agent_execute`."""
        return await self.remote.call("agent_execute", {"agent": agent, "prompt": prompt, **more})

    async def events(self, execution_id: str) -> list[dict[str, Any]]:
        """The whole log, as its readers see it."""
        page = await self.remote.call("execution_events", {"execution_id": execution_id, "limit": 1000})
        return list(page["events"])


@asynccontextmanager
async def scripted(folder: Path, *steps: Step, workers: int = 1, **sections: Any) -> AsyncIterator[Scripted]:
    """A house whose only model is `scripted`, at a price of 1 and 10 micro-USD a token."""
    async with ScriptedProvider(list(steps)) as provider:
        model = {
            "name": "scripted",
            "litellm_model": "openai/scripted",
            "api_base": provider.api_base,
            "wire": "openai",
            "input_micro_usd_per_mtok": 1_000_000,
            "output_micro_usd_per_mtok": 10_000_000,
        }
        async with (
            served(folder, workers=workers, models=[model], **sections) as running,
            running.remote(TENANT) as remote,
        ):
            await remote.call(
                "tool_server_add", {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools"}
            )
            yield Scripted(running, remote, provider)
