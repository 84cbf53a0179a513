"""Jobs as values: what the queue hands to a worker. The queue itself is a port behind `kernel.tenancy`."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

Priority = Literal["high", "normal", "low"]
"""How soon a run is wanted, among the runs of one agent."""


class Job(NamedTuple):
    """One run that is ready to go on."""

    tenant: str
    agent_id: str
    execution_id: str


class Delivery(Protocol):
    """A leased job. Unless kept, acknowledged or released it is delivered to another worker."""

    @property
    def job(self) -> Job: ...

    @property
    def attempt(self) -> int:
        """1 on the first delivery."""
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

    async def release(self) -> None:
        """Gives the job back at once."""
        ...


class Jobs(Protocol):
    """One worker's stream of leased jobs."""

    async def take(self, room: int, wait: float) -> Sequence[Delivery]:
        """What has arrived, at most `room`; waits up to `wait` seconds for the first. Keeps asking in between."""
        ...
