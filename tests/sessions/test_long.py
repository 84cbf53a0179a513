"""A long conversation: what is sent stays within the window, what is pinned stays known, nothing is lost."""

import pytest

from tests.sessions.conftest import Talk

pytestmark = pytest.mark.anyio

TURNS = 500
BUDGET = 1_500
AROUND = 200
"""Tokens of instructions and prompt, at most."""


async def test_five_hundred_turns_stay_within_the_window(talk: Talk) -> None:
    """Counted by the model's own tokenizer in what really arrived there."""
    session = await talk.begin(window={"max_tokens": BUDGET})
    await talk.me.call("session_pin", {"session_id": session, "text": "The ship is the Argo."})
    await talk.say(session, "Hello.")
    await talk.say(session, "How are you?")
    await talk.say(session, "The captain is Ishmael.")  # turn 3
    assert (await talk.say(session, "What is the captain?"))["text"] == "Ishmael"
    began = len(talk.model.tokens)
    for number in range(TURNS - 6):
        await talk.say(session, f"The mark of day {number} is {number * 7919 % 1000}. " + "Water everywhere. " * 12)
    sent = talk.model.tokens[began:]
    assert max(sent) <= BUDGET + AROUND
    assert max(sent) > BUDGET * 0.8  # it is used, too
    assert (await talk.say(session, "What is the ship?"))["text"] == "the Argo"
    assert (await talk.say(session, "What is the captain?"))["text"] == "I do not know."
    seen = await talk.seen(session)
    assert seen["context"]["turns"] == TURNS
    assert seen["context"]["window_tokens"] <= BUDGET
    found = (await talk.me.call("session_messages", {"session_id": session, "q": "captain is"})).value
    assert [turn["number"] for turn in found["turns"]] == [3]
    numbers, before = list[int](), 0
    while True:
        page = (await talk.me.call("session_messages", {"session_id": session, "before": before, "limit": 100})).value
        numbers += [turn["number"] for turn in page["turns"]]
        if not (before := page["next_before"]):
            break
    assert numbers == list(range(TURNS, 0, -1))
    assert (await talk.me.call("agent_update", {"agent": "talker", "tools": ["builtin/search_session"]})).good
    run = await talk.say(session, "What is the captain?")
    assert run["text"] == "Ishmael", "looked up by the model itself, in a conversation of 500 turns"
    assert [call["tool"] for call in run["tool_calls"]] == ["builtin__search_session"]
    assert talk.model.tokens[-1] <= BUDGET + AROUND + 1_000  # and what was found
