"""A served house with tools whose effects are counted, and clients of every kind for it."""

import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestParams, ElicitResult, Implementation
from msgspec import Struct

from mcp_agents.kernel.events import Entry, ToolClaimed, ends
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tenancy import TenantSpace
from tests.support.counted_tools import CountedTools
from tests.support.served import Served, served

TENANT = "acme"
ROOT = Path(__file__).parents[2]


class _Undelivered(Struct):
    execution_id: str


@dataclass(frozen=True)
class Run:
    """What one cell of a test asks for: its own agent, so that its runs can be counted."""

    agent: str
    place: str
    prompt: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `agent_execute`."""
        return {"agent": self.agent, "prompt": self.prompt}


@dataclass
class Asked:
    """What a client's person was asked, and what they answer."""

    action: str = "accept"
    content: dict[str, Any] = field(default_factory=lambda: {"happened": True, "result": "Order 17."})
    messages: list[str] = field(default_factory=list)

    async def __call__(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
        self.messages.append(params.message)
        return ElicitResult.model_validate({"action": self.action, "content": self.content or None})


@dataclass(frozen=True)
class Workshop:
    """The house, the tools it calls, and ways to call it."""

    served: Served
    tools: CountedTools
    folder: Path
    token: str

    @property
    def space(self) -> TenantSpace:
        """The tenant's own space, for looking behind the surface."""
        return self.served.house.tenancy.of(Principal(tenant=TENANT, subject="test", scopes=TENANT_SCOPES))

    async def run(self, kind: str) -> Run:
        """A run to ask for: `quick`, `long` (until its turn is opened) or `asking` (what became of its call)."""
        place = f"{kind}-{secrets.token_hex(4)}"
        tools = ["fragile/*"] if kind == "asking" else ["counted/*"]
        policy = {"unknown_effects": "ask_person"}
        agent = {"name": place, "virtual_model": "rule-based", "tools": tools, "policy": policy}
        async with self.served.remote(TENANT) as remote:
            await remote.call("agent_create", agent)
        if kind == "asking":
            call, arguments = "fragile__break", {"note": place}
        elif kind == "long":
            call, arguments = "counted__record_in_turn", {"place": place, "turn": 1}
        else:
            call, arguments = "counted__record", {"place": place}
        return Run(place, place, f"call {call} with {json.dumps(arguments)}")

    def effects(self, run: Run) -> int:
        """How often the run's call took effect."""
        broken = self.folder / "broken"
        lines = broken.read_text("utf-8").split() if broken.is_file() else []
        return len(self.tools.effects(run.place)) + lines.count(run.place)

    async def executions(self, run: Run) -> list[str]:
        """Every execution that there is of the run."""
        async with self.served.remote(TENANT) as remote:
            page = await remote.call("execution_list", {"agent": run.agent})
        return [each["execution_id"] for each in page["executions"]]

    async def entries(self, execution_id: str) -> list[Entry]:
        """The log of a run."""
        _, entries = await self.space.log(execution_id).read()
        return entries

    async def undelivered(self) -> list[str]:
        """The executions that are known to have lost their caller."""
        return [found.value.execution_id for found in await self.space.records("cb_joins", _Undelivered).all()]

    async def until_called(self, run: Run) -> str:
        """Waits until the run's call is on its way; its execution."""
        with anyio.fail_after(20):
            while True:
                for execution_id in await self.executions(run):
                    if any(isinstance(entry.event, ToolClaimed) for entry in await self.entries(execution_id)):
                        return execution_id
                await anyio.sleep(0.02)

    async def until_ended(self, execution_id: str) -> str:
        """Waits until the run has ended; how."""
        with anyio.fail_after(20):
            while not ends(await self.entries(execution_id)):
                await anyio.sleep(0.02)
        view = await self.served.house.services.dispatcher.view(self.space, execution_id)
        return view.status

    async def whole(self, run: Run, *, status: str = "completed") -> None:
        """One execution, one end, and one effect: nothing is lost and nothing is done twice."""
        (execution_id,) = await self.executions(run)
        assert await self.until_ended(execution_id) == status
        final = [entry for entry in await self.entries(execution_id) if ends([entry])]
        assert len(final) == 1
        assert self.effects(run) == 1

    @asynccontextmanager
    async def client(
        self,
        era: str,
        *,
        asked: Asked | None = None,
        name: str = "matrix",
        url: str = "",
        path: str = "/mcp/all",
        token: str = "",
        **more: Any,
    ) -> AsyncIterator[Client]:
        """The official client in one era; with `asked` it shows questions to a person."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        info = Implementation(name=name, version="1")
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
            Client(
                streamable_http_client((url or self.served.url) + path, http_client=http),
                mode="legacy" if era == "legacy" else "2026-07-28",
                client_info=info,
                elicitation_callback=asked,
                **more,
            ) as client,
        ):
            yield client


@asynccontextmanager
async def workshop(folder: Path, **sections: Any) -> AsyncIterator[Workshop]:
    """A house with both tool servers."""
    async with CountedTools() as tools, served(folder / "data", **sections) as running:
        async with running.remote(TENANT) as remote:
            await remote.call("tool_server_add", {"name": "counted", "transport": "http", "url": tools.url})
            fragile = {
                "name": "fragile",
                "transport": "stdio",
                "command": sys.executable,
                "args": ["-m", "tests.support.fragile_tools", str(folder / "broken")],
                "env": {"PYTHONPATH": str(ROOT)},
            }
            await remote.call("tool_server_add", fragile)
        yield Workshop(running, tools, folder, await running.token(TENANT))
