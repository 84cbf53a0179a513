"""Agents of two deployments call each other: two programs, each with its own NATS, authorization server and keys."""

import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
from anyio.abc import ByteStream, SocketStream
from mcp.client.client import Client

from mcp_agents.kernel.tasks import background
from tests.listening.programs import administered, called, client, program, token_of

pytestmark = pytest.mark.anyio

PRICED = """
[[models]]
name = "priced"
litellm_model = "openai/rule-based"
api_base = "{url}"
input_micro_usd_per_mtok = 1000000
output_micro_usd_per_mtok = 2000000
"""


@dataclass
class Tap:
    """All that callers sent to an address, as bytes."""

    seen: bytearray = field(default_factory=bytearray)

    @property
    def tokens(self) -> set[str]:
        """The bearer tokens among it."""
        return {found.decode() for found in re.findall(rb"(?i)authorization: bearer (\S+)", bytes(self.seen))}


@dataclass(frozen=True)
class Deployment:
    """A running program, an owner's client of it, and what else reaches it."""

    url: str
    folder: Path
    token: str
    client: Client
    tap: Tap

    async def agent(self, name: str, **more: Any) -> dict[str, Any]:
        """A new agent that does what it is asked, at a price."""
        return await called(self.client, "agent_create", {"name": name, "virtual_model": "priced", **more})

    async def ask(self, agent: str, prompt: str) -> dict[str, Any]:
        """A run of an agent, when it has ended."""
        return await called(self.client, "agent_execute", {"agent": agent, "prompt": prompt, "wait_seconds": 60})

    async def only_run_of(self, agent: str) -> dict[str, Any]:
        """The one run of an agent, as its own deployment shows it."""
        (listed,) = (await called(self.client, "execution_list", {"agent": agent}))["executions"]
        return await called(self.client, "execution_get", {"execution_id": listed["execution_id"]})

    async def requested(self, execution_id: str) -> dict[str, Any]:
        """What is recorded of how a run was asked for."""
        page = await called(self.client, "execution_events", {"execution_id": execution_id, "limit": 1})
        body: dict[str, Any] = page["events"][0]["body"]
        return body

    async def adds(self, other: "Deployment", agent: str) -> str:
        """Adds an agent of another deployment as a tool server, signing in there as a client of its own."""
        made = await administered(other.folder, "client", "create", "peer", "--credentials", "--role", "operator")
        sign_in = {key: made[key] for key in ("client_id", "client_secret")}
        auth = {"type": "client_credentials", "issuer": other.url, **sign_in}
        spec = {"name": agent, "transport": "http", "url": f"{other.url}/mcp/agent/{agent}", "auth": auth}
        await called(self.client, "tool_server_add", spec)
        return f"{agent}/{agent}"


@asynccontextmanager
async def tapped(tap: Tap, port: int) -> AsyncIterator[int]:
    """A port in front of another one that keeps what callers send."""

    async def copied(source: ByteStream, target: ByteStream, *, keep: bool) -> None:
        try:
            async for data in source:
                if keep:
                    tap.seen += data
                await target.send(data)
            await target.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def connected(caller: SocketStream) -> None:
        async with caller:
            try:
                behind = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:  # stopped already
                return
            async with behind, anyio.create_task_group() as both:
                both.start_soon(lambda: copied(caller, behind, keep=True))
                both.start_soon(lambda: copied(behind, caller, keep=False))

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, background() as tasks:
        tasks.start_soon(listener.serve, connected)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)


@asynccontextmanager
async def deployment(folder: Path, models: str) -> AsyncIterator[Deployment]:
    """A deployment whose public address is one that keeps what reaches it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    tap = Tap()
    async with tapped(tap, port) as front:
        public = f"http://127.0.0.1:{front}"
        async with program(folder, port=port, public_url=public, settings=models) as (_, url):
            token = await token_of(folder)
            async with client(f"http://127.0.0.1:{port}", token) as opened:
                yield Deployment(url, folder, token, opened, tap)


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    """The address of a provider of models, in a process of its own."""
    command = [sys.executable, "-m", "mcp_agents.adapters.rule_model_http", "--port", "0"]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        said = (await process.stdout.receive()).decode()
        try:
            yield str(re.findall(r"http://\S+", said)[0])
        finally:
            process.terminate()


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Deployment, Deployment]]:
    """Two of them, and a provider that both pay."""
    async with AsyncExitStack() as stack:
        models = PRICED.format(url=await stack.enter_async_context(provider()))
        here = await stack.enter_async_context(deployment(tmp_path_factory.mktemp("here"), models))
        there = await stack.enter_async_context(deployment(tmp_path_factory.mktemp("there"), models))
        yield here, there


async def test_an_agent_asks_one_of_another_deployment(pair: tuple[Deployment, Deployment]) -> None:
    """With a token of the other one's own; one trace; what each end used and paid stands at that end."""
    here, there = pair
    await there.agent("adder", description="Adds.")
    binding = await here.adds(there, "adder")
    await here.agent("front", tools=[binding])
    run = await here.ask("front", asking("adder", "say 42"))
    assert (run["status"], run["text"]) == ("completed", "The result is: 42")

    answering = await there.only_run_of("adder")
    assert answering["trace"] == run["trace"]
    requested = await there.requested(answering["execution_id"])
    assert requested["upstream"] == run["execution_id"]
    assert requested["depth"] == 1
    assert requested["caller"]["client"].startswith("cl_")
    assert len(requested["chain"]) == 2
    assert requested["chain"][:1] == (await here.requested(run["execution_id"]))["chain"]

    for end in (run, answering):
        assert end["usage"]["output_tokens"] > 0
        assert end["cost_micro_usd"] > 0
    (call,) = run["tool_calls"]
    assert (call["state"], call["result"]) == ("done", "42")

    assert there.tap.tokens
    for token in there.tap.tokens:
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["iss"] == there.url
        assert claims["aud"] == f"{there.url}/mcp/agent/adder"
        assert claims["client_id"] == requested["caller"]["client"]
    assert here.token.encode() not in there.tap.seen


async def test_what_each_deployment_lets_agents_nest_holds_over_both(pair: tuple[Deployment, Deployment]) -> None:
    """An agent two calls down that allows one is refused there, and both callers are told."""
    here, there = pair
    await here.agent("bottom", limits={"max_depth": 1})
    await there.agent("middle", tools=[await there.adds(here, "bottom")])
    await here.agent("top", tools=[await here.adds(there, "middle")])
    run = await here.ask("top", asking("middle", asking("bottom", "say never")))
    assert "DEPTH_EXHAUSTED" in run["text"]
    assert (await called(here.client, "execution_list", {"agent": "bottom"}))["executions"] == []


async def test_a_circle_over_two_deployments_is_broken(pair: tuple[Deployment, Deployment]) -> None:
    """The agent that began it is not run again, whatever depth is allowed."""
    here, there = pair
    first = await here.agent("ring-a")
    await there.agent("ring-b", tools=[await there.adds(here, "ring-a")])
    binding = await here.adds(there, "ring-b")
    await called(here.client, "agent_update", {"agent": first["id"], "tools": [binding]})
    run = await here.ask("ring-a", asking("ring-b", asking("ring-a", "say never")))
    assert "AGENT_CYCLE" in run["text"]
    assert (await here.only_run_of("ring-a"))["execution_id"] == run["execution_id"]
    between = await there.only_run_of("ring-b")
    assert "AGENT_CYCLE" in between["text"]
    assert between["trace"] == run["trace"]


def asking(agent: str, prompt: str) -> str:
    """A prompt that has an agent pass one on to another."""
    return f"call {agent}__{agent} with {json.dumps({'prompt': prompt})}"
