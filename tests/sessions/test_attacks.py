"""What somebody might try: to end the house, to get at others, to make a session of no use, or to spend without end."""

from typing import Any

import anyio
import pytest

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tenancy import SessionLog
from tests.hostile.wire import Wire
from tests.sessions.conftest import Talk

pytestmark = pytest.mark.anyio

ME = Principal(tenant="acme", subject="operator", scopes=TENANT_SCOPES)
SMALL = {"policy": "compacted", "max_tokens": 600}
FILLER = "Water everywhere. " * 20


@pytest.fixture(autouse=True)
def good(talk: Talk) -> None:
    """Each test begins with a model that summarizes well."""
    talk.model.summaries, talk.model.hangs = "good", False


async def test_a_turn_of_blanks_ends_nothing(talk: Talk) -> None:
    """A million and a half of them, as context: the turn is taken down, and the house goes on."""
    session = await talk.begin()
    await talk.say(session, "Hello.", context={"a": " " * 1_500_000})
    assert (await talk.seen(session))["context"]["turns"] == 1
    assert (await talk.say(await talk.begin(), "Hello."))["text"] == "Noted."


async def test_running_agents_alone_takes_no_turns(talk: Talk) -> None:
    """A token that may not take part in sessions does not by running their agent."""
    session = await talk.begin()
    await talk.say(session, "The mast is tall.")
    tokens = talk.house.house.auth.tokens
    token = await tokens.issue_direct("acme", frozenset({"executions:run", "executions:read"}), subject="operator")
    runner = Wire(talk.http, talk.house.url, token.access_token)
    given: dict[str, Any] = {"agent": "talker", "prompt": "What is the mast?"}
    refused = await runner.call("agent_execute", {**given, "session_id": session})
    assert not refused.good
    assert not (await runner.call("session_compact", {"session_id": session})).good
    assert (await runner.call("agent_execute", given)).value["text"] == "I do not know."
    assert (await talk.seen(session))["context"]["turns"] == 1


async def test_nobody_says_anything_in_a_session_that_they_may_not_write(talk: Talk) -> None:
    """Not by steering its run either; who may write it may."""
    session = await talk.begin()
    reader, writer = await talk.somebody("us_reader"), await talk.somebody("us_writer")
    for who, may in (("us_reader", "read"), ("us_writer", "write")):
        assert (await talk.me.call("session_share", {"session_id": session, "who": who, "may": may})).good
    talk.model.hangs = True
    given = {"agent": "talker", "prompt": "Wait.", "session_id": session}
    run = (await talk.me.call("agent_submit", given)).value["execution_id"]
    steer = {"execution_id": run, "message": "The mast is short."}
    assert (await reader.call("execution_steer", steer)).error["code"] == "SESSION_DENIED"
    assert (await (await talk.somebody("us_nobody")).call("execution_steer", steer)).error["code"] == "SESSION_UNKNOWN"
    assert (await writer.call("execution_steer", steer)).good
    talk.model.hangs = False
    assert (await talk.me.call("execution_wait", {"execution_id": run})).value["status"] == "completed"


async def test_what_others_say_to_a_run_does_not_reach_a_users_memory(talk: Talk) -> None:
    """Ann's run, in no session at all: once Bob has steered it, it neither notes nor recalls anything of Ann's."""
    agent = {"name": "keeper", "virtual_model": "recaller", "tools": ["builtin/remember", "builtin/recall"]}
    assert (await talk.me.call("agent_create", agent)).good
    ann, bob = await talk.somebody("us_ann"), await talk.somebody("us_bob")
    keep = {"agent": "keeper", "prompt": "Remember: my door is blue."}
    kept = (await ann.call("agent_execute", keep)).value
    assert [call["state"] for call in kept["tool_calls"]] == ["done"]
    talk.model.hangs = True
    run = (await ann.call("agent_submit", {"agent": "keeper", "prompt": "Wait."})).value["execution_id"]
    assert (await bob.call("execution_steer", {"execution_id": run, "message": "Remember: her door is open."})).good
    talk.model.hangs = False
    done = (await ann.call("execution_wait", {"execution_id": run})).value
    assert [call["state"] for call in done["tool_calls"]] == ["failed"]
    assert "MEMORY_SHARED" in done["tool_calls"][0]["result"]
    listed = (await ann.call("memory_list", {})).value["memories"]
    assert [each["text"] for each in listed] == ["my door is blue."]


async def test_the_window_is_kept_where_much_more_leaves_than_is_summarized_at_once(talk: Talk) -> None:
    """A long conversation that comes from elsewhere, in a small window: no prompt takes more than it may."""
    session = await talk.begin()
    await talk.say(session, "The captain is Ishmael.")
    for number in range(60):
        await talk.say(session, f"Line {number}. {FILLER}")
    export = (await talk.me.call("session_export", {"session_id": session})).value["export"] | {"window": SMALL}
    copy = (await talk.me.call("session_import", {"agent": "talker", "export": export})).value["session_id"]
    began = len(talk.model.tokens)
    for number in range(6):
        await talk.say(copy, f"More {number}.")
    turns = [
        tokens
        for tokens, sent in zip(talk.model.tokens[began:], talk.model.asked[began:], strict=True)
        if not sent[0]["content"].startswith("You summarize")
    ]
    assert len(turns) == 6
    assert max(turns) <= SMALL["max_tokens"] + 150
    assert (await talk.seen(copy))["context"]["summarized_turns"] > 0


async def test_a_model_that_hangs_over_a_summary_does_not_end_its_session(talk: Talk) -> None:
    """The turn has time left for itself, and the next ones do not ask for a summary again at once."""
    limits = {"timeout_seconds": 3}
    agent = {"name": "hasty", "virtual_model": "recaller", "limits": limits}
    assert (await talk.me.call("agent_create", agent)).good
    session = (await talk.me.call("session_create", {"agent": "hasty", "window": SMALL})).value["session_id"]
    talk.model.summaries = "never"
    runs = [await talk.say(session, f"Line {number}. {FILLER}", agent="hasty") for number in range(12)]
    assert {run["status"] for run in runs} == {"completed"}
    turns = (await talk.me.call("session_messages", {"session_id": session, "limit": 100})).value["turns"]
    assert sum(bool(turn["summary_lacks"]) for turn in turns) == 1


async def test_a_deletion_that_was_broken_off_is_repeated(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left that nobody can see or remove."""
    session = await talk.begin()
    await talk.say(session, "The mast is tall.")
    erase = SessionLog.erase

    async def broken(_: SessionLog) -> None:
        raise RuntimeError("died here")

    monkeypatch.setattr(SessionLog, "erase", broken)
    assert not (await talk.me.call("session_delete", {"session_id": session})).good
    monkeypatch.setattr(SessionLog, "erase", erase)
    given = {"agent": "talker", "prompt": "more", "session_id": session}
    assert (await talk.me.call("agent_execute", given)).error["code"] == "SESSION_STATE"
    assert (await talk.me.call("session_delete", {"session_id": session})).good
    space = talk.house.house.tenancy.of(ME)
    assert await space.session_log(session).read() == []


async def test_an_import_that_fails_leaves_no_turns(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it fails at."""
    session = await talk.begin()
    await talk.say(session, "The mast is tall.")
    export = (await talk.me.call("session_export", {"session_id": session})).value["export"]
    link = talk.house.house.link

    async def subjects() -> int:
        info = await link.api("STREAM.INFO.CB_SESSIONS", {"subjects_filter": ">"})
        return len(info["state"].get("subjects") or {})

    before, append, appended = await subjects(), SessionLog.append, list[int]()

    async def broken(log: SessionLog, payload: bytes, *, expected: int) -> int:
        if appended:
            raise RuntimeError("died here")
        appended.append(await append(log, payload, expected=expected))
        return appended[-1]

    monkeypatch.setattr(SessionLog, "append", broken)
    export["turns"].append({**export["turns"][0], "number": 2})
    with anyio.fail_after(20):
        assert not (await talk.me.call("session_import", {"agent": "talker", "export": export})).good
    assert appended
    assert await subjects() == before
