"""A model that knows nothing but the text it is sent: it answers `What is the NAME?` from a `The NAME is VALUE.`

It speaks OpenAI's streaming wire, counts the tokens of each request with the model's real tokenizer, and keeps what it
was sent. Whatever else it is told it takes note of ("Noted.").
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_agents.adapters.tiktoken_counter import TiktokenCounter
from tests.support.tool_servers.served import served

MODEL = "openai/gpt-5-mini"
_ASKED = re.compile(r"What is the ([\w ]+)\?")


@dataclass
class Recaller:
    """The model; `asked` are the messages of every request, `tokens` how many each was."""

    port: int = 0
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
        said = _recalled(str(messages[-1]["content"]), text)
        usage = {"prompt_tokens": self.tokens[-1], "completion_tokens": await self.counter.count(MODEL, said)}
        usage["total_tokens"] = sum(usage.values())
        return Response(b"".join(_events(said, usage)), media_type="text/event-stream")


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
    return str(found[-1]) if found else "I do not know."


def _events(text: str, usage: dict[str, int]) -> list[bytes]:
    def chunk(**more: Any) -> bytes:
        body = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "gpt-5-mini", **more}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    return [
        chunk(choices=choice({"role": "assistant", "content": text})),
        chunk(choices=choice({}, "stop")),
        chunk(choices=[], usage=usage),
        b"data: [DONE]\n\n",
    ]
