"""Which part of a conversation goes with the next prompt: a head in, a stretch of its log out; and what turns take.

Turns are shown whole or not at all, so that a tool call and its result are never parted. Those that broke off take no
room, since nobody is shown them. Pure, but for counting tokens. What is to become a summary is chosen here; making it
is `execution.compacting`, and `compaction` says what it must hold.
"""

from typing import Final, NamedTuple

import msgspec

from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.tokens import TokenCounter
from mcp_agents.sessions.record import MARKS, REST, Compaction, Mark, Session

LAST: Final = 4
"""So many of the last turns go before all others in a window that chooses by weight."""
AT_ONCE: Final = 4
"""So many windows full of turns are summarized at once; more would not fit into what a model reads."""
SUMMARY_LEAST: Final = 100
"""A summary of fewer tokens would say nothing: none is made where the pins leave no more."""
_PER_MESSAGE: Final = 4
"""Tokens that a message takes beside its text."""


class Stretch(NamedTuple):
    """The turns behind `after`, up to and with `upto` (sequences of the log), but those `without`; `tokens` is what
    they take together with the pins and the summary."""

    after: int
    upto: int
    tokens: int
    without: tuple[int, ...] = ()


class Leaving(NamedTuple):
    """The turns that become part of the summary: behind `after`, up to and with `upto`, whose number is `through`.
    `last`: no turn that a model is shown comes after them. `behind` is what is shown with the summary."""

    after: int
    upto: int
    through: int
    last: bool
    behind: Stretch


def summary(session: Session) -> Compaction | None:
    """The summary that stands for the first turns, where the pins leave room for it."""
    made = session.summary
    if made is None or _pinned(session) + made.tokens > session.window.max_tokens:
        return None
    return made


def stretch(session: Session) -> Stretch:
    """What is shown as the session stands. Never more than the window takes, unless its policy is `full`."""
    made = summary(session)
    taken = _pinned(session) + (made.tokens if made else 0)
    marks = _unsummarized(session)
    if session.window.policy == "full":
        after = 0
        if made and (not marks or marks[0].number == made.through + 1):
            after = marks[0].sequence - 1 if marks else session.tip
        return Stretch(after, session.tip, taken + sum(_room(mark) for mark in marks))
    order = sorted(marks, key=lambda mark: -mark.number)
    if session.window.policy == "prioritized":
        last = session.turns - LAST
        order.sort(key=lambda mark: (mark.number <= last, -mark.weight if mark.number <= last else 0))
    chosen = set[int]()
    for mark in order:
        if taken + _room(mark) > session.window.max_tokens:
            break
        taken += _room(mark)
        chosen.add(mark.sequence)
    after = min(chosen) - 1 if chosen else session.tip
    left_out = [mark for mark in marks if mark.sequence > after and mark.sequence not in chosen]
    return Stretch(after, session.tip, taken, tuple(mark.sequence for mark in left_out if mark.whole))


def leaving(session: Session, *, wanted: bool = False) -> Leaving | None:
    """What is to be summarized before the next turn: where the policy is to summarize, and not all fits or the head is
    about to forget where the first turn is, everything but the last turns that take up half of the room; where it is
    `wanted`, everything but the last turn. What is more than a model reads at once is left for the next time."""
    marks, room = _unsummarized(session), summary_room(session)
    if room < SUMMARY_LEAST:
        return None
    whole = [place for place, mark in enumerate(marks) if mark.whole]
    if wanted:
        stays = len(marks) - whole[-1] if whole else 0
    elif session.window.policy != "compacted" or session.turns + 1 < session.compact_from:
        return None
    else:
        made = summary(session)
        free = session.window.max_tokens - _pinned(session) - (made.tokens if made else 0)
        if len(marks) < MARKS - REST and sum(_room(mark) for mark in marks) <= free:
            return None
        stays = min(_fitting(marks, free // 2), MARKS // 2)
    goes = marks[: len(marks) - stays]
    if not whole or whole[0] >= len(goes):
        return None
    goes = goes[: max(whole[0] + 1, _fitting(goes[::-1], AT_ONCE * session.window.max_tokens))]
    rest = marks[len(goes) :]
    shown = _fitting(rest, session.window.max_tokens - _pinned(session) - room)
    behind = rest[len(rest) - shown :]
    after = behind[0].sequence - 1 if behind else session.tip
    return Leaving(
        goes[0].sequence - 1,
        goes[-1].sequence,
        goes[-1].number,
        not any(mark.whole for mark in rest),
        Stretch(after, session.tip, _pinned(session) + room + sum(_room(mark) for mark in behind)),
    )


def summary_room(session: Session) -> int:
    """The most tokens that a summary may take: half of what the pins leave."""
    return (session.window.max_tokens - _pinned(session)) // 2


async def size(counter: TokenCounter, model: str, messages: tuple[Message, ...]) -> int:
    """Tokens that these messages take of a prompt."""
    texts = [message.text for message in messages]
    for message in messages:
        texts += [call.tool + msgspec.json.encode(call.arguments).decode() for call in message.tool_calls]
    return await counter.count(model, "\n".join(texts)) + _PER_MESSAGE * len(texts)


def _pinned(session: Session) -> int:
    return sum(pin.tokens for pin in session.pins)


def _unsummarized(session: Session) -> tuple[Mark, ...]:
    made = summary(session)
    return tuple(mark for mark in session.marks if made is None or mark.number > made.through)


def _room(mark: Mark) -> int:
    return mark.tokens if mark.whole else 0


def _fitting(marks: tuple[Mark, ...], room: int) -> int:
    """How many of the last turns fit."""
    count = 0
    for mark in reversed(marks):
        if _room(mark) > room:
            break
        room, count = room - _room(mark), count + 1
    return count
