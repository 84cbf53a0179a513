"""The main job through the front door, as a stranger's client does it: both protocol eras, and stdio."""

import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from tests.support.browser import Browser
from tests.support.served import Served, served
from tests.support.tools_over_http import greeter

pytestmark = pytest.mark.anyio

REDIRECT = "http://127.0.0.1:1/callback"
PASSWORD = "correct horse battery staple"


class Memory:
    """What a client keeps between requests; it knows its registration and nothing else."""

    def __init__(self, client_id: str) -> None:
        self.tokens: OAuthToken | None = None
        self.client = OAuthClientInformationFull(
            client_id=client_id, redirect_uris=[AnyUrl(REDIRECT)], token_endpoint_auth_method="none"
        )

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """One running server with a person and a registered client."""
    async with served(tmp_path_factory.mktemp("journey")) as running:
        await running.house.auth.bootstrap()
        await running.house.auth.users.create("ada@example.org", PASSWORD, "default", frozenset({"admin"}))
        yield running


@asynccontextmanager
async def signed_in(server: Served, mode: str) -> AsyncIterator[Client]:
    """The official client, knowing only the MCP URL and its registration; a person signs in in a browser."""
    registered, _ = await server.house.auth.clients.register(
        "default", "journey", redirect_uris=(REDIRECT,), roles=frozenset({"admin"})
    )
    answer: list[str] = []

    async def browse(url: str) -> None:
        async with httpx2.AsyncClient(trust_env=False) as http:
            browser = Browser(http)
            await browser.open(url)
            await browser.submit(browser.form(), email="ada@example.org", password=PASSWORD)
            form = browser.form()
            button = dict(form.buttons[:1])
            answer.append(await browser.submit(form, **button))

    async def returned() -> AuthorizationCodeResult:
        query = {name: values[0] for name, values in parse_qs(urlsplit(answer.pop()).query).items()}
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))

    url = f"{server.url}/mcp/all"
    metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(REDIRECT)], token_endpoint_auth_method="none")
    auth = OAuthClientProvider(url, metadata, Memory(registered.id), browse, returned)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client


async def the_main_job(client: Client, http_tools: str) -> None:
    """Adds a stdio and an HTTP tool server, makes an agent of both, executes it and sees progress first."""
    mark = secrets.token_hex(4)
    listed = await client.list_tools()
    assert {"agent_create", "agent_execute", "tool_server_add"} <= {tool.name for tool in listed.tools}
    stdio = {"name": f"demo-{mark}", "transport": "stdio", "command": "mcp-agents-demo-tools"}
    await called(client, "tool_server_add", stdio)
    await called(client, "tool_server_add", {"name": f"greet-{mark}", "transport": "http", "url": http_tools})
    agent = await called(
        client,
        "agent_create",
        {
            "name": f"assistant-{mark}",
            "virtual_model": "rule-based",
            "tools": [f"demo-{mark}/add", f"greet-{mark}/greet"],
        },
    )
    prompt = f'call demo-{mark}__add with {{"a": 2, "b": 40}}\ncall greet-{mark}__greet with {{"name": "{{{{last}}}}"}}'
    order: list[str] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        order.append(message or "")

    result = await called(client, "agent_execute", {"agent": agent["id"], "prompt": prompt}, progress)
    order.append("result")
    assert result["status"] == "completed"
    assert [(call["tool"], call["state"]) for call in result["tool_calls"]] == [
        (f"demo-{mark}__add", "done"),
        (f"greet-{mark}__greet", "done"),
    ]
    assert "Hello, 42" in result["text"]
    assert any(f"calling greet-{mark}__greet" in message for message in order[:-1])
    resource = await client.read_resource(f"cb://executions/{result['execution_id']}")
    assert json.loads(resource.contents[0].text)["text"] == result["text"]


async def called(client: Client, tool: str, arguments: dict[str, Any], progress: Any = None) -> dict[str, Any]:
    """The structured result of a tool that must succeed."""
    result = await client.call_tool(tool, arguments, progress_callback=progress)
    assert not result.is_error, result.content
    structured = result.structured_content
    assert isinstance(structured, dict)
    return structured


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_a_stranger_discovers_signs_in_and_runs_an_agent(server: Served, mode: str) -> None:
    """From the MCP URL alone to an answer that two tool servers had a part in, with progress on the way."""
    with anyio.fail_after(60):
        async with greeter() as http_tools, signed_in(server, mode) as client:
            assert (client.session.protocol_version == "2026-07-28") == (mode != "legacy")
            await the_main_job(client, http_tools)


async def test_the_same_job_over_stdio(tmp_path: Path) -> None:
    """The same server as a child process of its client."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcp_agents.server.cli", "stdio"],
        env={"MCP_AGENTS_SERVER__DATA_DIR": str(tmp_path)},
    )
    with anyio.fail_after(60):
        async with greeter() as http_tools, Client(parameters) as client:
            await the_main_job(client, http_tools)


async def test_an_agent_is_a_server_of_its_own(server: Served) -> None:
    """Its path shows one tool with its name, which answers with the agent's words."""
    async with server.remote("default") as remote:
        await remote.call("agent_create", {"name": "parrot", "description": "Repeats.", "virtual_model": "rule-based"})
    token = await server.token("default")
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as http,
        Client(streamable_http_client(f"{server.url}/mcp/agent/parrot", http_client=http)) as client,
    ):
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["parrot"]
        result = await client.call_tool("parrot", {"prompt": "say hello there"})
        assert result.content[0].text == "hello there"
