"""What each provider family is really sent, and what becomes of its answer, against stubs of their own wires.

The bodies stand here whole, so that a new litellm that sends something else is seen.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from mcp_agents.adapters.litellm_model import LitellmModel
from mcp_agents.adapters.openai_wire_model import OpenaiWireModel
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.kernel.model import Model, ModelAnswer, ToolSchema
from tests.models.asking import CANARY, LITELLM_WARNS, collect, request, user
from tests.support import families
from tests.support.raw_provider import Answer, RawProvider, Received

pytestmark = [pytest.mark.anyio, *LITELLM_WARNS]

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ASKED = (Message(role="system", text="Be brief."), user("Add."))
TOLD = (
    *ASKED,
    Message(role="assistant", tool_calls=(ToolCall(call_id="c1", tool="demo__add", arguments={"a": 1}),)),
    Message(role="tool", text="3", call_id="c1", tool="demo__add"),
)
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = ToolSchema(name="demo__add", description="Adds.", parameters=PARAMETERS)
FUNCTION = {"name": "demo__add", "description": "Adds.", "parameters": PARAMETERS}
HERE = {"type": "ephemeral"}
GPT, CLAUDE, GEMINI, LLAMA = (
    "openai/gpt-4.1",
    "anthropic/claude-sonnet-4-5",
    "gemini/gemini-2.5-flash",
    "ollama_chat/llama3.1",
)
OLD_CLAUDE = "anthropic/claude-3-haiku-20240307"
STUBS: dict[str, Callable[[], Answer]] = {
    GPT: families.openai,
    CLAUDE: families.anthropic,
    OLD_CLAUDE: families.anthropic,
    GEMINI: families.gemini,
    LLAMA: families.ollama,
}


async def sent(model: Model, name: str, *messages: Message, **more: Any) -> tuple[Received, list[str], ModelAnswer]:
    """The one request that the provider got, and its answer as the port gives it."""
    async with RawProvider(STUBS[name]()) as provider:
        fields = {"model": name, "tools": (TOOL,), "api_base": provider.root} | more
        deltas, answer = await collect(model, request(*messages, **fields))
        (received,) = provider.requests
    return received, deltas, answer


OPENAI_TOLD = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Add."},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "demo__add", "arguments": '{"a":1}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
]
WITH_TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    GPT: (
        "/chat/completions",
        {
            "model": "gpt-4.1",
            "messages": OPENAI_TOLD,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
            "max_tokens": 99,
            "tools": [{"type": "function", "function": FUNCTION}],
            "prompt_cache_key": "agent-1",
        },
    ),
    CLAUDE: (
        "/v1/messages",
        {
            "model": "claude-sonnet-4-5",
            "system": [{"type": "text", "text": "Be brief.", "cache_control": HERE}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Add."}]},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "c1", "name": "demo__add", "input": {"a": 1}}],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": "3", "cache_control": HERE},
                    ],
                },
            ],
            "stream": True,
            "temperature": 0.5,
            "max_tokens": 99,
            "tools": [
                {
                    "type": "custom",
                    "name": "demo__add",
                    "description": "Adds.",
                    "input_schema": PARAMETERS,
                    "cache_control": HERE,
                }
            ],
        },
    ),
    GEMINI: (
        "/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        {
            "system_instruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Add."}]},
                {"role": "model", "parts": [{"function_call": {"name": "demo__add", "args": {"a": 1}}}]},
                {
                    "role": "user",
                    "parts": [{"function_response": {"name": "demo__add", "response": {"content": "3"}}}],
                },
            ],
            "generationConfig": {"temperature": 0.5, "max_output_tokens": 99},
            "tools": [{"function_declarations": [FUNCTION]}],
        },
    ),
    LLAMA: (
        "/api/chat",
        {
            "model": "llama3.1",
            "messages": [
                {"role": "system", "content": "Be brief.", "images": []},
                {"role": "user", "content": "Add.", "images": []},
                {
                    "role": "assistant",
                    "content": "",
                    "images": [],
                    "tool_calls": [{"function": {"name": "demo__add", "arguments": {"a": 1}}}],
                },
                {"role": "tool", "content": "3", "images": [], "tool_call_id": "c1"},
            ],
            "options": {"temperature": 0.5, "num_predict": 99},
            "stream": True,
            "tools": [{"type": "function", "function": FUNCTION}],
        },
    ),
}


@pytest.mark.parametrize("name", WITH_TOOLS)
async def test_a_conversation_with_tools(litellm_model: LitellmModel, name: str) -> None:
    """History, tools, parameters and the cache's hint in; text, call and usage out."""
    path, body = WITH_TOOLS[name]
    parameters = {"temperature": 0.5, "max_tokens": 99, "cache_key": "agent-1"}
    received, deltas, answer = await sent(litellm_model, name, *TOLD, **parameters)
    assert (received.path, received.json) == (path, body)
    assert CANARY in str(received.headers)
    assert CANARY not in received.path
    assert (deltas, answer.text) == (["Hel", "lo"], "Hello")
    (call,) = answer.tool_calls
    assert (call.tool, call.arguments, bool(call.call_id)) == ("demo__add", {"a": 1}, True)
    cached = 0 if name == LLAMA else 400
    assert answer.usage == Usage(input_tokens=410, output_tokens=20, cached_tokens=cached)
    assert (answer.finish_reason, answer.dropped) == ("tool_calls", ())


async def test_the_direct_client_sends_what_litellm_sends(wire_model: OpenaiWireModel) -> None:
    """Byte for byte the same document, and the same answer."""
    path, body = WITH_TOOLS[GPT]
    parameters = {"temperature": 0.5, "max_tokens": 99, "cache_key": "agent-1"}
    received, deltas, answer = await sent(wire_model, GPT, *TOLD, **parameters)
    assert (received.path, received.json, deltas) == (path, body, ["Hel", "lo"])
    assert answer.usage == Usage(input_tokens=410, output_tokens=20, cached_tokens=400)


FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": False}}
AS_SCHEMA: dict[str, tuple[str, dict[str, Any]]] = {
    GPT: ("response_format", FORMAT),
    CLAUDE: ("output_format", {"type": "json_schema", "schema": SCHEMA | {"additionalProperties": False}}),
    OLD_CLAUDE: ("tool_choice", {"type": "tool", "name": "json_tool_call"}),
    GEMINI: ("generationConfig", {"response_mime_type": "application/json", "response_json_schema": SCHEMA}),
    LLAMA: ("format", SCHEMA),
}


@pytest.mark.parametrize("name", AS_SCHEMA)
async def test_a_schema_goes_where_the_family_has_it(litellm_model: LitellmModel, name: str) -> None:
    """Each family is asked for the form in its own words."""
    field, value = AS_SCHEMA[name]
    received, _, answer = await sent(litellm_model, name, *ASKED, tools=(), response_schema=SCHEMA)
    assert received.json[field] == value
    assert answer.dropped == ()


async def test_a_family_that_answers_in_form_through_a_tool_gives_text(litellm_model: LitellmModel) -> None:
    """The tool that litellm makes of the schema does not come out as a call."""
    async with RawProvider(families.anthropic("json_tool_call")) as provider:
        asked = request(*ASKED, model=OLD_CLAUDE, tools=(), response_schema=SCHEMA, api_base=provider.root)
        _, answer = await collect(litellm_model, asked)
    assert answer.tool_calls == ()
    assert answer.text.endswith('{"a": 1}')


async def test_a_schema_that_would_shut_out_the_tools_is_dropped(litellm_model: LitellmModel) -> None:
    """An older Claude would have to call the schema's tool in every turn."""
    received, _, answer = await sent(litellm_model, OLD_CLAUDE, *ASKED, response_schema=SCHEMA)
    assert [tool["name"] for tool in received.json["tools"]] == ["demo__add"]
    assert "tool_choice" not in received.json
    assert answer.dropped == ("response_schema",)


async def test_what_a_model_does_not_take_is_left_out_and_named(litellm_model: LitellmModel) -> None:
    """The request goes on without it."""
    raw = b'{"model":"llama-x","created_at":"2025-01-01T00:00:00Z","response":"Hello","done":false}\n'
    end = b'{"model":"llama-x","created_at":"2025-01-01T00:00:00Z","response":"","done":true,"done_reason":"stop"}\n'
    async with RawProvider(Answer([raw, end], media="application/x-ndjson")) as provider:
        asked = request(*ASKED, model="ollama/llama3.1", temperature=0.5, api_base=provider.root)
        _, answer = await collect(litellm_model, asked)
        bodies = [received.json for received in provider.requests if received.path == "/api/generate"]
    assert (answer.text, answer.dropped) == ("Hello", ("tools",))
    assert bodies[0]["options"] == {"temperature": 0.5}
    assert "demo__add" not in bodies[0]["prompt"]


async def test_the_cache_is_marked_for_claude_on_bedrock_too(litellm_model: LitellmModel) -> None:
    """There a mark is a point behind what it covers. The answer's binary form is not played here."""
    async with RawProvider(Answer([], status=503)) as provider:
        name = "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
        asked = request(*TOLD, model=name, tools=(TOOL,), cache_key="agent-1", api_base=provider.root)
        with pytest.raises(AgentsError, match="MODEL_UNAVAILABLE"):
            await collect(litellm_model, asked)
        (received,) = provider.requests
    point = {"cachePoint": {"type": "default"}}
    assert received.json["system"] == [{"text": "Be brief."}, point]
    assert received.json["toolConfig"]["tools"][-1] == point
    assert received.json["messages"][-1]["content"][-1] == point


@pytest.mark.parametrize("name", [GEMINI, LLAMA])
async def test_a_hint_that_a_family_does_not_know_is_not_sent(litellm_model: LitellmModel, name: str) -> None:
    """It changes nothing, and is not a parameter that counts as dropped."""
    with_hint, _, answer = await sent(litellm_model, name, *ASKED, cache_key="agent-1")
    without, _, _ = await sent(litellm_model, name, *ASKED)
    assert with_hint.json == without.json
    assert answer.dropped == ()


def anthropics(kind: str, message: str = CANARY) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def googles(code: int, status: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": CANARY, "status": status}}


@pytest.mark.parametrize(
    ("name", "status", "body", "code"),
    [
        (CLAUDE, 401, anthropics("authentication_error"), "MODEL_KEY_REFUSED"),
        (CLAUDE, 429, anthropics("rate_limit_error"), "MODEL_RATE_LIMITED"),
        (CLAUDE, 529, anthropics("overloaded_error"), "MODEL_UNAVAILABLE"),
        (CLAUDE, 400, anthropics("invalid_request_error", "prompt is too long: 9 > 8"), "MODEL_CONTEXT_TOO_LONG"),
        (GEMINI, 403, googles(403, "PERMISSION_DENIED"), "MODEL_KEY_REFUSED"),
        (GEMINI, 429, googles(429, "RESOURCE_EXHAUSTED"), "MODEL_RATE_LIMITED"),
        (GEMINI, 503, googles(503, "UNAVAILABLE"), "MODEL_UNAVAILABLE"),
        (LLAMA, 404, {"error": f"model 'llama3.1' not found {CANARY}"}, "MODEL_NOT_FOUND"),
        (LLAMA, 500, {"error": CANARY}, "MODEL_UNAVAILABLE"),
    ],
)
async def test_each_familys_errors_have_their_codes(
    litellm_model: LitellmModel, name: str, status: int, body: dict[str, Any], code: str
) -> None:
    """One request, no second try, nothing of the provider's words."""
    answer = Answer([json.dumps(body).encode()], media="application/json", status=status)
    async with RawProvider(answer) as provider:
        with pytest.raises(AgentsError) as raised:
            await collect(litellm_model, request(*ASKED, model=name, api_base=provider.root))
        assert len(provider.requests) == 1
    assert raised.value.code == code
    assert CANARY not in f"{raised.value} {raised.value.__cause__}"
