"""Jobs as values: what the queue hands to a worker. The queue itself is a port behind `kernel.tenancy`."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol, get_args

Priority = Literal["high", "normal", "low"]
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
"""From the one that goes first to the one that goes last."""

Weights = Callable[[str, str], int]
"""The weight of a tenant's agent among that tenant's, or of the tenant itself where the agent is ""; at least 1.

One of weight 2 is due twice the slots of one of weight 1."""


class Lane(NamedTuple):
    """Jobs that are taken strictly in order: those of one agent and one priority."""

    tenant: str
    agent_id: str
    priority: Priority


class Job(NamedTuple):
    """One run that is ready to go on."""

    tenant: str
    agent_id: str
    execution_id: str
    priority: Priority = "normal"

    @property
    def lane(self) -> Lane:
        """Where it waits."""
        return Lane(self.tenant, self.agent_id, self.priority)


class Depth(NamedTuple):
    """How many jobs one lane holds: not leased to anybody yet, and leased or given back and not taken since."""

    tenant: str
    agent_id: str
    priority: Priority
    waiting: int
    running: int


class Delivery(Protocol):
    """A leased job. Unless kept, acknowledged or released it is delivered to another worker.

    It takes one of its worker's slots until `done`, `release` or `leave`; one of them is called once.
    """

    @property
    def job(self) -> Job: ...

    @property
    def attempt(self) -> int:
        """1 on the first delivery. Also counts deliveries that were given back before anything was done."""
        ...

    @property
    def number(self) -> int:
        """Which job this is; the same for every delivery of it."""
        ...

    async def keep(self) -> None:
        """Renews the lease."""
        ...

    async def done(self) -> None:
        """Removes the job. Only after the fenced final append: an acknowledgement is not fenced."""
        ...

    async def release(self, delay: float = 0) -> None:
        """Gives the job back at once, or to be delivered again in `delay` seconds."""
        ...

    def leave(self) -> None:
        """Frees the slot and says nothing about the job: it is somebody else's by now."""
        ...


class Jobs(Protocol):
    """One worker's stream of leased jobs, fair between tenants, then agents, then priorities."""

    async def take(self, room: int, wait: float) -> Sequence[Delivery]:
        """What has arrived, at most `room`; waits up to `wait` seconds for the first. Keeps asking in between."""
        ...


def even(_tenant: str, _agent_id: str) -> int:
    """The weights under which all are due the same."""
    return 1
