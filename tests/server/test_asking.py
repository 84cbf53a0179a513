"""A call that asks the person behind its client, on real servers with the fixture plugin: both eras, any replica."""

from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as mcp
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CLIENT_CAPABILITIES_META_KEY

from tests.conformance.fixtures import PATH, PNG, built
from tests.hostile.wire import Answer, Wire, browserless
from tests.support.served import Served, served

pytestmark = pytest.mark.anyio

SHOWS: dict[str, Any] = {CLIENT_CAPABILITIES_META_KEY: {"elicitation": {}}}
ROUNDS = "test_input_required_result_multi_round"


@asynccontextmanager
async def replicas(folder: Path) -> AsyncIterator[tuple[Served, Served, httpx2.AsyncClient]]:
    """Two servers of one deployment."""
    async with (
        served(folder, workers=0, build=built) as one,
        served(folder, workers=0, build=built) as two,
        browserless() as http,
    ):
        yield one, two, http


async def called(wire: Wire, tool: str = ROUNDS, **more: Any) -> Answer:
    """A call, or its next round."""
    return await wire.ask("tools/call", {"name": tool, "arguments": {}, **more}, meta=SHOWS, path=PATH)


def said(**content: Any) -> dict[str, Any]:
    """A form that was filled in."""
    return {"action": "accept", "content": content}


async def test_every_round_may_be_answered_at_another_replica(tmp_path: Path) -> None:
    """Two questions, three rounds, two servers; what was said first is still there at the end."""
    async with replicas(tmp_path) as (one, two, http):
        here, there = [Wire(http, each.url, await each.token("acme")) for each in (one, two)]
        first = (await called(here)).result
        assert (first["resultType"], list(first["inputRequests"])) == ("input_required", ["step1"])
        second = (
            await called(there, inputResponses={"step1": said(name="Ada")}, requestState=first["requestState"])
        ).result
        assert list(second["inputRequests"]) == ["step2"]
        third = (
            await called(here, inputResponses={"step2": said(color="teal")}, requestState=second["requestState"])
        ).result
        assert third["content"][0]["text"] == "Ada likes teal."


async def test_a_state_is_good_for_its_caller_its_call_and_unaltered(tmp_path: Path) -> None:
    """Another tenant's, another tool's and a changed one are refused alike."""
    async with replicas(tmp_path) as (one, two, http):
        mine = Wire(http, one.url, await one.token("acme"))
        other = Wire(http, two.url, await two.token("other"))
        state = (await called(mine)).result["requestState"]
        changed = state[:-2] + ("AA" if state[-2:] != "AA" else "BB")
        responses = {"step1": said(name="Ada")}
        refused = [
            await called(other, inputResponses=responses, requestState=state),
            await called(mine, "test_input_required_result_request_state", requestState=state),
            await called(mine, inputResponses=responses, requestState=changed),
            await called(mine, inputResponses=responses, requestState="{}"),
        ]
        assert [answer.status for answer in refused] == [400] * 4
        assert {answer.body for answer in refused} == {refused[0].body}
        assert refused[0].error["code"] == mcp.INVALID_PARAMS


async def test_a_client_that_shows_no_forms_is_not_asked(tmp_path: Path) -> None:
    """The tool is told, and says so."""
    async with served(tmp_path, workers=0, build=built) as server, browserless() as http:
        wire = Wire(http, server.url, await server.token("acme"))
        for able in ({}, {"elicitation": {"url": {}}}):
            meta = {CLIENT_CAPABILITIES_META_KEY: able}
            answer = await wire.ask("tools/call", {"name": ROUNDS, "arguments": {}}, meta=meta, path=PATH)
            assert answer.error["code"] == "FIXTURE"


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_official_client_is_asked_in_either_era(tmp_path: Path, mode: Any) -> None:
    """By a push that is waited for, or by rounds of the call: the tool is the same."""
    asked: list[str] = []

    async def fill(_: Any, params: mcp.ElicitRequestParams) -> mcp.ElicitResult:
        asked.append(params.message)
        return mcp.ElicitResult(action="accept", content={"name": "Ada", "color": "teal"})

    async with served(tmp_path, workers=0, build=built) as server:
        headers = {"Authorization": f"Bearer {await server.token('acme')}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
            transport = streamable_http_client(server.url + PATH, http_client=http)
            async with Client(transport, mode=mode, elicitation_callback=fill) as client:
                result = await client.call_tool(ROUNDS, {})
    assert [block.text for block in result.content if isinstance(block, mcp.TextContent)] == ["Ada likes teal."]
    assert asked == ["Step 1: What is your name?", "Step 2: What is your favorite color?"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_contents_of_every_kind_arrive_as_they_were_given(tmp_path: Path, mode: Any) -> None:
    """Results, resources and prompts; in both eras."""
    async with served(tmp_path, workers=0, build=built) as server:
        headers = {"Authorization": f"Bearer {await server.token('acme')}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
            transport = streamable_http_client(server.url + PATH, http_client=http)
            async with Client(transport, mode=mode) as client:
                mixed = await client.call_tool("test_multiple_content_types", {})
                assert [block.type for block in mixed.content] == ["text", "image", "resource"]
                assert mixed.structured_content is None
                sound = (await client.call_tool("test_audio_content", {})).content[0]
                assert isinstance(sound, mcp.AudioContent)
                (image,) = (await client.read_resource("test://static-binary")).contents
                assert isinstance(image, mcp.BlobResourceContents)
                assert (image.mime_type, b64decode(image.blob)) == ("image/png", PNG)
                (text,) = (await client.read_resource("test://static-text")).contents
                assert text.mime_type == "text/plain"
                prompt = await client.get_prompt("test_prompt_with_image", {})
                assert [message.content.type for message in prompt.messages] == ["image", "text"]
                listed = {each.uri: each.mime_type for each in (await client.list_resources()).resources}
                assert listed["test://static-binary"] == "image/png"
