"""What is the direct client's alone: its bounds, its connections, and where it never goes."""

import gzip
import json
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_agents.adapters import openai_wire_model, sse
from mcp_agents.adapters.openai_wire_model import OpenaiWireModel
from mcp_agents.kernel.errors import AgentsError, Denied
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.model import ModelAnswer, TextDelta
from tests.models.asking import CANARY, collect, request, user
from tests.support.provider import ScriptedProvider, Step
from tests.support.raw_provider import Answer, RawProvider

pytestmark = pytest.mark.anyio


def event(text: str = "", finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "m-1", "choices": [choice]}).encode() + b"\n\n"


OK = Answer([event("ok"), event("", "stop") + b"data: [DONE]\n\n"])


async def code(model: OpenaiWireModel, *answers: Answer, **more: Any) -> str:
    """The code of the error that the last answer ends with."""
    async with RawProvider(*answers) as provider:
        with pytest.raises(AgentsError) as raised:
            await collect(model, request(user("hi"), api_base=provider.api_base, **more))
        assert len(provider.requests) <= 1
    assert CANARY not in f"{raised.value} {raised.value.__cause__}"
    return raised.value.code


async def test_only_what_the_request_holds_is_sent(
    wire_model: OpenaiWireModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and proxies of the environment are not: without a key, nobody is told one."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{CANARY}@127.0.0.1:1")
    async with RawProvider(OK) as provider:
        _, answer = await collect(wire_model, request(user("hi"), api_base=provider.api_base + "/", api_key=""))
        await collect(wire_model, request(user("hi"), api_base=provider.api_base, api_key="k-1"))
        first, second = provider.requests
    assert answer.model == "m-1"
    assert CANARY not in str(first.headers)
    assert "authorization" not in first.headers
    assert second.headers["authorization"] == "Bearer k-1"
    assert (first.path, first.headers["accept-encoding"]) == ("/v1/chat/completions", "identity")
    assert first.json["model"] == "rule-based"


async def test_without_an_address_it_is_openais() -> None:
    """The rule for addresses is asked about it, here to keep the call at home."""
    asked: list[tuple[str, int]] = []

    async def nowhere(host: str, port: int) -> tuple[str, ...]:
        asked.append((host, port))
        raise Denied("EGRESS_DENIED", "no")

    async with aclosing(OpenaiWireModel(addresses=nowhere)) as model:
        with pytest.raises(Denied, match="EGRESS_DENIED"):
            await collect(model, request(user("hi")))
        with pytest.raises(Denied, match="EGRESS_DENIED"):
            await collect(model, request(user("hi"), api_base="http://127.0.0.1:1/v1"))
    assert asked == [("api.openai.com", 443), ("127.0.0.1", 1)]


async def test_a_connection_goes_to_the_address_that_the_rule_returned() -> None:
    """The name is resolved by nobody else."""

    async def here(host: str, port: int) -> tuple[str, ...]:
        assert host == "models.example"
        return ("127.0.0.1",)

    async with RawProvider(OK) as provider, aclosing(OpenaiWireModel(addresses=here)) as model:
        api_base = provider.api_base.replace("127.0.0.1", "models.example")
        _, answer = await collect(model, request(user("hi"), api_base=api_base))
    assert answer.text == "ok"


async def test_a_connection_is_used_again(wire_model: OpenaiWireModel) -> None:
    """An answer that was read to its end leaves its connection open, one that was left does not."""
    async with RawProvider(OK) as provider:
        for _ in range(3):
            await collect(wire_model, request(user("hi"), api_base=provider.api_base))
        assert provider.connections == 1
        async with aclosing(wire_model.stream(request(user("hi"), api_base=provider.api_base))) as items:  # type: ignore[type-var]
            assert isinstance(await anext(items), TextDelta)
        await collect(wire_model, request(user("hi"), api_base=provider.api_base))
        assert provider.connections == 2


async def test_five_thousand_calls_at_once_finish(wire_model: OpenaiWireModel) -> None:
    """The provider answers none of them before it holds them all."""
    done: list[str] = []
    async with RawProvider(OK, together=5000) as provider:

        async def ask() -> None:
            _, answer = await collect(wire_model, request(user("hi"), api_base=provider.api_base, timeout=120.0))
            done.append(answer.text)

        async with anyio.create_task_group() as tasks:
            for number in range(5000):
                tasks.start_soon(ask)
                if not number % 500:
                    await anyio.lowlevel.checkpoint()  # lets the listener accept: its queue is shorter than this
        assert provider.connections == 5000
    assert done == ["ok"] * 5000


async def test_a_redirect_is_not_followed(wire_model: OpenaiWireModel) -> None:
    """A key goes to the configured address only."""
    async with RawProvider(OK) as elsewhere:
        moved = Answer([], status=307, headers={"Location": elsewhere.api_base + "/chat/completions"})
        assert await code(wire_model, moved) == "MODEL_ANSWER_MALFORMED"
        assert elsewhere.requests == []


async def test_a_compressed_answer_is_not_unpacked(wire_model: OpenaiWireModel) -> None:
    """Nobody asked for it, and a small one may hold gigabytes."""
    packed = gzip.compress(event("a", "stop") + b" " * 10_000_000)
    assert await code(wire_model, Answer([packed], headers={"Content-Encoding": "gzip"})) == "MODEL_ANSWER_MALFORMED"
    refused = Answer([packed], status=400, headers={"Content-Encoding": "gzip"})
    assert await code(wire_model, refused) == "MODEL_REQUEST_REFUSED"


async def test_an_answer_has_a_size(wire_model: OpenaiWireModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a line nor an answer without end fills the memory."""
    monkeypatch.setattr(sse, "LONGEST_LINE", 100_000)
    assert await code(wire_model, Answer([b"data: " + b"a" * 70_000, b"a" * 70_000])) == "MODEL_ANSWER_TOO_LARGE"
    monkeypatch.setattr(openai_wire_model, "LARGEST_ANSWER", 100_000)
    assert await code(wire_model, Answer([event("a" * 1000)] * 200)) == "MODEL_ANSWER_TOO_LARGE"


async def test_a_refusal_without_end_is_read_no_further_than_it_helps(wire_model: OpenaiWireModel) -> None:
    """Its status counts."""
    assert await code(wire_model, Answer([b"x" * 100_000] * 50, status=500)) == "MODEL_UNAVAILABLE"


BROKEN_HTTP = {
    "no HTTP": (b"hello there\r\n\r\n", "MODEL_ANSWER_MALFORMED"),
    "endless header": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "MODEL_ANSWER_MALFORMED"),
    "hung up": (b"", "MODEL_UNAVAILABLE"),
    "half a head": (b"HTTP/1.1 200 OK\r\nX", "MODEL_UNAVAILABLE"),
    "bad chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + event("a", "stop"),
        "MODEL_ANSWER_MALFORMED",
    ),
    "shorter than said": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + event("a", "stop"),
        "MODEL_ANSWER_MALFORMED",
    ),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "MODEL_ANSWER_MALFORMED"),
}


@pytest.mark.parametrize("case", BROKEN_HTTP)
async def test_broken_http_has_a_code(wire_model: OpenaiWireModel, case: str) -> None:
    """Whatever comes over the socket becomes an error of the house."""
    head, expected = BROKEN_HTTP[case]
    assert await code(wire_model, Answer([], head=head)) == expected


@pytest.mark.parametrize("api_base", ["nowhere", "http://", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999"])
async def test_an_address_that_is_none_is_unavailable(wire_model: OpenaiWireModel, api_base: str) -> None:
    """As with litellm."""
    with pytest.raises(AgentsError, match="MODEL_UNAVAILABLE"):
        await collect(wire_model, request(user("hi"), api_base=api_base))


@pytest.mark.parametrize("key", ["a\nb", "schlüssel", "a\r\nX-Other: 1"])
async def test_a_key_that_no_header_may_hold_is_refused_here(wire_model: OpenaiWireModel, key: str) -> None:
    """It is not sent, and adds no header."""
    assert await code(wire_model, OK, api_key=key) == "MODEL_KEY_REFUSED"


async def test_text_that_no_json_may_hold_is_refused_here(wire_model: OpenaiWireModel) -> None:
    """Half a character is not sent."""
    async with RawProvider(OK) as provider:
        with pytest.raises(AgentsError, match="MODEL_REQUEST_REFUSED"):
            await collect(wire_model, request(user("\ud83c"), api_base=provider.api_base))
        assert provider.requests == []


@pytest.mark.parametrize(
    ("status", "expected"), [(429, "MODEL_RATE_LIMITED"), (401, "MODEL_KEY_REFUSED"), ("x", "MODEL_ANSWER_MALFORMED")]
)
async def test_an_error_in_the_middle_keeps_its_status(
    wire_model: OpenaiWireModel, status: int | str, expected: str
) -> None:
    """Gateways say it as the code of an event."""
    error = b"data: " + json.dumps({"error": {"message": CANARY, "code": status}}).encode() + b"\n\n"
    assert await code(wire_model, Answer([event("a"), error])) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"error": {"code": "insufficient_quota"}}, "MODEL_QUOTA_EXHAUSTED"),
        ({"error": {"type": "insufficient_quota", "message": [1]}}, "MODEL_QUOTA_EXHAUSTED"),
        ({"error": "You exceeded your current quota"}, "MODEL_QUOTA_EXHAUSTED"),
        ({"error": None}, "MODEL_RATE_LIMITED"),
        ({"detail": "insufficient_quota"}, "MODEL_RATE_LIMITED"),
        ([], "MODEL_RATE_LIMITED"),
    ],
)
async def test_a_refusal_is_told_apart_by_its_body(wire_model: OpenaiWireModel, said: Any, expected: str) -> None:
    """The error may be an object or a text; anything else is left to the status."""
    assert await code(wire_model, Answer([json.dumps(said).encode()], status=429)) == expected


@pytest.mark.parametrize(
    ("name", "sent", "dropped"),
    [
        ("openai/o3-mini", {"max_completion_tokens", "response_format"}, ("temperature",)),
        ("openai/o1", {"max_completion_tokens", "response_format"}, ("temperature",)),
        ("o1-mini", {"max_completion_tokens"}, ("temperature", "response_schema")),
        ("openai/gpt-5.1", {"max_completion_tokens", "response_format"}, ("temperature",)),
        ("openai/gpt-5-chat-latest", {"max_tokens", "temperature", "response_format"}, ()),
        ("openai/gpt-4.1", {"max_tokens", "temperature", "response_format"}, ()),
        ("openai/gpt-4o", {"max_tokens", "temperature", "response_format"}, ()),
        ("openai/gpt-4-turbo", {"max_tokens", "temperature"}, ("response_schema",)),
        ("openai/gpt-3.5-turbo", {"max_tokens", "temperature"}, ("response_schema",)),
        ("meta-llama/llama-3", {"max_tokens", "temperature", "response_format"}, ()),
        ("openai/o100", {"max_tokens", "temperature", "response_format"}, ()),
    ],
)
async def test_each_model_is_sent_what_it_takes(
    wire_model: OpenaiWireModel, name: str, sent: set[str], dropped: tuple[str, ...]
) -> None:
    """The answer names what was left out."""
    asked = {"model": name, "temperature": 0.5, "max_tokens": 9, "response_schema": {"type": "object"}, "tools": ()}
    async with RawProvider(OK) as provider:
        _, answer = await collect(wire_model, request(user("hi"), api_base=provider.api_base, **asked))
        (body,) = [received.json for received in provider.requests]
    assert set(body) - {"model", "messages", "stream", "stream_options"} == sent
    assert (body["model"], answer.dropped) == (name.removeprefix("openai/"), dropped)


async def test_a_large_conversation_is_sent(wire_model: OpenaiWireModel) -> None:
    """Several megabytes are nothing special."""
    async with RawProvider(OK) as provider:
        await collect(wire_model, request(Message(role="user", text="x" * 3_000_000), api_base=provider.api_base))
        (received,) = provider.requests
    assert len(received.json["messages"][0]["content"]) == 3_000_000


async def test_arguments_may_come_as_an_object(wire_model: OpenaiWireModel) -> None:
    """Some endpoints send them so."""
    call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": {"a": 1}}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    content = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    async with RawProvider(Answer([content])) as provider:
        _, answer = await collect(wire_model, request(user("hi"), api_base=provider.api_base))
    assert [(call.tool, call.arguments) for call in answer.tool_calls] == [("add", {"a": 1})]


async def test_an_answer_does_not_wait_for_the_end_of_its_connection(wire_model: OpenaiWireModel) -> None:
    """After [DONE] a provider may leave its response open: the answer is whole, and the connection is given up."""
    unended = Answer([event("a", "stop"), b"data: [DONE]\n\n"], ends=False)
    async with RawProvider(unended) as provider:
        _, answer = await collect(wire_model, request(user("hi"), api_base=provider.api_base))
        assert answer.text == "a"
        with anyio.fail_after(10):
            await provider.left.wait()


def test_importing_the_client_imports_no_litellm() -> None:
    """Who speaks the wire pays for nothing else."""
    command = "import mcp_agents.adapters.openai_wire_model, sys; sys.exit('litellm' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)


async def test_a_closed_client_has_no_connection_left() -> None:
    """Closing twice, or before any call, is nothing special."""
    model = OpenaiWireModel()
    await model.aclose()
    async with ScriptedProvider([Step(text="ok")]) as provider:
        items = [item async for item in model.stream(request(user("hi"), api_base=provider.api_base))]
        await model.aclose()
        await model.aclose()
    assert isinstance(items[-1], ModelAnswer)
