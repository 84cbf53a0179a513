"""Port: the work queue of executions. A job names a run and nothing else; the log holds the rest."""

from typing import Protocol

from mcp_agents.kernel.job import Job, Jobs


class Queue(Protocol):
    """Jobs in, leased jobs out."""

    async def publish(self, subject: str, job: Job, *, dedup: str) -> None:
        """Stores the job durably; a second one with the same `dedup` inside the window is dropped."""
        ...

    def jobs(self) -> Jobs:
        """A stream of jobs for one worker; what it leases and never works on is delivered to another one."""
        ...
