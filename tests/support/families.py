"""One answer in each provider family's own streaming form, for a `RawProvider`.

Every family says the same: the text "Hello" in two pieces, then a call of `demo__add` with `{"a": 1}`, 410 tokens
read (400 of them from a cache, where the family has one) and 20 written.
"""

import json
from typing import Any

from tests.support.raw_provider import Answer


def events(*said: dict[str, Any], named: bool = False) -> list[bytes]:
    """Server-sent events; `named` puts the event's own type before its data, as Anthropic does."""
    return [
        (f"event: {each['type']}\n" if named else "").encode() + b"data: " + json.dumps(each).encode() + b"\n\n"
        for each in said
    ]


def openai() -> Answer:
    """Chat completions: arguments in two fragments, usage in an event of its own."""

    def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "gpt-x", "choices": [choice]}

    def call(**said: Any) -> list[dict[str, Any]]:
        return [{"index": 0} | said]

    usage = {
        "prompt_tokens": 410,
        "completion_tokens": 20,
        "total_tokens": 430,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    said = [
        chunk(role="assistant", content="Hel"),
        chunk(content="lo"),
        chunk(tool_calls=call(id="c2", type="function", function={"name": "demo__add", "arguments": ""})),
        chunk(tool_calls=call(function={"arguments": '{"a"'})),
        chunk(tool_calls=call(function={"arguments": ": 1}"})),
        chunk("tool_calls"),
        chunk() | {"choices": [], "usage": usage},
    ]
    return Answer([*events(*said), b"data: [DONE]\n\n"])


def anthropic(tool: str = "demo__add") -> Answer:
    """Messages: named events, content blocks, what was read from the cache beside the rest of the input."""

    def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {"type": "content_block_start", "index": index, "content_block": start},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    usage = {"input_tokens": 10, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 0, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-x", "content": [], "usage": usage}
    said = [
        {"type": "message_start", "message": message | {"stop_reason": None}},
        *block(
            0,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "Hel"},
            {"type": "text_delta", "text": "lo"},
        ),
        {"type": "ping"},
        *block(
            1,
            {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}},
            {"type": "input_json_delta", "partial_json": '{"a"'},
            {"type": "input_json_delta", "partial_json": ": 1}"},
        ),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ]
    return Answer(events(*said, named=True))


def gemini() -> Answer:
    """`streamGenerateContent` with `alt=sse`: parts of a candidate, the call whole and without an id."""

    def chunk(part: dict[str, Any], **more: Any) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": [part]}, "index": 0}
        return {"candidates": [candidate | more], "modelVersion": "gemini-x"}

    counted = {"promptTokenCount": 410, "candidatesTokenCount": 20, "totalTokenCount": 430}
    last = chunk({"functionCall": {"name": "demo__add", "args": {"a": 1}}}, finishReason="STOP")
    last["usageMetadata"] = counted | {"cachedContentTokenCount": 400}
    return Answer(events(chunk({"text": "Hel"}), chunk({"text": "lo"}), last))


def ollama() -> Answer:
    """`/api/chat`: a JSON document a line, the call whole and without an id, no cache."""

    def line(content: str, *, done: bool = False, **more: Any) -> bytes:
        head = {"model": "llama-x", "created_at": "2025-01-01T00:00:00Z", "done": done}
        said = {key: value for key, value in more.items() if key == "tool_calls"}
        rest = {key: value for key, value in more.items() if key != "tool_calls"}
        return json.dumps(head | {"message": {"role": "assistant", "content": content} | said} | rest).encode() + b"\n"

    call = {"function": {"name": "demo__add", "arguments": {"a": 1}}}
    return Answer(
        [
            line("Hel"),
            line("lo"),
            line("", tool_calls=[call]),
            line("", done=True, done_reason="stop", prompt_eval_count=410, eval_count=20),
        ],
        media="application/x-ndjson",
    )
