"""The life of a session: its states, who may do what with it, and that nothing of a removed one is left."""

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mcp_agents.adapters.memory_log import MemoryLog
from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.adapters.nats_objects import NatsObjects
from mcp_agents.kernel.errors import Conflict, NotFound
from mcp_agents.kernel.faults import NoFaults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Doors, Tenancy
from mcp_agents.sessions.book import SessionBook, heads
from mcp_agents.sessions.record import State, Window
from tests.sessions.conftest import Talk
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio

ME = Principal(tenant="acme", subject="me", scopes=frozenset({"sessions:run"}))
STATES: tuple[State, ...] = ("active", "suspended", "closed")
WAYS = {("active", "suspended"), ("suspended", "active"), ("active", "closed"), ("suspended", "closed")}
MOVES = {"session_suspend": "suspended", "session_activate": "active", "session_close": "closed"}


class Words:
    """Counts words."""

    async def count(self, model: str, text: str) -> int:
        return len(text.split())


def run(coroutine: Any) -> Any:
    """Drives what never really waits: everything is in memory."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value


class Life(RuleBasedStateMachine):
    """Any order of moves, pins and removals, against what the table says."""

    def __init__(self) -> None:
        super().__init__()
        clock = TestClock()
        store: Any = MemoryStore(clock)
        shut: Any = None
        self.space = Tenancy(Doors(store, MemoryLog(), shut, shut, Gone(), clock, NoFaults())).of(ME)
        self.book = SessionBook(Words(), clock)
        made = run(self.book.create(self.space, ME, "ag", window=Window(max_tokens=10), metadata={}))
        self.id, self.state, self.pins, self.there = made.value.id, "active", list[str](), True

    @rule(state=st.sampled_from(STATES))
    def moves(self, state: State) -> None:
        """To any state."""
        if not self.there:
            with pytest.raises(NotFound):
                run(self.book.move(self.space, ME, self.id, state, expected=None))
        elif state == self.state or (self.state, state) in WAYS:
            run(self.book.move(self.space, ME, self.id, state, expected=None))
            self.state = state
        else:
            with pytest.raises(Conflict):
                run(self.book.move(self.space, ME, self.id, state, expected=None))

    @rule(text=st.sampled_from(["one", "two words", "three words here"]), remove=st.booleans())
    def pins_or_unpins(self, text: str, remove: bool) -> None:
        """A text that always fits; a closed session takes no more."""
        if not self.there:
            return
        if self.state == "closed" and not remove:
            with pytest.raises(Conflict):
                run(self.book.pin(self.space, ME, self.id, text, remove=False))
            return
        run(self.book.pin(self.space, ME, self.id, text, remove=remove))
        if remove and text in self.pins:
            self.pins.remove(text)
        elif not remove and text not in self.pins:
            self.pins.append(text)

    @rule()
    def removes(self) -> None:
        """For good."""
        if self.there:
            run(self.book.remove(self.space, ME, self.id, expected=None))
            self.there = False

    @invariant()
    def is_as_the_table_says(self) -> None:
        """What is stored is what was allowed."""
        found = run(heads(self.space).get(self.id))
        assert (found is not None) == self.there
        if found:
            assert (found.value.state, [pin.text for pin in found.value.pins]) == (self.state, self.pins)


class Gone:
    """Objects, of which there are none."""

    async def erase(self, prefix: str) -> int:
        return 0


def test_every_order_of_changes_ends_as_the_table_says() -> None:
    """A hundred lives of up to thirty changes."""
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


@pytest.mark.parametrize(("first", "second"), list(product(MOVES, MOVES)))
async def test_over_the_wire_as_well(talk: Talk, first: str, second: str) -> None:
    """Two moves behind each other; only an active session takes a turn."""
    session, state = await talk.begin(), "active"
    for move in (first, second):
        answered = await talk.me.call(move, {"session_id": session})
        wanted = MOVES[move]
        assert answered.good == (wanted == state or (state, wanted) in WAYS), (state, move)
        state = wanted if answered.good else state
    assert (await talk.seen(session))["state"] == state
    ran = await talk.me.call("agent_execute", {"agent": "talker", "prompt": "hi", "session_id": session})
    assert ran.good == (state == "active")
    if state != "active":
        assert ran.error["code"] == "SESSION_STATE"


TOOLS: dict[str, dict[str, Any]] = {
    "session_get": {},
    "session_messages": {},
    "session_suspend": {},
    "session_activate": {},
    "session_close": {},
    "session_pin": {"text": "x"},
    "session_delete": {},
}


@pytest.mark.parametrize("tool", TOOLS)
async def test_nobody_else_finds_it_but_administrators(talk: Talk, tool: str) -> None:
    """Somebody of the same tenant with every other right gets the answer of an id that never was."""
    session = await talk.begin()
    other = await talk.somebody("eve")
    foreign = await other.call(tool, {"session_id": session, **TOOLS[tool]})
    never = await other.call(tool, {"session_id": f"{session[:-4]}vvvv", **TOOLS[tool]})
    assert foreign.error == never.error
    assert foreign.error["code"] == "SESSION_UNKNOWN"
    admin = await talk.somebody("adam", "sessions:admin sessions:read sessions:run")
    assert (await admin.call(tool, {"session_id": session, **TOOLS[tool]})).good


async def test_nobody_else_goes_on_with_it_or_lists_it(talk: Talk) -> None:
    """A name is not a capability."""
    session, other = await talk.begin(), await talk.somebody("eve")
    given = {"agent": "talker", "prompt": "go on", "session_id": session}
    assert (await other.call("agent_execute", given)).error["code"] == "SESSION_UNKNOWN"
    theirs = await talk.begin(other)
    listed = (await other.call("session_list", {})).value["sessions"]
    assert [each["session_id"] for each in listed] == [theirs]
    mine = [each["session_id"] for each in (await talk.me.call("session_list", {"limit": 100})).value["sessions"]]
    assert {session, theirs} <= set(mine)  # the command line's token holds sessions:admin


async def test_pages_end_and_hold_each_session_once(talk: Talk) -> None:
    """With a cursor, filtered by state."""
    other = await talk.somebody("lister")
    made = [await talk.begin(other) for _ in range(5)]
    await other.call("session_close", {"session_id": made[2]})
    found, cursor = list[str](), ""
    while True:
        page = (await other.call("session_list", {"limit": 2, "cursor": cursor, "state": "active"})).value
        found += [each["session_id"] for each in page["sessions"]]
        if not (cursor := page["next_cursor"]):
            break
    assert found == [each for each in reversed(made) if each != made[2]]


async def test_a_removed_session_leaves_nothing(talk: Talk) -> None:
    """Its head, its turns and the parts of large ones; its runs are still there."""
    session = await talk.begin()
    run_id = (await talk.say(session, "big " * 200_000))["execution_id"]
    await talk.seen(session)
    house = talk.house.house
    space = house.tenancy.of(Principal(tenant="acme", subject="x", scopes=frozenset()))
    link, objects = house.link, NatsObjects(house.link)
    subject = f"cb.agent.session.acme.{session}"
    stored = [json.loads(message.data) async for _, message in link.each("CB_SESSIONS", subject, 0)]
    assert len(stored) == 1
    assert await objects.get(stored[0]["object"]) is not None
    assert len((await space.session_log(session).read())[0].payload) > 800_000
    assert (await talk.me.call("session_delete", {"session_id": session})).good
    assert (await talk.me.call("session_get", {"session_id": session})).error["code"] == "SESSION_UNKNOWN"
    assert [message async for _, message in link.each("CB_SESSIONS", subject, 0)] == []
    assert await objects.get(stored[0]["object"]) is None
    assert (await talk.me.call("execution_get", {"execution_id": run_id})).good


async def test_a_session_that_runs_out_of_time_is_closed(talk: Talk) -> None:
    """Some time after its last turn, or after its first day; each turn begins the wait anew."""
    idle, short = await talk.begin(idle_seconds=100), await talk.begin(max_seconds=150)
    for _ in range(2):
        talk.clock.advance(60)
        assert (await talk.say(idle, "Still here."))["text"] == "Noted."
    assert (await talk.seen(short))["state"] == "active"
    talk.clock.advance(60)
    refused = await talk.me.call("agent_execute", {"agent": "talker", "prompt": "late", "session_id": short})
    assert refused.error["code"] == "SESSION_STATE"
    assert (await talk.say(idle, "Still here, too."))["text"] == "Noted."
    talk.clock.advance(101)
    assert (await talk.seen(idle))["state"] == "closed"
    closed = (await talk.me.call("session_list", {"state": "closed", "limit": 100})).value["sessions"]
    assert {idle, short} <= {each["session_id"] for each in closed}
    assert (await talk.me.call("session_activate", {"session_id": idle})).error["code"] == "SESSION_STATE"
    assert (await talk.me.call("session_messages", {"session_id": idle})).value["turns"]


async def test_a_budget_of_a_session_stops_the_call_that_would_break_it(talk: Talk) -> None:
    """And no other session's."""
    session, other = await talk.begin(), await talk.begin()
    limit = {"scope": "session", "subject": session, "period": "total", "limit_tokens": 20}
    assert (await talk.me.call("budget_set", limit)).good
    asked = len(talk.model.asked)
    given = {"agent": "talker", "prompt": "word " * 200, "session_id": session}
    refused = await talk.me.call("agent_execute", given)
    assert refused.result["structuredContent"]["error"]["code"] == "BUDGET_EXHAUSTED"
    assert len(talk.model.asked) == asked
    assert (await talk.say(other, "word " * 200))["text"] == "Noted."


async def test_what_an_agent_of_a_turn_calls_is_paid_by_the_session_too(talk: Talk) -> None:
    """A call of another agent that would break the session's budget is not made, and the turn is told so."""
    boss = {"name": "boss", "virtual_model": "rule-based", "tools": ["agent:talker"]}
    assert (await talk.me.call("agent_create", boss)).good
    session = (await talk.me.call("session_create", {"agent": "boss"})).value["session_id"]
    prompt = f"call agent__talker with {json.dumps({'prompt': 'word ' * 200})}"
    given = {"agent": "boss", "prompt": prompt, "session_id": session}
    spent = (await talk.me.call("agent_execute", given)).value
    assert spent["tool_calls"][0]["state"] == "done"
    limit = {"scope": "session", "subject": session, "period": "total", "limit_micro_usd": 1}
    assert (await talk.me.call("budget_set", limit)).good
    asked = len(talk.model.asked)
    refused = (await talk.me.call("agent_execute", given)).result["structuredContent"]
    assert refused["tool_calls"][0]["state"] == "failed"
    assert "budget" in refused["tool_calls"][0]["result"]
    assert len(talk.model.asked) == asked
    assert (await talk.seen(session))["context"]["cost_accumulator"] == spent["children_cost_micro_usd"] > 0
