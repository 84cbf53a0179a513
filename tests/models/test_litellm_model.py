"""One behaviour suite for models reached through litellm: the rule-based twin and a scripted provider."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_agents.adapters.litellm_model import LitellmModel
from mcp_agents.kernel.errors import AgentsError, Timeout
from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.kernel.model import TextDelta
from tests.models.asking import CANARY, collect, request, user
from tests.support.provider import Call, ScriptedProvider, Step

pytestmark = [
    pytest.mark.anyio,
    # litellm walks the attributes of a pydantic object on each chunk that carries a tool call.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]

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


@pytest.fixture(scope="module")
def twin() -> Iterator[str]:
    """The address of the rule-based model's twin, in a process of its own."""
    command = [sys.executable, "-m", "mcp_agents.adapters.rule_model_http", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("rule-based model listening on http://127.0.0.1:")
        yield line.split()[-1]
        process.terminate()


@pytest.fixture(params=["twin", "script"])
async def api_base(request: pytest.FixtureRequest, twin: str) -> AsyncIterator[str]:
    """Each provider of the suite in turn."""
    if request.param == "twin":
        yield twin
        return
    async with ScriptedProvider(SCRIPT) as provider:
        yield provider.api_base


async def test_the_deltas_join_to_the_answer(litellm_model: LitellmModel, api_base: str) -> None:
    """Text comes in several pieces, and no character is lost between them."""
    deltas, answer = await collect(litellm_model, request(user(SAY), api_base=api_base))
    assert answer.text == "".join(deltas) == "Hello, wörld 🌍, twice"
    assert len(deltas) > 1
    assert answer.finish_reason == "stop"


async def test_a_tool_call_is_joined_from_its_fragments(litellm_model: LitellmModel, api_base: str) -> None:
    """Name, id and arguments are whole."""
    deltas, answer = await collect(litellm_model, request(user(CALL), api_base=api_base))
    (call,) = answer.tool_calls
    assert (deltas, call.tool, call.arguments) == ([], "demo__add", {"a": 1, "b": "ü"})
    assert call.call_id
    assert answer.finish_reason == "tool_calls"


async def test_parallel_calls_stay_apart(litellm_model: LitellmModel, api_base: str) -> None:
    """Two calls of one turn come in order with ids of their own."""
    _, answer = await collect(litellm_model, request(user(PARALLEL), api_base=api_base))
    assert [(call.tool, call.arguments) for call in answer.tool_calls] == [
        ("demo__add", {"a": 1}),
        ("demo__echo", {"text": "x"}),
    ]
    assert len({call.call_id for call in answer.tool_calls}) == 2


async def test_malformed_arguments_are_data(litellm_model: LitellmModel, api_base: str) -> None:
    """They are reported as they came, not raised."""
    _, answer = await collect(litellm_model, request(user(BROKEN), api_base=api_base))
    (call,) = answer.tool_calls
    assert (call.arguments, call.malformed) == ({}, "{a: 1}")


async def test_the_twin_goes_on_from_the_results_it_is_sent(litellm_model: LitellmModel, twin: str) -> None:
    """A whole conversation survives the mapping to the wire and back."""
    messages = [user('call add with {"a": 1}\ncall echo with {"text": "{{last}}"}')]
    for result in ("3", "TOOL_DOWN: gone"):
        _, answer = await collect(litellm_model, request(*messages, api_base=twin))
        (call,) = answer.tool_calls
        messages += [
            Message(role="assistant", tool_calls=answer.tool_calls),
            Message(role="tool", text=result, call_id=call.call_id, tool=call.tool),
        ]
    _, answer = await collect(litellm_model, request(*messages, api_base=twin))
    assert answer.text == "The result is: 3 The tool demo__echo failed: TOOL_DOWN: gone"


async def test_messages_and_tools_reach_the_provider_in_its_form(litellm_model: LitellmModel) -> None:
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
        await collect(litellm_model, request(*messages, api_base=provider.api_base, temperature=0.5))
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


async def test_the_usage_is_the_providers(litellm_model: LitellmModel) -> None:
    """Input, output and cached tokens are taken over exactly."""
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 20,
        "total_tokens": 1020,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    async with ScriptedProvider([Step(text="ok", usage=usage)]) as provider:
        _, answer = await collect(litellm_model, request(user("hi"), api_base=provider.api_base))
    assert answer.usage == Usage(input_tokens=1000, output_tokens=20, cached_tokens=400)


def problem(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": f"{message} {CANARY}", "type": None, "param": None, "code": code}}


TOMORROW = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
NO_CHOICES = (
    'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"m","choices":[]}\n\ndata: [DONE]\n\n'
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
    "defect": (Step(status=500, body=problem("boom")), "Unavailable", "MODEL_UNAVAILABLE"),
    "bad gateway": (Step(status=502, body="<html>"), "Unavailable", "MODEL_UNAVAILABLE"),
    "overload": (Step(status=503, body=problem("busy")), "Unavailable", "MODEL_UNAVAILABLE"),
    "no JSON": (Step(raw="<html>hello</html>"), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "nonsense events": (Step(raw="data: {nope\n\ndata: [DONE]\n\n"), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "no choices": (Step(raw=NO_CHOICES), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "nothing": (Step(raw=""), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "cut stream": (Step(text="a b c d", cut_after=3), "Unavailable", "MODEL_ANSWER_MALFORMED"),
    "stream without end": (Step(text="a b c", unended=True), "Unavailable", "MODEL_ANSWER_MALFORMED"),
}


@pytest.mark.parametrize("case", ERRORS)
async def test_each_provider_error_has_its_kind_and_code(litellm_model: LitellmModel, case: str) -> None:
    """One request is sent, never a second; nothing of the provider's words is shown."""
    step, kind, code = ERRORS[case]
    async with ScriptedProvider([step]) as provider:
        with pytest.raises(AgentsError) as raised:
            await collect(litellm_model, request(user("hi"), api_base=provider.api_base))
        assert provider.counts().requests == 1
    error = raised.value
    assert (error.kind, error.code) == (kind, code)
    assert error.next_step
    assert CANARY not in f"{error} {error.public} {error.next_step} {error.details} {error.__cause__}"


@pytest.mark.parametrize(("said", "wait"), [("7", 7000), ("0.5", 500), (TOMORROW, 3_600_000), ("soon", None)])
async def test_a_rate_limit_says_when_to_try_again(litellm_model: LitellmModel, said: str, wait: int | None) -> None:
    """Retry-After is read as seconds or as a date, at most an hour."""
    step = Step(status=429, body=problem("slow down"), headers={"retry-after": said})
    async with ScriptedProvider([step]) as provider:
        with pytest.raises(AgentsError) as raised:
            await collect(litellm_model, request(user("hi"), api_base=provider.api_base))
    assert raised.value.retry_after_ms == wait


async def test_a_provider_that_does_not_listen_is_unavailable(litellm_model: LitellmModel) -> None:
    """A refused connection reads as the provider not answering."""
    with pytest.raises(AgentsError) as raised:
        await collect(litellm_model, request(user("hi"), api_base="http://127.0.0.1:1/v1"))
    assert (raised.value.kind, raised.value.code) == ("Unavailable", "MODEL_UNAVAILABLE")


async def test_an_unknown_provider_is_not_found(litellm_model: LitellmModel) -> None:
    """A model name that litellm cannot place is not sent anywhere."""
    with pytest.raises(AgentsError) as raised:
        await collect(litellm_model, request(user("hi"), model="nowhere-llm"))
    assert raised.value.code == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("hold_after", [0, 2])
async def test_an_answer_that_takes_too_long_is_a_timeout(litellm_model: LitellmModel, hold_after: int) -> None:
    """The time counts for the whole answer, also when it stops in the middle, and the connection is closed."""
    step = Step(text="a b c d", hold="never", hold_after=hold_after)
    async with ScriptedProvider([step, Step(when="warm", text="ok")]) as provider:
        with pytest.raises(Timeout, match="MODEL_TIMEOUT"):
            await collect(litellm_model, request(user("hi"), api_base=provider.api_base, timeout=0.5))
        await provider.until(lambda counts: counts.disconnected == 1)
        await collect(litellm_model, request(user("warm"), api_base=provider.api_base))


async def test_cancelling_closes_the_providers_stream(litellm_model: LitellmModel) -> None:
    """The provider sees its reader go while it is still answering."""
    step = Step(text="a b c d", hold="never", hold_after=2)
    async with ScriptedProvider([step]) as provider, anyio.create_task_group() as tasks:

        async def ask() -> None:
            await collect(litellm_model, request(user("hi"), api_base=provider.api_base))

        tasks.start_soon(ask)
        await provider.until(lambda counts: counts.holding == 1)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await provider.until(lambda counts: counts.disconnected == 1)


async def test_leaving_the_stream_closes_it(litellm_model: LitellmModel) -> None:
    """A reader that has enough costs no further tokens."""
    step = Step(text="a b c d", hold="never", hold_after=3)
    async with ScriptedProvider([step]) as provider:
        stream: Any = litellm_model.stream(request(user("hi"), api_base=provider.api_base))
        async with aclosing(stream) as items:
            assert isinstance(await anext(items), TextDelta)
        await provider.until(lambda counts: counts.disconnected == 1)


async def test_many_calls_at_once_share_one_import(litellm_model: LitellmModel, twin: str) -> None:
    """The first calls of a process may come together."""
    answers: list[str] = []

    async def ask(number: int) -> None:
        _, answer = await collect(litellm_model, request(user(f"say {number}"), api_base=twin))
        answers.append(answer.text)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(ask, number)
    assert sorted(map(int, answers)) == list(range(20))


def test_importing_the_adapter_does_not_import_litellm() -> None:
    """Who does not call a model does not pay for litellm."""
    code = "import mcp_agents.adapters.litellm_model, sys; sys.exit('litellm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


ON_LOOPBACK_ONLY = """
import json, os, socket, sys
reached = []
def audit(event, args):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto"):
        host = args[0] if event == "socket.getaddrinfo" else args[1][0]
        if str(host) not in ("127.0.0.1", "::1", "localhost"):
            reached.append(str(host))
            raise OSError("only loopback in this test")
sys.addaudithook(audit)
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "False"
import anyio
from mcp_agents.adapters.litellm_model import LitellmModel
from tests.models.asking import collect, request, user
async def main():
    model = LitellmModel()
    asked = request(user("hi"), model="openai/meta-llama/llama-3-8b", api_base=sys.argv[1], timeout=90.0)
    _, answer = await collect(model, asked)
    await model.aclose()
    print(json.dumps([answer.text, reached, "LEAKED" in os.environ]))
anyio.run(main)
"""


async def test_nothing_but_the_provider_is_contacted(tmp_path: Path) -> None:
    """Import, start and a call without usage stay on loopback, and no .env file is read."""
    (tmp_path / ".env").write_text("LEAKED=1\n")
    root = str(Path(__file__).parents[2])
    async with ScriptedProvider([Step(text="here")]) as provider:
        done = await anyio.run_process(
            [sys.executable, "-c", ON_LOOPBACK_ONLY, provider.api_base],
            cwd=tmp_path,
            env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )
    assert json.loads(done.stdout) == ["here", [], False]
