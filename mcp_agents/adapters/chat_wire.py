"""What every client of a chat-completions wire shares: messages and tools on it, and an answer in pieces.

OpenAI's form is spoken by most endpoints, and litellm takes it for all the others. This module knows the form
and opens nothing: `openai_wire_model` and `litellm_model` above it carry it. Below: the kernel's vocabulary.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mcp_agents.adapters.model_errors import model_error
from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, ToolSchema

_REASONING: Final = re.compile(r"(o[134]|gpt-5)(?![a-z0-9])(?!-chat)")
_encode: Final = msgspec.json.encode


def is_reasoning(model: str) -> bool:
    """Whether it is one of OpenAI's models that think first: they take no temperature."""
    return _REASONING.match(model.rpartition("/")[2]) is not None


# ---- what is asked ----


def wire_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The conversation on the wire. Malformed arguments go back as the model wrote them."""
    return [_wire_message(message) for message in messages]


def _wire_message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
    wire: dict[str, Any] = {"role": message.role}
    if message.text or not message.tool_calls:
        wire["content"] = message.text
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.tool, "arguments": call.malformed or _encode(call.arguments).decode()},
            }
            for call in message.tool_calls
        ]
    return wire


def wire_tools(tools: Iterable[ToolSchema]) -> list[dict[str, Any]] | None:
    """The tools on the wire; None when there are none, for an empty list is refused by some."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ] or None


def wire_format(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """The form that the answer's text is to have; not strict, for strict takes only a part of JSON Schema."""
    if schema is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": False}}


# ---- what is answered ----


@dataclass(frozen=True, slots=True)
class Fragment:
    """A streamed piece of a tool call; empty strings for what a piece does not hold."""

    index: int | None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Gathered:
    """What has come so far of one answer."""

    fragments: list[Fragment] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    held: str = ""
    model: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)

    def take(self, text: str) -> str:
        """Takes in text and returns what can be shown of it: all but half of a character that was cut in two."""
        if not self.held and _is_whole(text):
            self.text.append(text)
            return text
        text = self.held + text
        self.held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return self._out(text.removesuffix(self.held))

    def rest(self) -> str:
        """The end of the answer: returns text still held back.

        Raises `Invalid` (MODEL_CONTENT_FILTERED) when the provider's filter ended it.
        """
        if self.finish_reason == "content_filter":
            raise model_error("MODEL_CONTENT_FILTERED")
        held, self.held = self.held, ""
        return self._out(held)

    def _out(self, text: str) -> str:
        shown = _paired(text, "replace")
        self.text.append(shown)
        return shown

    def answer(self, request: ModelRequest, dropped: tuple[str, ...]) -> ModelAnswer:
        """The whole of it. Raises `Unavailable` (MODEL_ANSWER_MALFORMED) for a tool call without a name."""
        turn = 1 + sum(1 for message in request.messages if message.role == "assistant")
        return ModelAnswer(
            text="".join(self.text),
            tool_calls=join(self.fragments, turn=turn),
            usage=self.usage,
            model=self.model or request.model,
            finish_reason=self.finish_reason,
            dropped=dropped,
        )


@dataclass(slots=True)
class _Slot:
    """The pieces of one call."""

    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


def join(fragments: Iterable[Fragment], *, turn: int) -> tuple[ToolCall, ...]:
    """The calls that the fragments make, in the order in which they began.

    Pieces belong together by index; without one, a piece with a new id begins a call and any other piece
    continues the last. A missing or repeated id is replaced by `call_{turn}_{place}`, the same each time.
    Arguments that are no JSON object are kept as text in `malformed`.
    Raises `Unavailable` (MODEL_ANSWER_MALFORMED) for a call without a name.
    """
    slots: list[_Slot] = []
    open_slot: dict[int, _Slot] = {}
    for piece in fragments:
        slot = open_slot.get(piece.index) if piece.index is not None else (slots[-1] if slots else None)
        if slot is None or (piece.name and piece.call_id and slot.call_id and piece.call_id != slot.call_id):
            slot = _Slot()
            slots.append(slot)
        slot.call_id = slot.call_id or piece.call_id
        slot.name = slot.name or piece.name
        slot.arguments.append(piece.arguments)
        if piece.index is not None:
            open_slot[piece.index] = slot
    calls: list[ToolCall] = []
    taken: set[str] = set()
    for place, slot in enumerate(slots, 1):
        if not slot.name:
            raise model_error("MODEL_ANSWER_MALFORMED")
        call_id = slot.call_id
        if not call_id or call_id in taken:
            call_id = f"call_{turn}_{place}"
        taken.add(call_id)
        calls.append(_joined(call_id, slot.name, "".join(slot.arguments)))
    return tuple(calls)


def _joined(call_id: str, name: str, raw: str) -> ToolCall:
    if not raw.strip():
        return ToolCall(call_id=call_id, tool=name)
    if not _is_whole(raw):
        raw = _paired(raw)
    try:
        return ToolCall(call_id=call_id, tool=name, arguments=msgspec.json.decode(raw, type=dict[str, Any]))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ToolCall(call_id=call_id, tool=name, malformed=_paired(raw, "replace"))


def _is_whole(text: str) -> bool:
    """Whether there is no half of a character in it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _paired(text: str, lone: str = "surrogatepass") -> str:
    """Halves of characters put together; `lone` is the codec's rule for one that stays alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", lone)
