"""Port: the work queue of executions. A job names a run and nothing else; the log holds the rest."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


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


class Queue(Protocol):
    """Jobs in, leased jobs out."""

    async def publish(self, subject: str, job: Job, *, dedup: str) -> None:
        """Stores the job durably; a second one with the same `dedup` inside the window is dropped."""
        ...

    def jobs(self) -> Jobs:
        """A stream of jobs for one worker; what it leases and never works on is delivered to another one."""
        ...
