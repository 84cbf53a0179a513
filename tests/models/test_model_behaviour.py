"""One behaviour suite for both clients of a chat-completions endpoint, on the twin and a scripted provider."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import pytest

from mcp_agents.kernel.errors import AgentsError, Timeout
from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.kernel.model import Model, ModelAnswer, TextDelta
from tests.models.asking import CANARY, LITELLM_WARNS, collect, request, user
from tests.support.provider import Call, ScriptedProvider, Step
from tests.support.raw_provider import Answer, RawProvider

pytestmark = [pytest.mark.anyio, *LITELLM_WARNS]

SAY = "say Hello, wörld 🌍, twice"
CALL = 'call add with {"a": 1, "b": "ü"}'
PARALLEL = 'call in parallel: add with {"a": 1}; echo with {"text": "x"}'
BROKEN = "call add with {a: 1}"
SCRIPT = [
    Step(when=SAY, chunks=["Hel", "lo, w", "örld \ud83c", "\udf0d", ", twice"], times=0),
    Step(
        when=CALL,
        calls=[Call(id="c1", name="demo__add", arguments='{"a": 1, "b": "\\u00fc"}', split=[1, 5, 14])],
        times=0,
    ),
    Step(
        when=PARALLEL,
        times=0,
        calls=[
            Call(id="c1", name="demo__add", arguments='{"a": 1}', split=[3]),
            Call(id=None, name="demo__echo", arguments='{"text": "x"}', split=[2, 2, 9]),
        ],
    ),
    Step(when=BROKEN, calls=[Call(id="c1", name="demo__add", arguments="{a: 1}", split=[2])], times=0),
]


@pytest.fixture(params=["twin", "script"])
async def api_base(request: pytest.FixtureRequest, twin: str) -> AsyncIterator[str]:
    """Each provider of the suite in turn."""
    if request.param == "twin":
        yield twin
        return
    async with ScriptedProvider(SCRIPT) as provider:
        yield provider.api_base


async def test_the_deltas_join_to_the_answer(model: Model, api_base: str) -> None:
    """Text comes in several pieces, and no character is lost between them."""
    deltas, answer = await collect(model, request(user(SAY), api_base=api_base))
    assert answer.text == "".join(deltas) == "Hello, wörld 🌍, twice"
    assert len(deltas) > 1
    assert answer.finish_reason == "stop"


async def test_a_tool_call_is_joined_from_its_fragments(model: Model, api_base: str) -> None:
    """Name, id and arguments are whole."""
    deltas, answer = await collect(model, request(user(CALL), api_base=api_base))
    (call,) = answer.tool_calls
    assert (deltas, call.tool, call.arguments) == ([], "demo__add", {"a": 1, "b": "ü"})
    assert call.call_id
    assert answer.finish_reason == "tool_calls"


async def test_parallel_calls_stay_apart(model: Model, api_base: str) -> None:
    """Two calls of one turn come in order with ids of their own."""
    _, answer = await collect(model, request(user(PARALLEL), api_base=api_base))
    assert [(call.tool, call.arguments) for call in answer.tool_calls] == [
        ("demo__add", {"a": 1}),
        ("demo__echo", {"text": "x"}),
    ]
    assert len({call.call_id for call in answer.tool_calls}) == 2


async def test_malformed_arguments_are_data(model: Model, api_base: str) -> None:
    """They are reported as they came, not raised."""
    _, answer = await collect(model, request(user(BROKEN), api_base=api_base))
    (call,) = answer.tool_calls
    assert (call.arguments, call.malformed) == ({}, "{a: 1}")


async def test_the_twin_goes_on_from_the_results_it_is_sent(model: Model, twin: str) -> None:
    """A whole conversation survives the mapping to the wire and back."""
    messages = [user('call add with {"a": 1}\ncall echo with {"text": "{{last}}"}')]
    for result in ("3", "TOOL_DOWN: gone"):
        _, answer = await collect(model, request(*messages, api_base=twin))
        (call,) = answer.tool_calls
        messages += [
            Message(role="assistant", tool_calls=answer.tool_calls),
            Message(role="tool", text=result, call_id=call.call_id, tool=call.tool),
        ]
    _, answer = await collect(model, request(*messages, api_base=twin))
    assert answer.text == "The result is: 3 The tool demo__echo failed: TOOL_DOWN: gone"


async def test_messages_and_tools_reach_the_provider_in_its_form(model: Model) -> None:
    """What is set is sent, what is not set is not, and malformed arguments go back as they came."""
    calls = (
        ToolCall(call_id="c1", tool="demo__add", arguments={"a": 1}),
        ToolCall(call_id="c2", tool="demo__add", malformed="{a"),
    )
    messages = (
        Message(role="system", text="Be brief."),
        user("hello"),
        Message(role="assistant", tool_calls=calls),
        Message(role="tool", text="3", call_id="c1", tool="demo__add"),
        Message(role="tool", text="BAD: no", call_id="c2", tool="demo__add"),
    )
    async with ScriptedProvider([Step(text="ok")]) as provider:
        await collect(model, request(*messages, api_base=provider.api_base, temperature=0.5))
        (body,) = provider.requests
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "demo__add", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "demo__add", "arguments": "{a"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": "BAD: no"},
    ]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["demo__add", "demo__echo", "agent__bob"]
    assert (body["temperature"], body["stream_options"]) == (0.5, {"include_usage": True})
    assert "max_tokens" not in body


async def test_the_usage_is_the_providers(model: Model) -> None:
    """Input, output and cached tokens are taken over exactly."""
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 20,
        "total_tokens": 1020,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    async with ScriptedProvider([Step(text="ok", usage=usage)]) as provider:
        _, answer = await collect(model, request(user("hi"), api_base=provider.api_base))
    assert answer.usage == Usage(input_tokens=1000, output_tokens=20, cached_tokens=400)


def problem(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": f"{message} {CANARY}", "type": None, "param": None, "code": code}}


TOMORROW = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)


def event(**body: Any) -> str:
    return (
        "data: "
        + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"} | body)
        + "\n\n"
    )


def piece(finish: str | None = None, **delta: Any) -> str:
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


SAID, END, DONE = piece(content="a"), piece("stop"), "data: [DONE]\n\n"
NO_CHOICES = event(choices=[]) + DONE
WHOLE = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
)
ERRORS = {
    "wrong key": (Step(status=401, body=problem("Incorrect API key")), "Denied", "MODEL_KEY_REFUSED"),
    "no right": (Step(status=403, body=problem("no access")), "Denied", "MODEL_KEY_REFUSED"),
    "no credit": (
        Step(status=429, body=problem("You exceeded your current quota", "insufficient_quota")),
        "Exhausted",
        "MODEL_QUOTA_EXHAUSTED",
    ),
    "payment": (Step(status=402, body=problem("pay")), "Exhausted", "MODEL_QUOTA_EXHAUSTED"),
    "rate limit": (Step(status=429, body=problem("slow down")), "Exhausted", "MODEL_RATE_LIMITED"),
    "request timeout": (Step(status=408, body=problem("late")), "Timeout", "MODEL_TIMEOUT"),
    "too long": (
        Step(status=400, body=problem("This model's maximum context length is 10 tokens", "context_length_exceeded")),
        "Invalid",
        "MODEL_CONTEXT_TOO_LONG",
    ),
    "filter": (
        Step(status=400, body=problem("The response was filtered by our content management policy", "content_filter")),
        "Invalid",
        "MODEL_CONTENT_FILTERED",
    ),
    "filtered answer": (Step(text="a b", finish_reason="content_filter"), "Invalid", "MODEL_CONTENT_FILTERED"),
    "bad request": (Step(status=400, body=problem("bad")), "Invalid", "MODEL_REQUEST_REFUSED"),
    "unprocessable": (Step(status=422, body=problem("bad")), "Invalid", "MODEL_REQUEST_REFUSED"),
    "unknown model": (Step(status=404, body=problem("no such model")), "NotFound", "MODEL_NOT_FOUND"),
    "body too long": (Step(status=413, body="<html>"), "Invalid", "MODEL_CONTEXT_TOO_LONG"),
    "odd status": (Step(status=418, body=problem("teapot")), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "moved": (Step(status=301, body=problem("elsewhere")), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "defect": (Step(status=500, body=problem("boom")), "Unavailable", "MODEL_UNAVAILABLE"),
    "bad gateway": (Step(status=502, body="<html>"), "Unavailable", "MODEL_UNAVAILABLE"),
    "overload": (Step(status=503, body=problem("busy")), "Unavailable", "MODEL_UNAVAILABLE"),
    "no JSON": (Step(raw="<html>hello</html>"), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "nonsense events": (Step(raw="data: {nope\n\ndata: [DONE]\n\n"), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "no choices": (Step(raw=NO_CHOICES), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "nothing": (Step(raw=""), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "no choice": (Step(raw=event(choices=[3]) + END + DONE), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "whole answer": (Step(raw=WHOLE), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "end without its blank line": (Step(raw=SAID + END.rstrip()), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "error as an event": (Step(raw=SAID + event(**problem("boom")) + DONE), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "too long, as an event": (
        Step(raw=event(**problem("This model's maximum context length is 5", "context_length_exceeded")) + DONE),
        "Invalid",
        "MODEL_CONTEXT_TOO_LONG",
    ),
    "call without a name": (
        Step(raw=piece(tool_calls=[{"index": 0, "id": "c", "function": {"arguments": "{}"}}]) + END + DONE),
        "Unavailable",
        "MODEL_ANSWER_MALFORMED",
    ),
    "cut stream": (Step(text="a b c d", cut_after=3), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "stream without end": (Step(text="a b c", unended=True), "Unavailable", "MODEL_ANSWER_MALFORMED"),
}


FORMS = {
    "plain": SAID + END + DONE,
    "CRLF": (SAID + END + DONE).replace("\n", "\r\n"),
    "CR": (SAID + END + DONE).replace("\n", "\r"),
    "comments": ": hello\n\n" + SAID + ": ping\n" + END + DONE,
    "data in several lines": SAID.replace('"created"', '\ndata: "created"') + END + DONE,
    "names and ids": "event: x\nid: 3\nretry: 5\n" + SAID + END + DONE,
    "no space": (SAID + END + DONE).replace("data: ", "data:"),
    "no [DONE]": SAID + END,
    "[DONE] without its blank line": SAID + END + DONE.rstrip(),
    "something after [DONE]": SAID + END + DONE + SAID,
    "nulls": event(choices=[{"index": 0, "delta": {"content": None, "tool_calls": None}}], usage=None) + SAID + END,
    "empty text": piece(role="assistant", content="") + SAID + END + DONE,
}


@pytest.mark.parametrize("form", FORMS)
async def test_an_event_stream_may_be_written_in_any_way(model: Model, form: str) -> None:
    """Line ends, comments, fields of other names and the end itself are read as their standard says."""
    async with ScriptedProvider([Step(raw=FORMS[form])]) as provider:
        deltas, answer = await collect(model, request(user("hi"), api_base=provider.api_base))
    assert (deltas, answer.text, answer.finish_reason) == (["a"], "a", "stop")


def call_piece(*calls: dict[str, Any]) -> str:
    return piece(tool_calls=list(calls))


def opened(index: int | None, call_id: str | None, name: str, arguments: str = "") -> dict[str, Any]:
    place = {} if index is None else {"index": index}
    return place | {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


CALLS = {
    "interleaved": (
        call_piece(opened(0, "x", "a"))
        + call_piece(opened(1, "y", "b"), more(0, '{"n"'))
        + call_piece(more(1, '{"m": 2}'))
        + call_piece(more(0, ": 1}")),
        [("x", "a", {"n": 1}), ("y", "b", {"m": 2})],
    ),
    "in one piece": (
        call_piece(opened(0, "x", "a", '{"n": 1}'), opened(1, "y", "b", "{}")),
        [("x", "a", {"n": 1}), ("y", "b", {})],
    ),
    "a new id at an index in use": (
        call_piece(opened(0, "x", "a", '{"n": 1}')) + call_piece(opened(0, "y", "b", '{"m": 2}')),
        [("x", "a", {"n": 1}), ("y", "b", {"m": 2})],
    ),
    "no ids": (
        call_piece(opened(0, None, "a", "{}")) + call_piece(opened(1, "", "b", "{}")),
        [("call_1_1", "a", {}), ("call_1_2", "b", {})],
    ),
    "an id twice": (
        call_piece(opened(0, "x", "a", "{}")) + call_piece(opened(1, "x", "b", "{}")),
        [("x", "a", {}), ("call_1_2", "b", {})],
    ),
    "no arguments": (call_piece(opened(0, "x", "a")), [("x", "a", {})]),
    "text before, and a character cut in two": (
        SAID + call_piece(opened(0, "x", "a", '{"n": "\ud83c')) + call_piece(more(0, '\udf0d"}')),
        [("x", "a", {"n": "🌍"})],
    ),
}


@pytest.mark.parametrize("case", CALLS)
async def test_tool_calls_come_in_any_pieces(model: Model, case: str) -> None:
    """By index, with ids of their own, and in the order in which they began."""
    raw, wanted = CALLS[case]
    async with ScriptedProvider([Step(raw=raw + piece("tool_calls") + DONE)]) as provider:
        _, answer = await collect(model, request(user("hi"), api_base=provider.api_base))
    assert [(call.call_id, call.tool, call.arguments) for call in answer.tool_calls] == wanted


@pytest.mark.parametrize("size", [1, 7, 64])
async def test_characters_cut_by_the_network_stay_whole(model: Model, size: int) -> None:
    """Bytes arrive in pieces that know nothing of characters, lines or events."""
    raw = "".join(
        event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}]).replace(text, spelled)
        for text, spelled in (("w", "wörld "), ("x", "🌍"), ("y", "\\ud83c"), ("z", "\\udf0d!"))
    )
    content = (raw + END + DONE).encode()
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    async with RawProvider(Answer(pieces)) as provider:
        deltas, answer = await collect(model, request(user("hi"), api_base=provider.api_base))
    assert "".join(deltas) == answer.text == "wörld 🌍🌍!"


async def test_half_a_character_is_shown_as_such(model: Model) -> None:
    """A half that never gets its other half ends the text as U+FFFD."""
    async with ScriptedProvider([Step(chunks=["a", "b\ud83c"])]) as provider:
        deltas, answer = await collect(model, request(user("hi"), api_base=provider.api_base))
    assert (deltas, answer.text) == (["a", "b", "\ufffd"], "ab\ufffd")


async def test_a_schema_for_the_answer_is_sent_and_the_answer_says_what_was_not(model: Model) -> None:
    """A reasoning model takes a schema and no temperature; its limit has another name."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    more: dict[str, Any] = {"temperature": 0.2, "max_tokens": 9, "response_schema": schema, "cache_key": "agent-1"}
    async with ScriptedProvider([Step(text='{"n": 1}', times=2)]) as provider:
        asked = request(user("hi"), api_base=provider.api_base, tools=(), **more)
        _, plain = await collect(model, asked)
        _, thinking = await collect(model, replace(asked, model="openai/gpt-5-mini"))
        first, second = provider.requests
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": False}}
    assert (plain.dropped, thinking.dropped) == ((), ("temperature",))
    shared = {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": form,
        "prompt_cache_key": "agent-1",
    }
    assert first == shared | {"model": "rule-based", "temperature": 0.2, "max_tokens": 9}
    assert second == shared | {"model": "gpt-5-mini", "max_completion_tokens": 9}


@pytest.mark.parametrize("case", ERRORS)
async def test_each_provider_error_has_its_kind_and_code(model: Model, case: str) -> None:
    """One request is sent, never a second; nothing of the provider's words is shown."""
    step, kind, code = ERRORS[case]
    async with ScriptedProvider([step]) as provider:
        with pytest.raises(AgentsError) as raised:
            await collect(model, request(user("hi"), api_base=provider.api_base))
        assert provider.counts().requests == 1
    error = raised.value
    assert (error.kind, error.code) == (kind, code)
    assert error.next_step
    assert CANARY not in f"{error} {error.public} {error.next_step} {error.details} {error.__cause__}"


@pytest.mark.parametrize(("said", "wait"), [("7", 7000), ("0.5", 500), (TOMORROW, 3_600_000), ("soon", None)])
async def test_a_rate_limit_says_when_to_try_again(model: Model, said: str, wait: int | None) -> None:
    """Retry-After is read as seconds or as a date, at most an hour."""
    step = Step(status=429, body=problem("slow down"), headers={"retry-after": said})
    async with ScriptedProvider([step]) as provider:
        with pytest.raises(AgentsError) as raised:
            await collect(model, request(user("hi"), api_base=provider.api_base))
    assert raised.value.retry_after_ms == wait


async def test_a_provider_that_does_not_listen_is_unavailable(model: Model) -> None:
    """A refused connection reads as the provider not answering."""
    with pytest.raises(AgentsError) as raised:
        await collect(model, request(user("hi"), api_base="http://127.0.0.1:1/v1"))
    assert (raised.value.kind, raised.value.code) == ("Unavailable", "MODEL_UNAVAILABLE")


@pytest.mark.parametrize("hold_after", [0, 2])
async def test_an_answer_that_takes_too_long_is_a_timeout(model: Model, hold_after: int) -> None:
    """The time counts for the whole answer, also when it stops in the middle, and the connection is closed."""
    step = Step(text="a b c d", hold="never", hold_after=hold_after)
    async with ScriptedProvider([step, Step(when="warm", text="ok")]) as provider:
        with pytest.raises(Timeout, match="MODEL_TIMEOUT"):
            await collect(model, request(user("hi"), api_base=provider.api_base, timeout=0.5))
        await provider.until(lambda counts: counts.disconnected == 1)
        await collect(model, request(user("warm"), api_base=provider.api_base))


async def test_cancelling_closes_the_providers_stream(model: Model) -> None:
    """The provider sees its reader go while it is still answering."""
    step = Step(text="a b c d", hold="never", hold_after=2)
    async with ScriptedProvider([step]) as provider, anyio.create_task_group() as tasks:

        async def ask() -> None:
            await collect(model, request(user("hi"), api_base=provider.api_base))

        tasks.start_soon(ask)
        await provider.until(lambda counts: counts.holding == 1)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await provider.until(lambda counts: counts.disconnected == 1)


async def test_the_first_words_come_before_the_last_are_written(model: Model) -> None:
    """Nothing waits for the end of an answer."""
    step = Step(chunks=["a", "b"], hold="rest", hold_after=2)
    async with ScriptedProvider([step]) as provider:
        deltas: list[str] = []
        async for item in model.stream(request(user("hi"), api_base=provider.api_base)):
            if isinstance(item, TextDelta):
                deltas.append(item.text)
                provider.release("rest")
    assert deltas == ["a", "b"]


async def test_a_slow_readers_time_does_not_count(model: Model) -> None:
    """Only waiting for the provider uses up the time of a call."""
    step = Step(chunks=["a", "b"], hold="rest", hold_after=2)
    async with ScriptedProvider([step]) as provider:
        answers: list[ModelAnswer] = []
        async for item in model.stream(request(user("hi"), api_base=provider.api_base, timeout=1.5)):
            if isinstance(item, ModelAnswer):
                answers.append(item)
            else:
                await anyio.sleep(1.6)
                provider.release("rest")
    assert answers[0].text == "ab"


async def test_leaving_the_stream_closes_it(model: Model) -> None:
    """A reader that has enough costs no further tokens."""
    step = Step(text="a b c d", hold="never", hold_after=3)
    async with ScriptedProvider([step]) as provider:
        stream: Any = model.stream(request(user("hi"), api_base=provider.api_base))
        async with aclosing(stream) as items:
            assert isinstance(await anext(items), TextDelta)
        await provider.until(lambda counts: counts.disconnected == 1)
