"""Turns: each goes on where the last one ended, one at a time, and none is lost."""

from typing import Any

import anyio
import pytest

from tests.sessions.conftest import Talk

pytestmark = pytest.mark.anyio


async def test_a_turn_goes_on_where_the_last_one_ended(talk: Talk) -> None:
    """What was said before is in the next prompt, in order; a run without the session knows nothing of it."""
    session = await talk.begin()
    assert (await talk.say(session, "The colour is green."))["text"] == "Noted."
    run = await talk.say(session, "What is the colour?")
    assert run["text"] == "green"
    sent = talk.model.asked[-1]
    assert [(each["role"], each["content"]) for each in sent] == [
        ("system", "You talk."),
        ("user", "The colour is green."),
        ("assistant", "Noted."),
        ("user", "What is the colour?"),
    ]
    alone = await talk.me.call("agent_execute", {"agent": "talker", "prompt": "What is the colour?"})
    assert alone.value["text"] == "I do not know."
    seen = await talk.seen(session)
    assert (seen["context"]["turns"], seen["context"]["messages"], seen["running"]) == (2, 4, "")


async def test_the_record_has_what_the_brief_asks_for(talk: Talk) -> None:
    """Every field, with figures that are those of its runs."""
    session = await talk.begin(metadata={"ticket": 7})
    runs = [await talk.say(session, text) for text in ("The size is 4.", "What is the size?")]
    seen = await talk.seen(session)
    assert {"session_id", "agent_id", "tenant_id", "user_id", "created_at", "last_activity", "context", "state"} < set(
        seen
    )
    assert (seen["tenant_id"], seen["user_id"], seen["metadata"], seen["state"]) == (
        "acme", "operator", {"ticket": 7}, "active",
    )  # fmt: skip
    spent = sum(run["usage"]["input_tokens"] + run["usage"]["output_tokens"] for run in runs)
    assert seen["context"]["total_tokens"] == spent > 0
    assert seen["context"]["cost_accumulator"] == sum(run["cost_micro_usd"] for run in runs)


async def test_one_turn_at_a_time(talk: Talk) -> None:
    """Of twenty turns at once each is run or told that the session is busy; what was run is there, in some order."""
    session, results = await talk.begin(), list[Any]()

    async def one(number: int) -> None:
        given = {"agent": "talker", "prompt": f"The number is {number}.", "session_id": session}
        results.append(await talk.me.call("agent_execute", given))

    async with anyio.create_task_group() as crowd:
        for number in range(20):
            crowd.start_soon(one, number)
    good = [each for each in results if each.good]
    refused = [each for each in results if not each.good]
    assert good
    assert {each.error["code"] for each in refused} <= {"SESSION_BUSY"}
    assert all(each.error["retry_after_ms"] for each in refused)
    seen = await talk.seen(session)
    assert seen["context"]["turns"] == len(good)
    page = (await talk.me.call("session_messages", {"session_id": session, "limit": 100})).value
    assert [turn["number"] for turn in page["turns"]] == list(range(len(good), 0, -1))
    ran = {each.value["execution_id"] for each in good}
    assert {turn["execution_id"] for turn in page["turns"]} == ran


async def test_a_repeated_call_is_the_same_turn(talk: Talk) -> None:
    """Under one idempotency key, also while the session would be busy."""
    session = await talk.begin()
    first = await talk.say(session, "The day is Monday.", idempotency_key="once")
    again = await talk.say(session, "The day is Monday.", idempotency_key="once")
    assert first["execution_id"] == again["execution_id"]
    other = await talk.begin()
    given = {"agent": "talker", "prompt": "The day is Monday.", "session_id": other, "idempotency_key": "once"}
    assert (await talk.me.call("agent_execute", given)).error["code"] == "IDEMPOTENCY_MISMATCH"
    assert (await talk.seen(session))["context"]["turns"] == 1


async def test_a_turn_that_broke_off_is_kept_and_not_shown_again(talk: Talk) -> None:
    """It is in the session, and the model never hears of it."""
    session = await talk.begin()
    await talk.say(session, "The river is long.")
    given = {"agent": "talker", "prompt": "The secret is 42.", "session_id": session}
    failed = await talk.me.call("agent_execute", {**given, "output_schema": {"type": "object"}})
    assert failed.result["structuredContent"]["status"] == "failed"
    assert (await talk.say(session, "What is the secret?"))["text"] == "I do not know."
    page = (await talk.me.call("session_messages", {"session_id": session, "q": "secret is"})).value
    assert [(turn["number"], turn["status"]) for turn in page["turns"]] == [(2, "failed")]


async def test_a_session_is_with_one_agent(talk: Talk) -> None:
    """Another one's runs are no turns of it."""
    session = await talk.begin()
    await talk.me.call("agent_create", {"name": "other"})
    refused = await talk.me.call("agent_execute", {"agent": "other", "prompt": "say hi", "session_id": session})
    assert refused.error["code"] == "SESSION_OF_ANOTHER_AGENT"
    assert (await talk.seen(session))["running"] == ""


async def test_what_is_pinned_stays_in_sight(talk: Talk) -> None:
    """However small the window; taken off, it is gone."""
    session = await talk.begin(window={"max_tokens": 500})
    pin = {"session_id": session, "text": "The port is 8443."}
    assert (await talk.me.call("session_pin", pin)).value["context"]["pinned"] == ["The port is 8443."]
    await talk.me.call("session_pin", pin)
    await talk.say(session, "Filler. " * 600)
    assert (await talk.say(session, "What is the port?"))["text"] == "8443"
    assert (await talk.me.call("session_pin", {**pin, "remove": True})).value["context"]["pinned"] == []
    assert (await talk.say(session, "What is the port?"))["text"] == "I do not know."
