"""Which part of a conversation goes with the next prompt: a head in, a stretch of its log out; and what turns take."""

from typing import Final, NamedTuple

import msgspec

from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.tokens import TokenCounter
from mcp_agents.sessions.record import Session

_PER_MESSAGE: Final = 4
"""Tokens that a message takes beside its text."""


class Stretch(NamedTuple):
    """The turns behind `after`, up to and with `upto` (sequences of the log), and what they take with the pins."""

    after: int
    upto: int
    tokens: int


def stretch(session: Session) -> Stretch:
    """The last turns that fit into the window beside what is pinned; whole turns only, so that a tool call and its
    result are never parted. Broken-off turns take no room, since nobody is shown them."""
    taken, after = sum(pin.tokens for pin in session.pins), session.tip
    if session.window.policy == "full":
        tokens = taken + sum(mark.tokens for mark in session.marks if mark.whole)
        return Stretch(0, session.tip, tokens)
    place = len(session.marks)
    while place:
        mark = session.marks[place - 1]
        needed = mark.tokens if mark.whole else 0
        if taken + needed > session.window.max_tokens:
            break
        taken, place = taken + needed, place - 1
        after = mark.sequence - 1
    return Stretch(after, session.tip, taken)


async def size(counter: TokenCounter, model: str, messages: tuple[Message, ...]) -> int:
    """Tokens that these messages take of a prompt."""
    texts = [message.text for message in messages]
    for message in messages:
        texts += [call.tool + msgspec.json.encode(call.arguments).decode() for call in message.tool_calls]
    return await counter.count(model, "\n".join(texts)) + _PER_MESSAGE * len(texts)
