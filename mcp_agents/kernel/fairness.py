"""Whose job is next: a pure policy over lanes. It knows no queue, no clock and no wire.

Between tenants: whoever runs less than its fair share of the slots goes before everybody else; inside each
group turns go round by weight (start-time fair queuing), and a tenant that was idle has saved nothing up.
Between the agents of a tenant it is the same with the tenant's slots. Between the priorities of an agent: the
highest, except that one passed over `PATIENCE` times goes first once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

from mcp_agents.kernel.job import PRIORITIES, Lane, Priority, Weights, even

PATIENCE: Final = 8
"""How often in a row a lower priority is passed over before it has a turn."""


@dataclass(slots=True)
class _Agent:
    due: float = 0.0  # its next turn among those of its tenant, as a tenant's mark is among tenants
    passed_over: Counter[Priority] = field(default_factory=Counter)


class Turns:
    """One worker's turns so far, and the choice of the next ones."""

    def __init__(self, weights: Weights = even) -> None:
        self._weights = weights
        self._marks: dict[str, float] = {}  # when a tenant's next turn is due, in turns of weight 1
        self._now = 0.0
        self._agents: dict[tuple[str, str], _Agent] = {}
        self._agent_now: dict[str, float] = {}

    def grant(self, room: int, waiting: Mapping[Lane, int], running: Mapping[Lane, int]) -> dict[Lane, int]:
        """How many jobs to take from which lane: `room` in all, or all that wait.

        `waiting` are jobs that could start now, `running` those that hold a slot or were granted one.
        """
        if len(waiting) == 1:  # the most usual case leaves nothing to choose
            [(only, count)] = waiting.items()
            return {only: self._take_all(only, min(room, count))} if min(room, count) > 0 else {}
        choice = _Choice(self, waiting, running, room)
        granted: Counter[Lane] = Counter()
        while room > 0 and (lane := choice.next()):
            granted[lane] += 1
            room -= 1
        return granted

    def took(self, lane: Lane) -> None:
        """Counts a turn that was taken without a grant."""
        self._take_all(lane, 1)

    def _take_all(self, lane: Lane, turns: int) -> int:
        start = self._due(lane.tenant)
        self._marks[lane.tenant] = start + turns / self._weight(lane.tenant)
        self._now = max(start, self._marks[lane.tenant] - 1 / self._weight(lane.tenant))
        agent, weight = self._agent(lane), self._weight(lane.tenant, lane.agent_id)
        began = max(self._agent_now.get(lane.tenant, 0.0), agent.due)
        agent.due = began + turns / weight
        self._agent_now[lane.tenant] = max(began, agent.due - 1 / weight)
        return turns

    def refund(self, lane: Lane, turns: int) -> None:
        """Gives turns back whose job turned out to be somebody else's."""
        if mark := self._marks.get(lane.tenant):
            self._marks[lane.tenant] = mark - turns / self._weight(lane.tenant)
            self._agent(lane).due -= turns / self._weight(lane.tenant, lane.agent_id)

    def forget(self, lane: Lane) -> None:
        """Drops what is known of a lane that has been idle for long."""
        self._agents.pop((lane.tenant, lane.agent_id), None)
        self._marks.pop(lane.tenant, None)
        self._agent_now.pop(lane.tenant, None)

    def _weight(self, tenant: str, agent_id: str = "") -> int:
        return max(1, self._weights(tenant, agent_id))

    def _due(self, tenant: str) -> float:
        return max(self._now, self._marks.get(tenant, 0.0))

    def _agent(self, lane: Lane) -> _Agent:
        return self._agents.setdefault((lane.tenant, lane.agent_id), _Agent())


class _Choice:
    """One round of grants. A tenant's or an agent's rank changes only by its own turn, so heaps hold them."""

    def __init__(self, turns: Turns, waiting: Mapping[Lane, int], running: Mapping[Lane, int], room: int) -> None:
        self._turns, self._room = turns, room
        self._left: dict[str, dict[str, dict[Priority, int]]] = {}
        for lane, count in waiting.items():
            if count > 0:
                self._left.setdefault(lane.tenant, {}).setdefault(lane.agent_id, {})[lane.priority] = count
        self._tenants: Counter[str] = Counter()
        self._agents: Counter[tuple[str, str]] = Counter()
        self._running_agents: dict[str, set[str]] = {}
        for lane, count in running.items():
            self._running_agents.setdefault(lane.tenant, set()).add(lane.agent_id)
            self._tenants[lane.tenant] += count
            self._agents[lane.tenant, lane.agent_id] += count
        active = {*self._left, *(tenant for tenant, count in self._tenants.items() if count > 0)}
        weight = sum(turns._weight(tenant) for tenant in active)
        self._slot_share = (room + self._tenants.total()) / weight if weight else 0.0
        self._order = [self._rank(tenant) for tenant in self._left]
        heapify(self._order)
        self._agent_shares: dict[str, float] = {}
        self._agent_orders: dict[str, list[tuple[bool, float, str]]] = {}

    def next(self) -> Lane | None:
        """The lane whose job is next, counted as taken; None when nothing waits."""
        if not self._order:
            return None
        tenant = heappop(self._order)[-1]
        lane = self._lane_of(tenant)
        self._tenants[tenant] += 1
        if self._left[tenant]:
            heappush(self._order, self._rank(tenant))
        return lane

    def _rank(self, tenant: str) -> tuple[bool, float, str]:
        share = self._slot_share * self._turns._weight(tenant)
        return self._tenants[tenant] >= share, self._turns._due(tenant), tenant

    def _lane_of(self, tenant: str) -> Lane:
        agents = self._left[tenant]
        order = self._agent_orders.get(tenant)
        if order is None:
            self._agent_shares[tenant] = self._agent_share(tenant)
            order = self._agent_orders[tenant] = [self._agent_rank(tenant, agent_id) for agent_id in agents]
            heapify(order)
        agent_id = heappop(order)[-1]
        lane = Lane(tenant, agent_id, self._priority_of(tenant, agent_id))
        self._agents[tenant, agent_id] += 1
        self._turns._take_all(lane, 1)
        left = agents[agent_id]
        left[lane.priority] -= 1
        if not left[lane.priority]:
            del left[lane.priority]
        if left:
            heappush(order, self._agent_rank(tenant, agent_id))
        else:
            del agents[agent_id]
        return lane

    def _agent_share(self, tenant: str) -> float:
        """The tenant's slots of this round for one unit of its active agents' weight."""
        active = self._running_agents.get(tenant, set()) | self._left[tenant].keys()
        weight = sum(self._turns._weight(tenant, agent_id) for agent_id in active)
        return (self._room + self._tenants[tenant]) / weight

    def _agent_rank(self, tenant: str, agent_id: str) -> tuple[bool, float, str]:
        known = self._turns._agents.get((tenant, agent_id))
        due = max(self._turns._agent_now.get(tenant, 0.0), known.due if known else 0.0)
        share = self._agent_shares[tenant] * self._turns._weight(tenant, agent_id)
        return self._agents[tenant, agent_id] >= share, due, agent_id

    def _priority_of(self, tenant: str, agent_id: str) -> Priority:
        passed_over = self._turns._agent(Lane(tenant, agent_id, "normal")).passed_over
        there = [priority for priority in PRIORITIES if priority in self._left[tenant][agent_id]]
        patient = max(there, key=lambda priority: passed_over[priority])  # of equals, the highest
        chosen = patient if passed_over[patient] >= PATIENCE else there[0]
        for priority in there:
            passed_over[priority] += 1
        passed_over[chosen] = 0
        return chosen
