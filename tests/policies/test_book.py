"""Rules as they are stored: versions, compare-and-set, two processes, tenants."""

import anyio
import pytest

from mcp_agents.adapters.memory_store import MemoryStore
from mcp_agents.kernel.errors import Conflict, Invalid, NotFound
from mcp_agents.kernel.policy import Act
from mcp_agents.kernel.principal import Principal
from mcp_agents.security.policy.book import PolicyBook
from mcp_agents.security.policy.engine import PolicyEngine
from mcp_agents.security.policy.rules import LIMIT, Match, Rule
from tests.auth.desk import YieldingStore
from tests.scaling.conftest import space_of
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio

NO = Rule(actions=("call_tool",))
CALL = Act(action="call_tool", resource="x/y")


def caller(tenant: str) -> Principal:
    """Somebody of a tenant."""
    return Principal(tenant=tenant, subject="ann", scopes=frozenset())


async def test_a_change_is_seen_by_every_process_and_no_other_tenant() -> None:
    """Two engines over one store; nothing has to be told."""
    clock = TestClock()
    store = MemoryStore(clock)
    here, there = PolicyEngine(PolicyBook(clock)), PolicyEngine(PolicyBook(clock))
    acme, globex = space_of(store, clock, "acme"), space_of(store, clock, "globex")
    assert (await there.decide(acme, caller("acme"), CALL)).effect == "allow"
    await here.set(acme, "no", NO, by="ann")
    assert (await there.decide(acme, caller("acme"), CALL)).effect == "deny"
    assert (await there.decide(globex, caller("globex"), CALL)).effect == "allow"
    await there.remove(acme, "no", by="ann")
    assert (await here.decide(acme, caller("acme"), CALL)).effect == "allow"


async def test_a_caller_of_another_tenant_is_denied_whatever_the_rules_say() -> None:
    """The fence is before the rules."""
    clock = TestClock()
    space = space_of(MemoryStore(clock), clock, "acme")
    assert (await PolicyEngine(PolicyBook(clock)).decide(space, caller("globex"), CALL)).effect == "deny"


async def test_every_change_is_a_version_that_can_be_read_and_restored() -> None:
    """Versions count on over a removal; the same rule again is no change."""
    clock = TestClock()
    space = space_of(MemoryStore(clock), clock, "acme")
    engine = PolicyEngine(PolicyBook(clock))
    other = Rule(actions=("use_model",))
    assert [(await engine.set(space, "p", rule, by="ann")).version for rule in (NO, NO, other)] == [1, 1, 2]
    await engine.remove(space, "p", by="bob", expected=2)
    with pytest.raises(NotFound):
        await engine.book.get(space, "p")
    assert (await engine.book.version(space, "p", 1)).rule == NO
    assert (await engine.book.version(space, "p", 2)).rule == other
    with pytest.raises(NotFound):
        await engine.book.version(space, "p", 3)
    again = await engine.set(space, "p", (await engine.book.version(space, "p", 1)).rule, by="ann", expected=0)
    assert (again.version, again.rule) == (4, NO)


async def test_of_changes_at_once_all_are_made_and_only_one_replaces_a_version() -> None:
    """Twenty processes set twenty rules; then twenty replace the same version."""
    clock = TestClock()
    store = YieldingStore(clock)
    space = space_of(store, clock, "acme")
    won: list[int] = []

    async def add(number: int) -> None:
        await PolicyEngine(PolicyBook(clock)).set(space, f"p{number}", NO, by="ann")

    async def replace(number: int) -> None:
        rule = Rule(actions=("call_tool",), reason=str(number))
        try:
            await PolicyEngine(PolicyBook(clock)).set(space, "p0", rule, by="ann", expected=1)
        except Conflict:
            return
        won.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(add, number)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(replace, number)
    engine = PolicyEngine(PolicyBook(clock))
    held = (await engine.book.rules(space)).value.policies
    assert sorted(held) == sorted(f"p{number}" for number in range(10))
    assert len(won) == 1
    assert held["p0"].rule.reason == str(won[0])
    assert (await engine.book.version(space, "p0", 2)).rule == held["p0"].rule


async def test_there_are_at_most_two_hundred() -> None:
    """More would make each first decision slow."""
    clock = TestClock()
    space = space_of(MemoryStore(clock), clock, "acme")
    book = PolicyBook(clock)
    for number in range(LIMIT):
        rule = Rule(actions=("call_tool",), when=Match(agents=(f"a{number}",)))
        await book.set(space, f"p{number}", rule, by="ann", expected=None, judge=lambda _: None)
    with pytest.raises(Invalid):
        await book.set(space, "more", NO, by="ann", expected=None, judge=lambda _: None)
    engine = PolicyEngine(book)
    act = Act(action="call_tool", resource="x/y", agent=f"a{LIMIT - 1}")
    assert (await engine.decide(space, caller("acme"), act)).effect == "deny"


async def test_rules_that_cedar_refuses_are_not_stored() -> None:
    """What is in force stays."""
    clock = TestClock()
    space = space_of(MemoryStore(clock), clock, "acme")
    engine = PolicyEngine(PolicyBook(clock))
    await engine.set(space, "p", NO, by="ann")
    with pytest.raises(Invalid):
        await engine.set(space, "p", Rule(cedar="forbid(principal, action, resource) when { 1 };"), by="ann")
    assert (await engine.book.get(space, "p")).rule == NO
