"""Whose job is next: properties that hold for any mix of tenants, agents, priorities and weights."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.fairness import PATIENCE, Turns
from mcp_agents.kernel.job import PRIORITIES, Lane

lanes = st.builds(
    Lane, st.sampled_from("abcde"), st.sampled_from(["ag_1", "ag_2", "ag_3"]), st.sampled_from(PRIORITIES)
)
counts = st.dictionaries(lanes, st.integers(1, 40), max_size=20)
weights = st.fixed_dictionaries(dict.fromkeys("abcde", st.integers(1, 5)))


def per_tenant(of: dict[Lane, int]) -> Counter[str]:
    """The sums by tenant."""
    found: Counter[str] = Counter()
    for lane, count in of.items():
        found[lane.tenant] += count
    return found


def starts(turns: Turns, waiting: dict[Lane, int], slots: int, number: int) -> list[Lane]:
    """The first `number` jobs that start when each ends before the slots are full; one at a time."""
    left, order = dict(waiting), []
    running: list[Lane] = []
    for _ in range(number):
        if len(running) == slots:
            running.pop(0)
        [lane] = turns.grant(1, left, Counter(running))
        order.append(lane)
        running.append(lane)
        left[lane] -= 1
        if not left[lane]:
            del left[lane]
    return order


@given(room=st.integers(0, 60), waiting=counts, running=counts, weights=weights)
def test_all_the_room_is_used_and_nothing_is_made_up(
    room: int, waiting: dict[Lane, int], running: dict[Lane, int], weights: dict[str, int]
) -> None:
    """Work is conserved: the room is filled or nothing waits any more."""
    granted = Turns(lambda tenant, _: weights[tenant]).grant(room, waiting, running)
    assert sum(granted.values()) == min(room, sum(waiting.values()))
    assert all(0 < count <= waiting[lane] for lane, count in granted.items())


@given(room=st.integers(1, 60), waiting=counts, running=counts, weights=weights)
def test_nobody_gets_more_than_a_share_while_another_waits_below_its_own(
    room: int, waiting: dict[Lane, int], running: dict[Lane, int], weights: dict[str, int]
) -> None:
    """Whoever stays below its fair share with jobs left has lost no slot to a tenant above its own."""
    granted = per_tenant(Turns(lambda tenant, _: weights[tenant]).grant(room, waiting, running))
    held, wanted = per_tenant(running), per_tenant(waiting)
    active = set(held) | set(wanted)
    slots = room + held.total()
    share = {tenant: slots * weights[tenant] / sum(weights[each] for each in active) for tenant in active}
    hungry = [t for t in wanted if granted[t] < wanted[t] and held[t] + granted[t] < share[t]]
    greedy = [t for t in granted if granted[t] and held[t] + granted[t] >= share[t] + 1]
    assert not (hungry and greedy)


@given(weights=weights, slots=st.integers(1, 7))
def test_turns_go_round_by_weight(weights: dict[str, int], slots: int) -> None:
    """Over many turns of jobs that last alike, starts are in proportion to the weights, to within a few."""
    waiting = {Lane(tenant, "ag_1", "normal"): 10_000 for tenant in weights}
    total = sum(weights.values())
    started = Counter(
        lane.tenant for lane in starts(Turns(lambda tenant, _: weights[tenant]), waiting, slots, 20 * total)
    )
    # A slot is not divisible: with few of them a tenant's share may lie between two numbers of slots.
    assert all(
        abs(started[tenant] / (20 * total) - weight / total) <= 1 / total + 0.12 for tenant, weight in weights.items()
    )
    if slots == 1:
        assert all(abs(started[tenant] - 20 * weight) <= len(weights) for tenant, weight in weights.items())


@given(quiet=st.integers(1, 5), room=st.integers(1, 30), running=st.integers(0, 300))
def test_a_quiet_tenant_comes_first_when_a_slot_frees(quiet: int, room: int, running: int) -> None:
    """However much a noisy tenant runs and has waiting, the quiet one's jobs are among the first."""
    noisy, calm = Lane("noisy", "ag_1", "high"), Lane("quiet", "ag_1", "low")
    turns = Turns()
    turns.grant(500, {noisy: 500}, {})
    granted = turns.grant(room, {noisy: 2000, calm: quiet}, {noisy: running})
    assert granted[calm] >= min(quiet, -(-room // 2))


def test_an_idle_tenant_saves_nothing_up() -> None:
    """Who comes back after a long time shares from then on and does not catch up."""
    a, b = Lane("a", "ag_1", "normal"), Lane("b", "ag_1", "normal")
    turns = Turns()
    turns.took(b)
    starts(turns, {a: 1000}, 1, 500)
    order = starts(turns, {a: 1000, b: 1000}, 1, 20)
    assert Counter(order) == {a: 10, b: 10}


def test_agents_of_a_tenant_take_turns() -> None:
    """A tenant's busy agent leaves its other agents their part, and whoever runs least goes first."""
    lanes = [Lane("a", f"ag_{number}", "normal") for number in range(4)]
    waiting = {lanes[0]: 1000, lanes[1]: 3, lanes[2]: 3, lanes[3]: 3}
    assert set(starts(Turns(), waiting, 1, 12)[:12]) == set(lanes)
    assert Counter(starts(Turns(), waiting, 1, 12)) == dict.fromkeys(lanes, 3)
    granted = Turns().grant(3, waiting, {lanes[0]: 5, lanes[1]: 1})
    assert granted == {lanes[2]: 1, lanes[3]: 1, lanes[1]: 1} or granted == {lanes[2]: 2, lanes[3]: 1}


@given(
    weights=st.fixed_dictionaries(dict.fromkeys(["ag_1", "ag_2", "ag_3"], st.integers(1, 5))), slots=st.integers(1, 7)
)
def test_turns_of_agents_go_by_their_weights(weights: dict[str, int], slots: int) -> None:
    """Among the agents of a tenant, starts are in proportion to the weights, to within a few."""
    waiting = {Lane("a", agent_id, "normal"): 10_000 for agent_id in weights}
    total = sum(weights.values())
    turns = Turns(lambda _, agent_id: weights.get(agent_id, 1))
    started = Counter(lane.agent_id for lane in starts(turns, waiting, slots, 20 * total))
    for agent_id, weight in weights.items():
        assert abs(started[agent_id] / (20 * total) - weight / total) <= 1 / total + 0.12


def test_higher_priorities_go_first_and_lower_ones_do_not_starve() -> None:
    """Strict order, but for one turn after `PATIENCE` turns without."""
    high, normal, low = (Lane("a", "ag_1", priority) for priority in PRIORITIES)
    assert starts(Turns(), {low: 2, normal: 2, high: 2}, 1, 6) == [high, high, normal, normal, low, low]
    order = starts(Turns(), {low: 1000, normal: 1000, high: 1000}, 1, 100)
    assert order[:PATIENCE] == [high] * PATIENCE
    assert order.count(high) >= 75
    assert min(order.count(normal), order.count(low)) >= 8


@given(waiting=counts, turns=st.integers(1, 200))
def test_every_lane_is_served_in_the_end(waiting: dict[Lane, int], turns: int) -> None:
    """Taking one at a time empties everything in exactly as many turns as there are jobs."""
    total = sum(waiting.values())
    assert Counter(starts(Turns(), waiting, 3, total)) == Counter(waiting)


def test_what_was_granted_in_vain_is_not_held_against_a_tenant() -> None:
    """A refund puts a tenant back where it stood."""
    a, b = Lane("a", "ag_1", "normal"), Lane("b", "ag_1", "normal")
    turns = Turns()
    assert turns.grant(50, {a: 50, b: 1}, {}) == {a: 49, b: 1}
    turns.refund(a, 48)
    assert Counter(starts(turns, {a: 100, b: 100}, 1, 20)) == {a: 10, b: 10}
