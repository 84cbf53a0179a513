"""Port: the work queue of executions. A job names a run and nothing else; the log holds the rest."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mcp_agents.kernel.job import Depth, Job, Jobs, Weights


class Queue(Protocol):
    """Jobs in, leased jobs out."""

    async def publish(self, subject: str, job: Job, *, dedup: str) -> None:
        """Stores the job durably; a second one with the same `dedup` inside the window is dropped.

        Raises `Exhausted` (`QUEUE_FULL`) when the job's lane, or the whole queue, holds all that it may.
        """
        ...

    def jobs(self, weights: Weights) -> AbstractAsyncContextManager[Jobs]:
        """A stream of jobs for one worker; what it leased and nobody took is given back on the way out."""
        ...

    async def counts(self, pattern: str) -> dict[str, int]:
        """The subjects that match `pattern` and hold jobs, each with how many, leased ones included."""
        ...

    async def purge(self, pattern: str) -> int:
        """Removes every job of the matching subjects, leased ones too, and returns how many there were."""
        ...

    async def depths(self) -> list[Depth]:
        """Every lane that holds a job."""
        ...
