"""What was stored by any earlier version is read, and what a later one stored is left alone."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.sessions.record import VERSION, Session, Turn
from mcp_agents.sessions.window import stretch
from tests.sessions.conftest import Talk

OLDEST: dict[str, Any] = json.loads((Path(__file__).parent / "oldest.json").read_text("utf-8"))
"""A head, its two turns and its export, as version 1 wrote them."""


def test_the_oldest_head_and_turns_are_read() -> None:
    """With every value they had; what came later is as if there was none, and they are written as of today."""
    session = msgspec.convert(OLDEST["head"], Session)
    turns = [msgspec.convert(each, Turn) for each in OLDEST["turns"]]
    assert (OLDEST["head"]["v"], {each["v"] for each in OLDEST["turns"]}) == (1, {1})
    assert (session.turns, session.cost_micro_usd, session.usage.total, session.user_id) == (2, 31, 44, "operator")
    assert [mark.weight for mark in session.marks] == [0, 0]
    assert session.summary is None
    assert stretch(session).tokens == 30
    assert [turn.messages[0].text for turn in turns] == ["The colour is green.", "What is the colour?"]
    for read, kind in ((session, Session), *((turn, Turn) for turn in turns)):
        written = msgspec.json.encode(read)
        assert json.loads(written)["v"] == VERSION
        assert msgspec.json.decode(written, type=kind) == read


@pytest.mark.parametrize("kind", [Session, Turn])
def test_a_later_version_is_refused(kind: type[Session | Turn]) -> None:
    """So that an older program in a cluster does not write back half of it."""
    later = {**(OLDEST["head"] if kind is Session else OLDEST["turns"][0]), "v": VERSION + 1}
    with pytest.raises(msgspec.ValidationError, match="later version"):
        msgspec.convert(later, kind)


@pytest.mark.anyio
async def test_a_session_of_the_oldest_version_goes_on(talk: Talk) -> None:
    """Stored as it was then, it takes its next turn, and knows what was said."""
    house = talk.house.house
    agent = (await talk.me.call("agent_get", {"agent": "talker"})).value["id"]
    space = house.tenancy.of(Principal(tenant="acme", subject="operator", scopes=TENANT_SCOPES))
    head = OLDEST["head"] | {"agent_id": agent, "tenant_id": "acme", "last_activity": datetime.now(UTC).isoformat()}
    log, tip, marks = space.session_log(head["id"]), 0, []
    for turn, mark in zip(OLDEST["turns"], head["marks"], strict=True):
        tip = await log.append(msgspec.json.encode(turn), expected=tip)
        marks.append([tip, *mark[1:]])
    stored = {**head, "tip": tip, "marks": marks}
    await space.records("cb_agent_sessions", dict).create(head["id"], value=stored)
    assert (await talk.say(head["id"], "What is the colour?"))["text"] == "green"
    seen = await talk.seen(head["id"])
    assert seen["context"]["turns"] == 3


@pytest.mark.anyio
async def test_an_export_of_the_oldest_version_is_taken_in(talk: Talk) -> None:
    """And goes on."""
    made = (await talk.me.call("session_import", {"agent": "talker", "export": OLDEST["export"]})).value
    assert (await talk.say(made["session_id"], "What is the colour?"))["text"] == "green"
    export = OLDEST["export"] | {"v": 2}
    assert (await talk.me.call("session_import", {"agent": "talker", "export": export})).error[
        "code"
    ] == "IMPORT_INVALID"
