"""Two tenants of one served house and what they own, made for one comparison and never shared."""

import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp.server.mcpserver import MCPServer

from mcp_agents.execution import approving
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import Run
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.events import (
    START,
    AnyEvent,
    ApprovalRequested,
    Caller,
    Failed,
    HandedOff,
    InputRequested,
    ModelAnswered,
    Problem,
    Started,
    ToolClaimed,
)
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.principal import Principal
from mcp_agents.server.compose import House
from tests.hostile.wire import Wire, browserless
from tests.support.served import Served, served
from tests.support.tool_servers.served import mcp_app
from tests.support.tool_servers.served import served as upstream_served

TWIN = "twin"
"""An agent's name that every tenant gives one of its own."""
PROVIDER = "remote"
"""The provider of a configured model that nobody asks: a tenant may have a key for it."""
ADMIN = frozenset({"admin"})
MODELS = (
    {"name": "rule-based", "litellm_model": "rule-based"},
    {"name": "never-asked", "litellm_model": f"{PROVIDER}/never-asked", "api_base": "http://127.0.0.1:9/v1"},
)


def fresh(kind: str) -> str:
    """A name that was never used."""
    return f"{kind}-{secrets.token_hex(6)}"


@dataclass
class Upstream:
    """A real tool server: one tool that echoes, one that is entered and not left unless a test says so."""

    url: str = ""
    entered: dict[str, anyio.Event] = field(default_factory=dict)
    left: dict[str, anyio.Event] = field(default_factory=dict)

    def server(self) -> MCPServer:
        """The tools."""
        made = MCPServer("upstream", log_level="ERROR")

        def echo(text: str) -> str:
            """Says it again."""
            return text

        async def stay(mark: str) -> str:
            """Answers when it may."""
            self.left[mark] = anyio.Event()
            self.entered[mark].set()
            await self.left[mark].wait()
            return f"left {mark}"

        made.add_tool(echo)
        made.add_tool(stay)
        return made


EFFECT = "eff_06f0a1b2c3d4e5f6g7h8i9jkln"
"""The effect of every run that waits to be told about one."""
APPROVAL = "apr_06f0a1b2c3d4e5f6g7h8i9jkln"
"""The approval that every run of `deciding` waits for."""


class Tenant:
    """A tenant with every right; all it writes holds its name, which is the canary."""

    def __init__(self, name: str, wire: Wire, upstream: Upstream, house: House) -> None:
        self.name, self.wire, self.upstream, self._house = name, wire, upstream, house
        self.owned: set[str] = set()
        self._once: dict[str, str] = {}

    async def agent(self, name: str = "", **more: Any) -> dict[str, Any]:
        """A new agent whose texts hold the canary."""
        draft = {
            "name": name or fresh("agent"),
            "description": f"for {self.name}",
            "system_prompt": f"say I serve {self.name}",
            "capabilities": [self.name],
            "tags": [self.name],
            "metadata": {"owner": self.name},
            **more,
        }
        made = (await self.wire.call("agent_create", draft)).value
        self.owned |= {made["id"], made["name"]} - {TWIN}
        return made

    async def twin(self) -> str:
        """The id of this tenant's agent named `twin`."""
        if TWIN not in self._once:
            self._once[TWIN] = (await self.agent(TWIN))["id"]
        return self._once[TWIN]

    async def spare(self) -> str:
        """The id of an agent that is here to be changed."""
        if "spare" not in self._once:
            self._once["spare"] = (await self.agent())["id"]
        return self._once["spare"]

    async def finished(self, **more: Any) -> str:
        """The id of a run that is over."""
        order = {"agent": await self.twin(), "prompt": f"say done for {self.name}", **more}
        run = (await self.wire.call("agent_execute", order)).value
        assert run["status"] == "completed", run
        self.owned.add(run["execution_id"])
        return str(run["execution_id"])

    async def session(self) -> str:
        """The id of a session in which something was said, twice."""
        order = {"agent": await self.twin(), "metadata": {"owner": self.name}}
        session = str((await self.wire.call("session_create", order)).value["session_id"])
        self.owned.add(session)
        for _ in range(2):
            await self.finished(session_id=session)
        await self.wire.call("session_get", {"session_id": session})
        return session

    async def memory(self) -> str:
        """The id of what an agent remembers about whoever calls it."""
        tools = ["builtin/remember", "builtin/recall", "builtin/forget"]
        agent = await self.agent(tools=tools)
        call = f'call builtin__remember with {{"text": "Works for {self.name}.", "term": "long"}}'
        run = (await self.wire.call("agent_execute", {"agent": agent["id"], "prompt": call})).value
        assert run["status"] == "completed", run
        kept = (await self.wire.call("memory_list", {"agent": agent["id"]})).value["memories"][0]["memory_id"]
        self.owned |= {run["execution_id"], kept}
        return str(kept)

    async def running(self) -> str:
        """The id of a run that is inside a tool which never answers."""
        server, mark = await self.server(), fresh("mark")
        agent = await self.agent(tools=[f"{server}/stay"])
        entered = self.upstream.entered[mark] = anyio.Event()
        prompt = f'call {server}__stay with {{"mark": "{mark}"}}'
        run = (await self.wire.call("agent_submit", {"agent": agent["id"], "prompt": prompt})).value
        with anyio.fail_after(20):
            await entered.wait()
        self.owned.add(run["execution_id"])
        return str(run["execution_id"])

    async def shared(self) -> str:
        """The id of a finished run that shares its text."""
        execution_id = await self.finished()
        await self.wire.call("execution_share", {"execution_id": execution_id, "parts": ["text"]})
        return execution_id

    async def given_up(self) -> str:
        """The id of a run that lost its worker too often."""
        problem = Problem(kind="Exhausted", code="ATTEMPTS_EXHAUSTED", public="It lost its worker too often.")
        return await self._left([Started(worker="w", attempt=5), Failed(problem=problem)])

    async def asking(self) -> str:
        """The id of a run that waits to be told what became of a call, whose effect id is `EFFECT`."""
        call = ToolCall(call_id="c1", tool="gone__tool")
        return await self._left(
            [
                Started(worker="w", attempt=1),
                ModelAnswered(turn=1, model="m", tool_calls=(call,)),
                ToolClaimed(effect_id=EFFECT, call_id="c1", tool=call.tool, digest="d"),
                InputRequested(effect_id=EFFECT, question="Did it happen?"),
                HandedOff(to=()),
            ]
        )

    async def approval(self) -> str:
        """The id of an approval for which a run waits."""
        approval_id = ids.mint("apr", self._house.tenancy.clock)
        await self.deciding(approval_id)
        self.owned.add(approval_id)
        return approval_id

    async def deciding(self, approval_id: str = APPROVAL) -> str:
        """The id of a run that waits for this approval."""
        caller = Principal(tenant=self.name, subject="caller", scopes=frozenset())
        agent = (await self._house.services.agents.get(self._house.tenancy.of(caller), await self.twin())).value
        call = ToolCall(call_id="c1", tool="gone__tool")
        asked = ApprovalRequested(
            approval_id=approval_id,
            call_id="c1",
            tool=call.tool,
            digest="d",
            binding=approving.binding(Caller.of(caller), call, agent),
            message=f"May it, {self.name}?",
            expires_at=self._house.tenancy.clock.now() + timedelta(hours=1),
        )
        return await self._left(
            [
                Started(worker="w", attempt=1),
                ModelAnswered(turn=1, model="m", tool_calls=(call,)),
                asked,
                HandedOff(to=()),
            ]
        )

    async def _left(self, events: list[AnyEvent]) -> str:
        """A run of this tenant's twin as a worker would leave it behind."""
        caller = Principal(tenant=self.name, subject="caller", scopes=frozenset())
        space = self._house.tenancy.of(caller)
        agent = (await self._house.services.agents.get(space, await self.twin())).value
        execution_id = ids.mint("ex", self._house.tenancy.clock)
        order = Order(agent=agent.id, prompt=f"say done for {self.name}", submitted=True)
        _, entries = await space.log(execution_id).append(START, [order.requested(agent, caller), *events])
        run = Run.folded(execution_id, entries)
        if run.finished:
            await self._house.services.archive.ended(space, run)
        await self._house.services.register.sync(space, run)
        self.owned.add(execution_id)
        return execution_id

    async def route(self) -> str:
        """The name of a new virtual model."""
        made = (
            await self.wire.call("model_route_set", {"virtual_model": fresh("route"), "models": ["rule-based"]})
        ).value
        self.owned.add(made["virtual_model"])
        return str(made["virtual_model"])

    async def member(self) -> tuple[str, str]:
        """A member's id and address; beside it the tenant has an administrator who stays."""
        users = self._house.auth.users
        if "admin" not in self._once:
            admin = await users.create(f"{fresh('admin')}@a.example", fresh("password"), self.name, ADMIN)
            self._once["admin"] = admin.id
        roles = frozenset({"viewer", "operator"})
        made = await users.create(f"{fresh('member')}@a.example", fresh("password"), self.name, roles)
        self.owned |= {made.id, made.email}
        return made.id, made.email

    async def invitation(self) -> str:
        """The id of an open invitation."""
        address = f"{fresh('invited')}@a.example"
        made = (await self.wire.call("user_invite", {"email": address, "roles": ["viewer"]})).value["invitation"]
        self.owned |= {made["id"], address}
        return str(made["id"])

    async def client(self) -> str:
        """The id of a new client."""
        order = {"name": fresh("client"), "roles": ["viewer"], "credentials": True}
        made = (await self.wire.call("client_register", order)).value["client"]
        self.owned |= {made["id"], made["name"]}
        return str(made["id"])

    async def signed_server(self, credentials: str = "agent") -> str:
        """The name of a new tool server at which agents, or people, have credentials of their own."""
        auth = {"type": "bearer", "credentials": credentials, "token": "a-token"}
        spec = {"name": fresh("server"), "transport": "http", "url": self.upstream.url, "auth": auth}
        made = (await self.wire.call("tool_server_add", spec)).value
        self.owned.add(made["name"])
        return str(made["name"])

    async def server(self, name: str = "") -> str:
        """The name of a new tool server."""
        spec = {"name": name or fresh("server"), "transport": "http", "url": self.upstream.url}
        made = (await self.wire.call("tool_server_add", spec)).value
        self.owned.add(made["name"])
        return str(made["name"])


@dataclass
class World:
    """A served house and its tenants."""

    served: Served
    http: httpx2.AsyncClient
    upstream: Upstream
    _numbers: Any = field(default_factory=itertools.count)

    async def tenant(self) -> Tenant:
        """A new tenant that owns nothing yet."""
        name = f"t{next(self._numbers)}-{secrets.token_hex(6)}"
        auth = self.served.house.auth
        await auth.tenants.create(name)
        token = (await auth.tokens.issue_direct(name)).access_token
        return Tenant(name, Wire(self.http, self.served.url, token), self.upstream, self.served.house)


@asynccontextmanager
async def world(folder: Path, clock: Clock | None = None) -> AsyncIterator[World]:
    """Everything open."""
    upstream = Upstream()
    async with upstream_served(mcp_app(upstream.server())) as port:
        upstream.url = f"http://127.0.0.1:{port}/mcp"
        async with served(folder, models=MODELS, clock=clock) as house, browserless() as http:
            yield World(house, http, upstream)
