"""The house's own tools beside those of tool servers: offered by binding, and each agent's state its own."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from mcp_agents_tools.toolsets.builtin import Rooms
from mcp_agents_tools.toolsets.composite import CompositeToolsets
from mcp_agents_tools.toolsets.servers import DEMO_COMMAND

from mcp_agents.adapters.tiktoken_counter import TiktokenCounter
from mcp_agents.agents.spec import Agent, Limits
from mcp_agents.agents.state import AgentStates
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.toolserver import ToolServerSpec
from mcp_agents.kernel.toolset import Outcome, Refused, Returned
from mcp_agents.sessions.book import SessionBook
from mcp_agents.sessions.memory import Memories
from tests.toolsets.conftest import ADMIN, STRANGER, House, invocation

EVERY = ("builtin/*",)


def toolsets(house: House) -> CompositeToolsets:
    """Everything an agent can be bound to."""
    return CompositeToolsets(
        house.toolsets(),
        Rooms(AgentStates(house.clock), SessionBook(TiktokenCounter(), house.clock), Memories(house.clock)),
    )


async def an_agent(house: House, principal: Principal = ADMIN) -> str:
    """The id of an agent of the caller's tenant."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    agent = Agent(
        id=ids.mint("ag", house.clock),
        tenant_id=principal.tenant,
        name="helper",
        description="",
        system_prompt="",
        virtual_model="auto",
        temperature=None,
        max_tokens=None,
        tools=EVERY,
        capabilities=(),
        tags=(),
        metadata={},
        limits=Limits(),
        created_at=at,
        updated_at=at,
        is_active=True,
        version=1,
    )
    await house.space(principal).records("cb_agents", Agent).create(agent.id, value=agent)
    return agent.id


async def call(
    house: House, acting: Principal, tool: str, arguments: dict[str, Any], effect_id: str = "eff_1"
) -> Outcome:
    """One call of a built-in tool by whoever acts last."""
    async with toolsets(house).open(house.space(acting), acting, EVERY) as toolset:
        return await toolset.call(replace(invocation(f"builtin__{tool}", arguments), effect_id=effect_id))


EVERYTHING = ["builtin__ask_user", "builtin__search_session", "builtin__state_get", "builtin__state_set"]


async def test_built_in_tools_stand_beside_those_of_servers(house: House) -> None:
    """Under names of their own, by binding, and both can be called."""
    await house.servers().add(
        house.space(), ADMIN, ToolServerSpec(name="demo", transport="stdio", command=DEMO_COMMAND)
    )
    acting = ADMIN.acting(await an_agent(house))
    for bindings, names in (
        (("builtin/*",), EVERYTHING),
        (("builtin/state_get", "demo/add"), ["builtin__state_get", "demo__add"]),
        (("builtin/*", "builtin/state_set"), EVERYTHING),
        (("demo/add", "builtin/gone"), ["demo__add"]),
        ((), []),
    ):
        async with toolsets(house).open(house.space(), acting, bindings) as toolset:
            assert [tool.name for tool in toolset.tools] == names
    async with toolsets(house).open(house.space(), acting, ("builtin/*", "demo/*")) as toolset:
        assert isinstance(await toolset.call(invocation("demo__add", {"a": 1, "b": 2})), Returned)
        assert isinstance(await toolset.call(invocation("builtin__state_get", {})), Returned)
        gone = await toolset.call(invocation("builtin__gone", {}))
        assert isinstance(gone, Refused)
        assert gone.code == "TOOL_NOT_FOUND"


async def test_a_tool_that_was_not_bound_cannot_be_called(house: House) -> None:
    """Bound to reading alone, an agent cannot write."""
    acting = ADMIN.acting(await an_agent(house))
    async with toolsets(house).open(house.space(), acting, ("builtin/state_get",)) as toolset:
        outcome = await toolset.call(invocation("builtin__state_set", {"changes": {"a": 1}}))
    assert isinstance(outcome, Refused)
    assert outcome.code == "TOOL_NOT_FOUND"
    assert await call(house, acting, "state_get", {}) == Returned(text="{}", structured={"state": {}, "revision": 0})


async def test_unknown_bindings_are_named_in_the_order_given(house: House) -> None:
    """Of both sides."""
    bindings = ("builtin/*", "builtin/gone", "demo/x", "builtin/state_get", "builtin/", "nonsense")
    assert await toolsets(house).unknown(house.space(), bindings) == ["builtin/gone", "demo/x", "builtin/", "nonsense"]


async def test_what_is_set_is_read_back_and_may_be_sent_again(house: House) -> None:
    """The same effect id changes nothing more; both tools say that they may be repeated."""
    acting = ADMIN.acting(await an_agent(house))
    first = await call(house, acting, "state_set", {"changes": {"n": 1, "gone": True}}, "eff_1")
    assert isinstance(first, Returned)
    assert first.structured["state"] == {"n": 1, "gone": True}
    await call(house, acting, "state_set", {"changes": {"n": 2, "gone": None}}, "eff_2")
    again = await call(house, acting, "state_set", {"changes": {"n": 1, "gone": True}}, "eff_1")
    read = await call(house, acting, "state_get", {})
    assert isinstance(read, Returned)
    assert read.structured["state"] == {"n": 2}
    assert again == read
    async with toolsets(house).open(house.space(), acting, EVERY) as toolset:
        assert all(tool.repeatable for tool in toolset.tools)


async def test_the_state_is_that_of_the_acting_agent_alone(house: House) -> None:
    """The last of the chain; neither its caller's, nor another tenant's, nor one that an argument names."""
    first, second = await an_agent(house), await an_agent(house)
    await call(house, ADMIN.acting(first), "state_set", {"changes": {"secret": 1}})
    for acting in (ADMIN.acting(first).acting(second), STRANGER.acting(first)):
        outcome = await call(house, acting, "state_get", {"agent_id": first})
        assert isinstance(outcome, Returned)
        assert outcome.structured == {"state": {}, "revision": 0}


async def test_without_an_acting_agent_there_is_no_state(house: House) -> None:
    """A caller who is no agent is offered nothing built in."""
    async with toolsets(house).open(house.space(), ADMIN, EVERY) as toolset:
        assert toolset.tools == ()
    assert isinstance(await call(house, ADMIN, "state_get", {}), Refused)


@pytest.mark.parametrize(
    "arguments", [{}, {"changes": [1]}, {"changes": None}, {"changes": "{}"}, {"changes": {}, "more": 1}]
)
async def test_what_is_not_a_change_is_refused(house: House, arguments: dict[str, Any]) -> None:
    """The model may mend it; nothing was kept."""
    acting = ADMIN.acting(await an_agent(house))
    outcome = await call(house, acting, "state_set", arguments)
    assert isinstance(outcome, Refused)
    assert outcome.code == "TOOL_REJECTED"
    assert (await AgentStates(house.clock).get(house.space(), acting.actors[-1])).revision == 0


async def test_a_state_too_large_and_an_agent_that_is_gone_are_told_to_the_model(house: House) -> None:
    """As refusals with their codes."""
    large = await call(house, ADMIN.acting(await an_agent(house)), "state_set", {"changes": {"a": "x" * 70_000}})
    gone = await call(house, ADMIN.acting("ag_" + "0" * 26), "state_set", {"changes": {"a": 1}})
    assert isinstance(large, Refused)
    assert isinstance(gone, Refused)
    assert [large.code, gone.code] == ["STATE_TOO_LARGE", "AGENT_UNKNOWN"]


async def test_no_server_takes_the_name_of_the_built_in_tools(house: House) -> None:
    """It is refused before anything is reached."""
    with pytest.raises(Invalid) as refusal:
        await house.servers().add(
            house.space(), ADMIN, ToolServerSpec(name="builtin", transport="stdio", command=DEMO_COMMAND)
        )
    assert refusal.value.code == "TOOL_SERVER_INVALID"
    assert await house.servers().all(house.space()) == []
