"""Hearing of changes in both eras: what is told, to whom, over two front ends, and when a stream ends."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import httpx2
import mcp_types as mcp
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import Subscription
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_agents_auth.families import Family

from mcp_agents.kernel import ids
from mcp_agents.kernel.scopes import of_roles
from mcp_agents.kernel.tasks import background
from mcp_agents.server.subscriptions import ADDRESSES, PER_CALLER
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Fronts:
    """Two front ends of one deployment; the first has the workers."""

    one: Served
    other: Served


@pytest.fixture(scope="module")
async def fronts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fronts]:
    """Both on one data folder."""
    folder = tmp_path_factory.mktemp("fronts")
    async with served(folder) as one, served(folder, workers=0) as other:
        yield Fronts(one, other)


@asynccontextmanager
async def client(
    front: Served, token: str, path: str = "/mcp/all", mode: str = "2026-07-28", heard: list[str] | None = None
) -> AsyncIterator[Client]:
    """The official client with a token; a legacy one puts what it is told into `heard`."""

    async def told(message: Any) -> None:
        if isinstance(message, mcp.ResourceUpdatedNotification):
            heard_of(str(message.params.uri))
        elif isinstance(message, mcp.ToolListChangedNotification | mcp.PromptListChangedNotification):
            heard_of(message.method)

    def heard_of(what: str) -> None:
        if heard is not None:
            heard.append(what)

    async with (
        background(),
        httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(30, read=60),
            limits=httpx2.Limits(max_connections=2 * PER_CALLER),
            trust_env=False,
        ) as http,
        Client(streamable_http_client(front.url + path, http_client=http), mode=mode, message_handler=told) as opened,
    ):
        yield opened


async def made(opened: Client, **more: Any) -> dict[str, Any]:
    """A new agent."""
    draft = {"name": f"a-{secrets.token_hex(4)}", "virtual_model": "rule-based", **more}
    return await called(opened, "agent_create", draft)


async def called(opened: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The structured result of a tool that must succeed."""
    result = await opened.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def until(sub: Subscription, event: ServerEvent) -> list[ServerEvent]:
    """What is told up to and with an event."""
    seen: list[ServerEvent] = []
    with anyio.fail_after(10):
        async for each in sub:
            seen.append(each)
            if each == event:
                return seen
    raise AssertionError(f"ended before {event}: {seen}")


async def told(sub: Subscription, number: int) -> set[ServerEvent]:
    """The next so many events."""
    with anyio.fail_after(10):
        return {await anext(aiter(sub)) for _ in range(number)}


async def test_what_is_done_at_one_front_end_is_heard_at_the_other(fronts: Fronts) -> None:
    """A record, a run's log with what is read of it, and the lists that change when agents come and go."""
    tenant = f"t-{secrets.token_hex(4)}"
    async with (
        client(fronts.one, await fronts.one.token(tenant)) as doing,
        client(fronts.other, await fronts.other.token(tenant)) as hearing,
    ):
        agent = await made(doing)
        uri = f"cb://agents/{agent['id']}"
        async with hearing.listen(
            resource_subscriptions=[uri], prompts_list_changed=True, resources_list_changed=True
        ) as sub:
            assert sub.honored.resource_subscriptions == [uri]
            await called(doing, "agent_update", {"agent": agent["id"], "description": "changed"})
            # The list of resources is as it was: no agent came or went.
            assert await told(sub, 2) == {ResourceUpdated(uri), PromptsListChanged()}
            other = await made(doing)
            await until(sub, ResourcesListChanged())
            await called(doing, "agent_delete", {"agent": other["id"]})
            await until(sub, ResourcesListChanged())
        prompt = "call builtin__state_get with {}"
        run = await called(doing, "agent_submit", {"agent": agent["id"], "prompt": prompt})
        uris = [f"cb://executions/{run['execution_id']}{part}" for part in ("", "/events", "/transcript")]
        state = f"cb://agents/{agent['id']}/state"
        await called(doing, "execution_wait", {"execution_id": run["execution_id"]})
        async with hearing.listen(resource_subscriptions=[*uris, state, "cb://tools", "cb://models"]) as sub:
            assert sub.honored.resource_subscriptions == [*uris, state, "cb://tools", "cb://models"]


async def test_a_run_is_heard_from_its_first_event_to_its_last(fronts: Fronts) -> None:
    """Whoever listens in time reads the end when it is told of it, without asking again in between."""
    tenant = f"t-{secrets.token_hex(4)}"
    async with (
        client(fronts.one, await fronts.one.token(tenant)) as doing,
        client(fronts.other, await fronts.other.token(tenant)) as hearing,
    ):
        agent = await made(doing)
        quota = {"scope": "agent", "subject": agent["id"], "max_concurrent": 1}
        await called(doing, "quota_set", quota)
        runs = [
            (await called(doing, "agent_submit", {"agent": agent["id"], "prompt": "say done"}))["execution_id"]
            for _ in range(5)
        ]
        uri = f"cb://executions/{runs[-1]}"
        with anyio.fail_after(20):
            async with hearing.listen(resource_subscriptions=[uri, f"{uri}/events"]) as sub:
                status = (await called(hearing, "execution_get", {"execution_id": runs[-1]}))["status"]
                while status != "completed":
                    assert await anext(aiter(sub)) in (ResourceUpdated(uri), ResourceUpdated(f"{uri}/events"))
                    status = (await called(hearing, "execution_get", {"execution_id": runs[-1]}))["status"]


async def test_a_thousand_foreign_addresses_are_not_heard_and_not_told_from_unknown_ones(fronts: Fronts) -> None:
    """The acknowledgement leaves both out, and nothing of what their owner does arrives."""
    owner, stranger = (f"t-{secrets.token_hex(4)}" for _ in range(2))
    clock = fronts.one.house.services.clock
    async with (
        client(fronts.one, await fronts.one.token(owner)) as doing,
        client(fronts.other, await fronts.other.token(stranger)) as hearing,
    ):
        agents = [(await made(doing))["id"] for _ in range(10)]
        runs = [
            (await called(doing, "agent_execute", {"agent": agents[0], "prompt": "say done"}))["execution_id"]
            for _ in range(10)
        ]
        own = await made(hearing)
        mine = f"cb://agents/{own['id']}"
        places = [f"cb://agents/{agent}{part}" for agent in agents for part in ("", "/state")]
        places += [f"cb://executions/{run}{part}" for run in runs for part in ("", "/events", "/transcript")]
        unknown = [f"cb://executions/{ids.mint('ex', clock)}" for _ in range(1000 - len(places))]
        every = places + unknown
        heard: list[ServerEvent] = []

        async def listen(part: list[str], task_status: anyio.abc.TaskStatus[Any]) -> None:
            async with hearing.listen(resource_subscriptions=[*part, mine], resources_list_changed=True) as sub:
                task_status.started(sub.honored.resource_subscriptions)
                async for event in sub:
                    heard.append(event)
                    if event == ResourceUpdated(mine):
                        return

        async with anyio.create_task_group() as tasks:
            room = ADDRESSES - 1
            for start in range(0, len(every), room):
                assert await tasks.start(listen, every[start : start + room]) == [mine]
            for agent in agents:
                await called(doing, "agent_update", {"agent": agent, "description": "changed"})
            run = await called(doing, "agent_execute", {"agent": agents[0], "prompt": "say done"})
            assert run["status"] == "completed"
            await called(doing, "agent_delete", {"agent": agents[1]})
            # What the stranger does itself comes behind all that on the same streams, and ends each of them.
            await called(hearing, "agent_update", {"agent": own["id"], "description": "mine"})
        assert set(heard) == {ResourceUpdated(mine)}
        assert len(heard) == 4


async def test_addresses_and_streams_are_bounded(fronts: Fronts) -> None:
    """One address too many refuses the stream; one stream too many is refused, until one ends."""
    token = await fronts.one.token(f"t-{secrets.token_hex(4)}")
    clock = fronts.one.house.services.clock
    async with client(fronts.one, token) as hearing:
        every = [f"cb://executions/{ids.mint('ex', clock)}" for _ in range(ADDRESSES + 1)]
        with pytest.raises(MCPError, match="TOO_MANY_ADDRESSES"):
            async with hearing.listen(resource_subscriptions=every):
                pass
        async with background() as tasks:

            async def stay(task_status: anyio.abc.TaskStatus[None]) -> None:
                async with hearing.listen(tools_list_changed=True) as sub:
                    task_status.started()
                    async for _ in sub:
                        pass

            for _ in range(PER_CALLER):
                await tasks.start(stay)
            with pytest.raises(MCPError, match="TOO_MANY_STREAMS"):
                async with hearing.listen(tools_list_changed=True):
                    pass


@pytest.mark.parametrize("act", ["revoked", "suspended", "expired"])
async def test_a_stream_ends_with_its_grant(fronts: Fronts, act: str) -> None:
    """Within five seconds, with a result; a stream of another grant stays open."""
    tenant = f"t-{secrets.token_hex(4)}"
    front = fronts.other
    auth = front.house.auth
    await auth.tenants.create(tenant)
    token = (await auth.tokens.issue_direct(tenant, ttl=3 if act == "expired" else 3600)).access_token
    async with (
        client(front, token) as hearing,
        client(front, await front.token(f"t-{secrets.token_hex(4)}")) as bystander,
        bystander.listen(resources_list_changed=True) as stays,
        hearing.listen(tools_list_changed=True, resources_list_changed=True) as sub,
    ):
        match act:
            case "revoked":
                await auth.families.revoke((await auth.verifier.verify(token)).sid)
            case "suspended":
                await fronts.one.house.auth.tenants.set_active(tenant, active=False)
        with anyio.fail_after(5):
            assert [event async for event in sub] == []
        with pytest.raises(MCPError):
            await hearing.list_tools()
        await made(bystander)
        await until(stays, ResourcesListChanged())


async def test_a_right_that_is_taken_away_ends_the_stream_with_word_of_the_lists(fronts: Fronts) -> None:
    """A client whose scopes shrink is told that its lists are others, and begins anew with what is left."""
    front, tenant = fronts.one, f"t-{secrets.token_hex(4)}"
    auth = front.house.auth
    await auth.tenants.create(tenant)
    user = await auth.users.create("ada@example.org", None, tenant, frozenset({"developer"}))
    registered, _ = await auth.clients.register(
        tenant, "theirs", redirect_uris=("http://127.0.0.1:1/callback",), roles=frozenset({"admin"})
    )
    now = front.house.services.clock.now()
    family = Family(
        sid=auth.families.new_sid(),
        kind="user",
        tenant=tenant,
        subject=user.id,
        client_id=registered.id,
        scopes=sorted(registered.allowed()),
        resource=f"{front.url}/mcp",
        generation=user.generation,
        created_at=now,
        expires_at=now + timedelta(hours=1),
    )
    await auth.families.open(family)
    scopes = of_roles(frozenset({"developer"}))
    token = (await auth.tokens.issue(family, scopes, frozenset({"developer"}))).access_token
    async with (
        client(front, token) as hearing,
        hearing.listen(tools_list_changed=True, resources_list_changed=True) as sub,
    ):
        before = {tool.name for tool in (await hearing.list_tools()).tools}
        await auth.users.set_roles(user.id, tenant, frozenset({"viewer"}))
        with anyio.fail_after(5):
            assert [event async for event in sub] == [ToolsListChanged(), ResourcesListChanged()]
        assert {tool.name for tool in (await hearing.list_tools()).tools} < before


async def test_an_agents_own_path_tells_of_its_tool_and_its_runs(fronts: Fronts) -> None:
    """Its tool changes with the agent; runs of other agents are not there, as if they had never been."""
    tenant = f"t-{secrets.token_hex(4)}"
    token = await fronts.one.token(tenant)
    async with client(fronts.one, token) as doing:
        agent, other = await made(doing), await made(doing)
        own, foreign = [
            (await called(doing, "agent_execute", {"agent": each["id"], "prompt": "say done"}))["execution_id"]
            for each in (agent, other)
        ]
        async with client(fronts.other, await fronts.other.token(tenant), f"/mcp/agent/{agent['name']}") as hearing:
            listed = [str(each.uri) for each in (await hearing.list_resources()).resources]
            assert listed == [f"cb://executions/{own}"]
            prompts = (await hearing.list_prompts()).prompts
            assert [prompt.name for prompt in prompts] == [f"ask_{agent['name']}"]
            shown = await hearing.get_prompt(f"ask_{agent['name']}", {"request": "Find the answer."})
            assert f"Call the tool {agent['name']}" in shown.messages[0].content.text
            await hearing.read_resource(f"cb://executions/{own}/events")
            with pytest.raises(MCPError, match="Resource not found"):
                await hearing.read_resource(f"cb://executions/{foreign}")
            uris = [f"cb://executions/{own}", f"cb://executions/{foreign}"]
            async with hearing.listen(tools_list_changed=True, resource_subscriptions=uris) as sub:
                assert sub.honored.resource_subscriptions == uris[:1]
                await called(doing, "agent_update", {"agent": other["id"], "description": "not this one"})
                await called(doing, "agent_update", {"agent": agent["id"], "description": "this one"})
                assert await until(sub, ToolsListChanged()) == [ToolsListChanged()]
                assert "this one" in ((await hearing.list_tools()).tools[0].description or "")


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")  # it is the handshake era's
async def test_a_client_of_the_handshake_era_is_told_on_its_stream(fronts: Fronts) -> None:
    """Subscribed addresses and lists, over two front ends; what is not there is refused as in reading."""
    tenant = f"t-{secrets.token_hex(4)}"
    heard: list[str] = []
    async with (
        client(fronts.one, await fronts.one.token(tenant)) as doing,
        client(fronts.other, await fronts.other.token(tenant), mode="legacy", heard=heard) as hearing,
    ):
        agent, second = await made(doing), await made(doing)
        uri = f"cb://agents/{agent['id']}"
        ghost = f"cb://agents/{ids.mint('ag', fronts.one.house.services.clock)}"
        capabilities = hearing.server_capabilities
        assert capabilities.resources.subscribe
        assert capabilities.resources.list_changed
        await hearing.session.subscribe_resource(uri)
        with pytest.raises(MCPError, match="Resource not found"):
            await hearing.session.subscribe_resource(ghost)
        await heard_of(doing, agent["id"], heard, uri)
        assert "notifications/prompts/list_changed" in heard
        await hearing.session.unsubscribe_resource(uri)
        await hearing.session.subscribe_resource(f"cb://agents/{second['id']}")
        heard.clear()
        await called(doing, "agent_update", {"agent": agent["id"], "description": "no more"})
        await heard_of(doing, second["id"], heard, f"cb://agents/{second['id']}")
        assert uri not in heard


async def test_the_stream_of_the_handshake_era_ends_with_its_grant(fronts: Fronts) -> None:
    """Its standing response is closed, and cannot be opened again."""
    front, tenant = fronts.one, f"t-{secrets.token_hex(4)}"
    token = await front.token(tenant)
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        session = (await http.post(f"{front.url}/mcp", json=body)).headers["mcp-session-id"]
        known = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
        async with http.stream("GET", f"{front.url}/mcp", headers=known) as response:
            assert response.status_code == 200
            auth = front.house.auth
            await auth.families.revoke((await auth.verifier.verify(token)).sid)
            with anyio.fail_after(5):
                async for _ in response.aiter_bytes():
                    pass
        assert (await http.get(f"{front.url}/mcp", headers=known)).status_code == 401


async def heard_of(doing: Client, agent_id: str, heard: list[str], uri: str) -> None:
    """Changes an agent until that is heard: nothing says when a client's own stream has been opened."""
    with anyio.fail_after(10):
        while uri not in heard:
            await called(doing, "agent_update", {"agent": agent_id, "description": secrets.token_hex(4)})
            with anyio.move_on_after(0.2):
                while uri not in heard:
                    await anyio.sleep(0.01)
