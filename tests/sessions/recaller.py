"""A model that knows nothing but the text it is sent: it answers `What is the NAME?` from a `The NAME is VALUE.`

It speaks OpenAI's streaming wire, counts the tokens of each request with the model's real tokenizer, and keeps what it
was sent. What it does not know it looks up, where it has `builtin/search_session`; told to `Record PLACE.` it does so,
where it has `counted/record`. Asked for a summary it writes the facts down that have no figures in their names, and
what it must hold, or does it badly where it is told to. Whatever else it is told it takes note of ("Noted.").
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_agents.adapters.tiktoken_counter import TiktokenCounter
from tests.support.tool_servers.served import served

MODEL = "openai/gpt-5-mini"
UNKNOWN = "I do not know."
_ASKED = re.compile(r"What is the ([\w ]+)\?")
_TOLD = re.compile(r"Record (\w+)\.")
_FACT = re.compile(r"The [a-z ]+ is [^.\n]+\.")
_HOLD = re.compile(r"^- (\S+) \(", re.MULTILINE)
_NOTE = re.compile(r"Remember: (.+)")
_SEARCH, _RECORD, _REMEMBER = "builtin__search_session", "counted__record", "builtin__remember"


@dataclass
class Recaller:
    """The model; `asked` are the messages of every request, `tokens` how many each was. `summaries` is how it writes
    them, `summarized` how many it was asked for. While
    it `hangs` it does not answer."""

    port: int = 0
    summaries: Literal["good", "forgetful", "empty", "endless", "never"] = "good"
    hangs: bool = False
    summarized: int = 0
    asked: list[list[dict[str, Any]]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    counter: TiktokenCounter = field(default_factory=TiktokenCounter)

    @property
    def settings(self) -> dict[str, Any]:
        """As a configured model."""
        return {"name": "recaller", "litellm_model": MODEL, "api_base": f"http://127.0.0.1:{self.port}/v1"}

    async def answer(self, request: Request) -> Response:
        """One completion."""
        body = await request.json()
        messages = body["messages"]
        self.asked.append(messages)
        text = "\n".join(str(message.get("content") or "") for message in messages)
        self.tokens.append(await self.counter.count(MODEL, text))
        while self.hangs or (self.summaries == "never" and str(messages[0]["content"]).startswith("You summarize")):
            await anyio.sleep(0.02)
        tools = {tool["function"]["name"] for tool in body.get("tools", ())}
        said = self._said(messages, text, tools)
        written = said if isinstance(said, str) else json.dumps(said)
        usage = {"prompt_tokens": self.tokens[-1], "completion_tokens": await self.counter.count(MODEL, written)}
        usage["total_tokens"] = sum(usage.values())
        return Response(b"".join(_events(said, usage)), media_type="text/event-stream")

    def _said(self, messages: list[dict[str, Any]], text: str, tools: set[str]) -> str | dict[str, Any]:
        if str(messages[0]["content"]).startswith("You summarize"):
            self.summarized += 1
            return _summary(self.summaries, str(messages[-1]["content"]))
        prompt = next(str(each["content"]) for each in reversed(messages) if each["role"] == "user")
        known = _recalled(prompt, text)
        if messages[-1]["role"] == "tool":
            return known
        if known == UNKNOWN and _SEARCH in tools and (asked := _ASKED.search(prompt)):
            return {"name": _SEARCH, "arguments": json.dumps({"text": f"The {asked[1]} is"})}
        if _REMEMBER in tools and (note := _NOTE.search(prompt)):
            return {"name": _REMEMBER, "arguments": json.dumps({"text": note[1], "term": "long"})}
        if _RECORD in tools and (told := _TOLD.search(prompt)):
            return {"name": _RECORD, "arguments": json.dumps({"place": told[1]})}
        return known


@asynccontextmanager
async def recaller() -> AsyncIterator[Recaller]:
    """One on a real port."""
    model = Recaller()
    application = Starlette(routes=[Route("/v1/chat/completions", model.answer, methods=["POST"])])
    async with served(application) as model.port:
        yield model


def _recalled(question: str, text: str) -> str:
    asked = _ASKED.search(question)
    if asked is None:
        return "Noted."
    found = re.findall(rf"The {re.escape(asked[1])} is ([^.\n]+)\.", text)
    return str(found[-1]) if found else UNKNOWN


def _summary(how: str, text: str) -> str:
    facts = dict.fromkeys(_FACT.findall(text))
    held = _HOLD.findall(text.rpartition("word for word:")[2])
    match how:
        case "good":
            return " ".join([*facts, *held])
        case "endless":
            return "And so on. " * 2_000
        case "forgetful":
            return "They talked about this and that."
    return ""


def _events(said: str | dict[str, Any], usage: dict[str, int]) -> list[bytes]:
    def chunk(**more: Any) -> bytes:
        body = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "gpt-5-mini", **more}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    if isinstance(said, str):
        first, why = choice({"role": "assistant", "content": said}), "stop"
    else:
        call = {"index": 0, "id": "call_1", "type": "function", "function": said}
        first, why = choice({"role": "assistant", "tool_calls": [call]}), "tool_calls"
    return [
        chunk(choices=first),
        chunk(choices=choice({}, why)),
        chunk(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]
