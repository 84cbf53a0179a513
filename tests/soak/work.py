"""What the runs of the trial do: their agents, and what the scripted provider answers them.

Every run says in its prompt which kind it is, which the provider's steps go by, and whose it is, so that the
provider's requests can be counted for each run. Nothing here depends on chance.
"""

import json
import re
from typing import Any, Final

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.toolserver import ToolServerSpec
from mcp_agents.scaling.budgets import Budget
from mcp_agents.scaling.quotas import Allowance
from mcp_agents.server.compose import House
from tests.support.provider import Call, Step

TEXT: Final = "It is done and over, and this is all there is to say of it."
PLACE: Final = "soak"
COUNTED: Final = "counting"
"""Whose the model calls of all called agents are: the script gives them one prompt."""
TENANTS: Final = ("free", "metered", "bounded")
"""Without limits; with a budget, so that every call is reserved; with a quota, so that every run takes a slot."""
SLOTS: Final = 30

_TOOL_SECONDS: Final = 0.06
_PAUSE: Final = 0.015
_OF: Final = re.compile(r"^<\w+> of (\w+)\.$")

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "tool": ("counted",),
    "safe": ("trusted",),
    "parallel": ("counted", "trusted", "counted"),
    "stream": (),
    "parent": ("agent",),
}
"""Every kind of run, and where its calls go: to the server that is not believed, the one that is, or an agent."""


def caller(tenant: str) -> Principal:
    """Who asks."""
    return Principal(tenant=tenant, subject="caller", scopes=TENANT_SCOPES)


def order(kind: str, key: str, *, submitted: bool) -> Order:
    """What a client asks for under this key."""
    return Order(
        agent=kind, prompt=f"<{kind}> of {key}.", idempotency_key=key, metadata={"key": key}, submitted=submitted
    )


def steps() -> list[Step]:
    """What the provider answers, any number of times."""
    found = [Step(when=f"<{COUNTED}>", times=0, text="Counted.", pause=_PAUSE)]
    for kind, servers in CALLS.items():
        if calls := [_call(server, number) for number, server in enumerate(servers, 1)]:
            found.append(Step(when=f"<{kind}>", turn=0, times=0, text="I begin.", calls=calls, pause=_PAUSE))
        found.append(Step(when=f"<{kind}>", turn=1 if calls else 0, times=0, text=TEXT, pause=_PAUSE))
    return found


def asked_by(request: dict[str, Any]) -> str:
    """Whose model call a request is: a client's key, or `COUNTED`."""
    said = next(str(message["content"]) for message in request["messages"] if message["role"] == "user")
    found = _OF.match(said)
    assert found, f"a prompt that nobody gave: {said}"
    return found[1]


async def furnish(house: House, tools_url: str) -> None:
    """The tool server twice, once believed when it says what may be repeated, the agents, and the limits."""
    for tenant in TENANTS:
        space = house.tenancy.of(caller(tenant))
        for name, trusted in (("counted", False), ("trusted", True)):
            spec = ToolServerSpec(name=name, transport="http", url=tools_url, trust_annotations=trusted)
            await house.services.tool_servers.add(space, caller(tenant), spec)
        for name, servers in {"counter": (), **CALLS}.items():
            bindings = ["agent:counter" if each == "agent" else f"{each}/record_slowly" for each in sorted({*servers})]
            draft = AgentDraft.model_validate({"name": name, "virtual_model": "scripted", "tools": bindings})
            await house.services.agents.create(space, draft)
    metered, bounded = (house.tenancy.of(caller(tenant)) for tenant in TENANTS[1:])
    await house.services.budgets.set(metered, Budget(scope="tenant", period="total", limit_tokens=10**15), None)
    await house.services.quotas.set(bounded, "", Allowance(max_concurrent=SLOTS), None)


def _call(server: str, number: int) -> Call:
    if server == "agent":
        return Call(name="agent__counter", arguments=json.dumps({"prompt": f"<{COUNTED}> of {COUNTED}."}))
    arguments = json.dumps({"place": PLACE, "seconds": _TOOL_SECONDS * number})
    return Call(name=f"{server}__record_slowly", arguments=arguments)
