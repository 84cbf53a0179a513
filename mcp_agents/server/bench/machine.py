"""Processes of a benchmark: started, waited for, and what they use of the machine."""

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread
import psutil

from mcp_agents.kernel.errors import Fault
from mcp_agents.kernel.tasks import background

_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours that runs: its id, and the first line that it printed."""

    pid: int
    line: str


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """One of our programs in its own process. Raises `Fault` when it prints nothing."""
    process = subprocess.Popen(  # noqa: ASYNC220, S603  # our own program, started before anything is measured
        [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        line = await anyio.to_thread.run_sync(process.stdout.readline) if process.stdout else ""
        if not line:
            raise Fault("BENCH_START_FAILED", f"{module} did not start.")
        yield Child(process.pid, line.strip())
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(process.wait, 15)
        if process.stdout:
            process.stdout.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """The body of such a program, on the event loop that the product uses."""
    anyio.run(main, backend_options={"use_uvloop": sys.platform != "win32"})


def many_files() -> int:
    """Lets this process and those it starts open as many connections as the machine allows; how many that is."""
    if sys.platform == "win32":  # has no such limit
        return sys.maxsize
    import resource  # is not there on Windows

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most if most != resource.RLIM_INFINITY else sys.maxsize


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has used since it began, its children's left out."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def resident_kb(pid: int) -> float:
    """Resident memory of a process."""
    return float(psutil.Process(pid).memory_info().rss / 1024)


@dataclass(slots=True)
class Growth:
    """How much a process grew, at most. Kilobytes."""

    kb: float = 0.0


@asynccontextmanager
async def growth(pid: int) -> AsyncIterator[Growth]:
    """Watches a process while the block runs."""
    before, found = resident_kb(pid), Growth()

    async def watch() -> None:
        while True:
            found.kb = max(found.kb, resident_kb(pid) - before)
            await anyio.sleep(_LOOK_SECONDS)

    async with background() as tasks:
        tasks.start_soon(watch)
        yield found
        found.kb = max(found.kb, resident_kb(pid) - before)
