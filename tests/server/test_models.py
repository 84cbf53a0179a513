"""Models over the wire, on a served house with two models of a scripted provider: failover, names, keys, health."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_agents.kernel.errors import AgentsError, Denied
from mcp_agents.server.cli.remote import Remote
from tests.support.provider import Call, ScriptedProvider, Step
from tests.support.served import Served, served

pytestmark = [
    pytest.mark.anyio,
    # litellm's own models warn when a tool call is read
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]
CANARY = "sk-canary-of-a-tenant-0123456789"


@asynccontextmanager
async def house(folder: Path, primary: ScriptedProvider, spare: ScriptedProvider) -> AsyncIterator[Served]:
    """Two models, each on a provider of its own."""
    models = [
        {
            "name": name,
            "litellm_model": f"openai/{name}",
            "api_base": provider.api_base,
            "input_micro_usd_per_mtok": price,
            "output_micro_usd_per_mtok": price,
        }
        for name, provider, price in (("primary", primary, 1_000_000), ("spare", spare, 2_000_000))
    ]
    async with served(folder, models=models) as running:
        yield running


async def events(remote: Remote, run: dict[str, Any]) -> list[dict[str, Any]]:
    page = await remote.call("execution_events", {"execution_id": run["execution_id"]})
    return list(page["events"])


async def test_a_run_whose_primary_fails_in_its_second_turn_ends_on_the_spare(tmp_path: Path) -> None:
    """A 503, and a stream that breaks off behind half an answer: told as retries, and the run completes."""
    down = {"error": {"message": "overloaded"}}
    primary = ScriptedProvider(
        [
            Step(
                when="tool",
                turn=0,
                calls=[Call(name="demo__add", arguments='{"a": 1, "b": 2}')],
                usage={"prompt_tokens": 7, "completion_tokens": 3},
            ),
            Step(when="tool", turn=1, text="half an answer", cut_after=2),
            Step(when="plain", status=503, body=down),
        ]
    )
    spare = ScriptedProvider(
        [
            Step(when="tool", turn=1, text="It is 3.", usage={"prompt_tokens": 10, "completion_tokens": 5}),
            Step(when="plain", text="Hello."),
        ]
    )
    async with primary, spare, house(tmp_path, primary, spare) as running, running.remote("acme") as remote:
        await remote.call("tool_server_add", {"name": "demo", "transport": "stdio", "command": "mcp-agents-demo-tools"})
        await remote.call("agent_create", {"name": "worker", "virtual_model": "auto", "tools": ["demo/add"]})
        run = await remote.call("agent_execute", {"agent": "worker", "prompt": "tool"})
        assert (run["status"], run["text"], run["cost_micro_usd"]) == ("completed", "It is 3.", 10 + 30)
        told = [event for event in await events(remote, run) if event["type"] == "retry"]
        assert [event["body"]["reason"] for event in told] == [
            "primary failed with MODEL_ANSWER_MALFORMED; asking spare"
        ]
        run = await remote.call("agent_execute", {"agent": "worker", "prompt": "plain"})
        assert (run["status"], run["text"]) == ("completed", "Hello.")
        assert primary.counts().requests == 3  # one attempt each: what failed there was not tried there again
        listed = await remote.call("model_list", {})
        health = {model["name"]: model["health"] for model in listed["models"]}
        assert health["primary"]["last_error"] == "MODEL_UNAVAILABLE"


async def test_a_tenants_own_name_and_key_are_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Used in its runs, listed to it alone, and the key in no result and no log."""
    caplog.set_level(logging.DEBUG)
    primary = ScriptedProvider([])
    refusal = {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": "invalid_api_key"}}
    spare = ScriptedProvider([Step(when="first", text="Yes."), Step(when="second", status=401, body=refusal)])
    said: list[Any] = []
    async with (
        primary,
        spare,
        house(tmp_path, primary, spare) as running,
        running.remote("acme") as remote,
        running.remote("other") as other,
    ):
        said.append(await remote.call("provider_key_set", {"provider": "openai", "key": CANARY}))
        said.append(await remote.call("provider_key_list", {}))
        assert said[-1]["keys"] == [said[0]]
        assert (await other.call("provider_key_list", {})) == {"keys": [], "providers": ["openai"]}
        route = await remote.call("model_route_set", {"virtual_model": "team:best", "models": ["spare"]})
        await remote.call("agent_create", {"name": "worker", "virtual_model": "team:best"})
        with pytest.raises(AgentsError, match="MODEL_UNKNOWN"):
            await other.call("agent_create", {"name": "worker", "virtual_model": "team:best"})
        resolved = await remote.call("model_resolve", {"virtual_model": "team:best"})
        assert [each["model"] for each in resolved["candidates"]] == ["spare"]
        run = await remote.call("agent_execute", {"agent": "worker", "prompt": "first"})
        assert run["text"] == "Yes."
        said.append(await remote.call("agent_execute", {"agent": "worker", "prompt": "second"}))
        assert said[-1]["error"]["code"] == "MODEL_KEY_REFUSED"
        said.append(await remote.call("model_list", {}))
        own = {model["name"]: (model["own_key"], model["health"]["state"]) for model in said[-1]["models"]}
        assert own == {"primary": (True, "closed"), "spare": (True, "open")}
        theirs = await other.call("model_list", {})
        assert [model["health"]["state"] for model in theirs["models"]] == ["closed", "closed"]
        assert "team:best" not in json.dumps(theirs)
        gone = {"virtual_model": "team:best", "models": None, "expected_revision": route["revision"]}
        assert (await remote.call("model_route_set", gone))["removed"]
        await remote.call("provider_key_delete", {"provider": "openai"})
        with pytest.raises(AgentsError, match="PROVIDER_UNKNOWN"):
            await remote.call("provider_key_set", {"provider": "nobody", "key": CANARY})
        with pytest.raises(AgentsError, match="PROVIDER_KEY_INVALID") as raised:
            await remote.call("provider_key_set", {"provider": "openai", "key": CANARY + " "})
        said += [raised.value.public, raised.value.next_step]
    assert CANARY not in json.dumps(said)
    shown = {record.name for record in caplog.records if CANARY in record.getMessage()}
    assert shown <= {"mcp.client.streamable_http"}  # the test's own client, which sent it


async def test_keys_need_the_right_to_administer_models(tmp_path: Path) -> None:
    """Who may only write sets names and no keys; who may only read sets neither."""
    idle = ScriptedProvider([])
    async with idle, house(tmp_path, idle, idle) as running:

        async def call(scope: str, name: str, **arguments: Any) -> dict[str, Any]:
            async with running.remote("acme", scope=scope) as remote:
                return await remote.call(name, arguments)

        writer, reader = "models:read models:write", "models:read"
        route = {"virtual_model": "mine", "models": ["primary"]}
        await call(writer, "model_route_set", **route)
        for name in ("provider_key_set", "provider_key_list", "provider_key_delete"):
            with pytest.raises(Denied, match="SERVER_REFUSED"):
                await call(writer, name)
        assert (await call(reader, "model_resolve", virtual_model="mine"))["strategy"] == "failover_chain"
        with pytest.raises(Denied, match="SERVER_REFUSED"):
            await call(reader, "model_route_set", **route)
