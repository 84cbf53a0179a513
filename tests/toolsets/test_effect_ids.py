"""The effect id where a tool server takes it: a header, an argument, and always `_meta`."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from mcp_agents_tools.toolsets.records import StoredServer, public_view

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.toolserver import EffectIdPlace, ToolServerSpec, UpstreamAuth
from mcp_agents.kernel.toolset import Outcome, Returned
from tests.support.tool_servers import good
from tests.support.tool_servers.served import mcp_app, served
from tests.toolsets.conftest import ADMIN, House, invocation

ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


def far(port: int, place: EffectIdPlace, token: str = "") -> ToolServerSpec:
    """The good server behind a port."""
    auth = UpstreamAuth(type="bearer", token=token) if token else UpstreamAuth()
    url = f"http://127.0.0.1:{port}/mcp"
    return ToolServerSpec(name="good", transport="http", url=url, auth=auth, effect_id=place)


def child(place: EffectIdPlace) -> ToolServerSpec:
    """The good server as a process."""
    return ToolServerSpec(
        name="good",
        transport="stdio",
        command=sys.executable,
        args=(str(good.PATH),),
        env={"PYTHONPATH": os.getcwd()},
        effect_id=place,
    )


async def told(house: House, tool: str, arguments: dict[str, Any], effect_id: str) -> dict[str, Any]:
    """What a tool of the good server told about the call."""
    async with house.toolsets().open(house.space(), ADMIN, ("good/*",)) as toolset:
        outcome: Outcome = await toolset.call(replace(invocation(f"good__{tool}", arguments), effect_id=effect_id))
    assert isinstance(outcome, Returned), outcome
    return dict(outcome.structured)


@ERAS
async def test_the_effect_id_goes_out_as_the_header(house: House, era: str) -> None:
    """Of the call it belongs to; the same call sent again over a new connection carries the same id."""
    async with served(mcp_app(good.server(), era=era, token="t0ken")) as port:
        view = await house.servers().add(
            house.space(), ADMIN, far(port, EffectIdPlace(header="Idempotency-Key"), "t0ken")
        )
        assert view.effect_id == EffectIdPlace(header="Idempotency-Key")
        seen = []
        for effect_id in ("eff_1", "eff_2", "eff_1"):
            headers = await told(house, "header", {}, effect_id)
            seen.append(headers["idempotency-key"])
            assert headers["authorization"] == "Bearer t0ken"
            await house.hub.forget("acme", "good")
        assert seen == ["eff_1", "eff_2", "eff_1"]
        assert (await told(house, "meta", {}, "eff_3"))["io.github.mcp-agents/effect_id"] == "eff_3"
        await house.hub.forget("acme", "good")


async def test_calls_beside_each_other_carry_each_their_own_header(house: House) -> None:
    """One connection, many calls at once."""
    async with served(mcp_app(good.server())) as port:
        await house.servers().add(house.space(), ADMIN, far(port, EffectIdPlace(header="X-Request-Key")))
        seen: dict[str, str] = {}

        async def call(effect_id: str) -> None:
            seen[effect_id] = (await told(house, "header", {}, effect_id))["x-request-key"]

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(call, f"eff_{n}")
        assert seen == {f"eff_{n}": f"eff_{n}" for n in range(8)}
        await house.hub.forget("acme", "good")


async def test_without_a_header_named_there_is_none(house: House) -> None:
    """Nothing of ours but `_meta` says the id."""
    async with served(mcp_app(good.server())) as port:
        await house.servers().add(house.space(), ADMIN, far(port, EffectIdPlace()))
        headers = await told(house, "header", {}, "eff_1")
        assert "eff_1" not in headers.values()
        await house.hub.forget("acme", "good")


@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_the_effect_id_fills_the_argument_that_the_model_does_not_see(house: House, transport: str) -> None:
    """Hidden from the schema, filled at the call, the same for the same call; tools without it stay as they are."""
    place = EffectIdPlace(argument="request_key")
    async with served(mcp_app(good.server())) as port:
        spec = far(port, place) if transport == "http" else child(place)
        await house.servers().add(house.space(), ADMIN, spec)
        async with house.toolsets().open(house.space(), ADMIN, ("good/*",)) as toolset:
            schemas = {tool.name: tool.parameters for tool in toolset.tools}
        assert list(schemas["good__keyed"]["properties"]) == ["line"]
        assert schemas["good__keyed"]["required"] == ["line"]
        assert sorted(schemas["good__add"]["properties"]) == ["a", "b"]
        for effect_id in ("eff_1", "eff_2", "eff_1"):
            answer = await told(house, "keyed", {"line": "x"}, effect_id)
            assert answer == {"line": "x", "request_key": effect_id}
            await house.hub.forget("acme", "good")
        assert await told(house, "keyed", {"line": "x", "request_key": "mine"}, "eff_3") == {
            "line": "x",
            "request_key": "mine",
        }
        assert await told(house, "add", {"a": 1, "b": 2}, "eff_4") == {"total": 3}
        await house.hub.forget("acme", "good")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (child(EffectIdPlace(header="Idempotency-Key")), "Only an http tool server"),
        (child(EffectIdPlace(argument="no/such")), "argument"),
        (child(EffectIdPlace(argument="nobody_takes_this")), "None of the server's tools"),
        *(
            (far(1, EffectIdPlace(header=header)), "header")
            for header in (
                "Authorization", "HOST", "Mcp-Session-Id", "mcp-name", "Content-Type", "content-length", "Cookie",
                "Transfer-Encoding", "Connection", "X-Forwarded-For", "Proxy-Authorization", "Accept", "Last-Event-Id",
                "Traceparent", "If-Match", "a b", "a:b", "a\r\nb", "ä", "x" * 65, "1a",
            )
        ),
    ],
    ids=lambda value: value.effect_id.header or value.effect_id.argument if isinstance(value, ToolServerSpec) else "",
)  # fmt: skip
async def test_a_place_that_is_not_safe_is_refused_and_nothing_is_stored(
    house: House, spec: ToolServerSpec, says: str
) -> None:
    """Headers that mean something already, names that are none, and an argument that no tool takes."""
    with pytest.raises(Invalid) as refusal:
        await house.servers().add(house.space(), ADMIN, spec)
    assert refusal.value.code == "TOOL_SERVER_INVALID"
    assert says in refusal.value.public
    assert await house.servers().all(house.space()) == []


def test_a_record_from_before_there_were_places_is_read() -> None:
    """It has none."""
    stored = (Path(__file__).parent / "records" / "server.json").read_bytes()
    server = msgspec.json.decode(stored, type=StoredServer)
    assert public_view(server, 1).effect_id == EffectIdPlace()
    assert server.tools[0].name == "add"
