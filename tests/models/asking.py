"""How the model tests ask: one request, its stream collected."""

from typing import Any

import pytest

from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.model import Model, ModelAnswer, ModelRequest, TextDelta, ToolSchema

CANARY = "sk-canary-0123456789"
TOOLS = tuple(
    ToolSchema(name=name, description=name, parameters={"type": "object", "properties": {}})
    for name in ("demo__add", "demo__echo", "agent__bob")
)

LITELLM_WARNS = [
    # litellm walks the attributes of a pydantic object on each chunk, and has schemas that pydantic warns about.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Items? '.*' on TypedDict class:UserWarning"),
]


def user(text: str) -> Message:
    """The user's message."""
    return Message(role="user", text=text)


def request(*messages: Message, api_base: str = "", **more: Any) -> ModelRequest:
    """A request with the tools of these tests."""
    fields: dict[str, Any] = {"model": "openai/rule-based", "tools": TOOLS, "timeout": 20.0, "api_key": CANARY} | more
    return ModelRequest(messages=messages, api_base=api_base, **fields)


async def collect(model: Model, asked: ModelRequest) -> tuple[list[str], ModelAnswer]:
    """The deltas and the one answer, which must come last."""
    deltas: list[str] = []
    answers: list[ModelAnswer] = []
    async for item in model.stream(asked):
        assert not answers, "nothing may follow the answer"
        match item:
            case TextDelta(text=text):
                deltas.append(text)
            case ModelAnswer():
                answers.append(item)
    assert len(answers) == 1
    return deltas, answers[0]
