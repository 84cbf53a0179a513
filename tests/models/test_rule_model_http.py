"""The rule-based model's HTTP twin speaks OpenAI's wire, streamed or whole."""

import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from mcp_agents.adapters.rule_model_http import app

pytestmark = pytest.mark.anyio

TOOL = {"type": "function", "function": {"name": "demo__add", "parameters": {"type": "object"}}}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application, without a socket."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app()), base_url="http://twin") as client:
        yield client


def body(text: object, **more: object) -> dict[str, object]:
    return {"model": "rule-based", "messages": [{"role": "user", "content": text}]} | more


async def test_the_model_is_listed_by_its_plain_name(client: httpx2.AsyncClient) -> None:
    """Who lists models sees that this one follows rules."""
    listed = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["rule-based"]


async def test_a_whole_answer_has_text_calls_and_usage(client: httpx2.AsyncClient) -> None:
    """Without a stream, one document holds everything."""
    text = [{"type": "text", "text": 'call add with {"a": 1}'}]
    answer = (await client.post("/v1/chat/completions", json=body(text, tools=[TOOL]))).json()
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], call["function"]) == ("tool_calls", {"name": "demo__add", "arguments": '{"a":1}'})
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_ends_a_stream_only_when_asked_for(client: httpx2.AsyncClient, wanted: bool) -> None:
    """The last event before the end holds it, with no choices."""
    asked = body("say a b", stream=True, stream_options={"include_usage": wanted})
    lines = (await client.post("/v1/chat/completions", json=asked)).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert lines[-2:] == ["data: [DONE]", ""]
    texts = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    assert "".join(texts) == "a b"
    assert ("usage" in events[-1] and events[-1]["choices"] == []) == wanted


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"messages": [{"role": "nobody"}]}'])
async def test_a_body_that_cannot_be_read_is_refused(client: httpx2.AsyncClient, content: bytes) -> None:
    """The refusal has the form that clients of this wire expect."""
    answer = await client.post("/v1/chat/completions", content=content)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
