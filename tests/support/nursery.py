"""Processes that die where they are told to: imports everything once, then forks one child for each order.

`python -m tests.support.nursery MODULE…` imports the modules and takes orders as JSON lines on stdin: `{"run":
"module:function", …}`. The function is a coroutine function and is given the order. `{"born": pid}` goes out
when a child was forked, `{"pid": …, "status": …}` when it has ended. Children die with the nursery.

`nursery` is the other side: it gives orders and hears of ends.
"""

import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from mcp_agents.kernel.tasks import background

_PR_SET_PDEATHSIG = 1


class Nursery:
    """Orders children and hears of their ends (`nursery`)."""

    def __init__(self, *modules: str, stderr: Path | None = None) -> None:
        with stderr.open("ab") if stderr else nullcontext() as kept:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.nursery", *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=kept,
                env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
                text=True,
            )
        self._ordering = anyio.Lock()
        self._births: list[int] = []
        self._ends: dict[int, int] = {}
        self._changed = anyio.Event()
        self._ready = anyio.Event()

    async def listen(self) -> None:
        """Hears what is said, until cancelled."""
        assert self._process.stdout is not None
        while line := await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True):
            said = msgspec.json.decode(line)
            if "born" in said:
                self._births.append(said["born"])
                self._ends.pop(said["born"], None)  # an earlier child's: numbers come round again
            elif "pid" in said:
                self._ends[said["pid"]] = said["status"]
            else:
                self._ready.set()
            self._changed.set()
            self._changed = anyio.Event()

    async def ready(self) -> None:
        """Waits until everything is imported."""
        await self._ready.wait()

    async def bear(self, order: dict[str, Any]) -> int:
        """Starts a child; its process id."""
        async with self._ordering:
            known = len(self._births)
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
            self._process.stdin.flush()
            while len(self._births) == known:
                await self._changed.wait()
            return self._births[-1]

    async def end(self, pid: int) -> int:
        """The wait status of a child, when it has ended."""
        while pid not in self._ends:
            await self._changed.wait()
        return self._ends[pid]

    def ended(self, pid: int) -> bool:
        """Whether a child has ended."""
        return pid in self._ends

    def close(self) -> None:
        """Ends the nursery and every child that is left."""
        self._process.kill()
        self._process.communicate()


@asynccontextmanager
async def nursery(*modules: str, stderr: Path | None = None) -> AsyncIterator[Nursery]:
    """A nursery that has imported these modules; whoever was born in it ends with the block."""
    opened = Nursery(*modules, stderr=stderr)
    try:
        async with background() as tasks:
            tasks.start_soon(opened.listen)
            await opened.ready()
            yield opened
    finally:
        opened.close()


def _reap() -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            os.write(1, json.dumps({"pid": pid, "status": status}).encode() + b"\n")


def _live(order: dict[str, Any], nursery: int) -> None:
    """The child's whole life; its stdout is its stderr, since stdout is the nursery's word."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:
        os._exit(1)
    os.dup2(2, 1)
    module, _, function = order["run"].partition(":")
    anyio.run(getattr(import_module(module), function), order)
    os._exit(0)


def main(modules: list[str]) -> None:
    """Forks a child per line until stdin ends."""
    for module in ["litellm", "mcp_agents.server.compose", *modules]:
        import_module(module)  # once here, so that no child has to
    gc.freeze()  # a child's first collection need not copy every page
    ended, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the byte in the pipe is what counts: it cannot come too early
    os.write(1, b'{"ready": true}\n')
    nursery = os.getpid()
    orders = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 65536)
            _reap()
            continue
        more = os.read(0, 65536)
        if not more:
            return
        *lines, orders = (orders + more).split(b"\n")
        for line in lines:
            pid = os.fork()
            if not pid:
                _live(json.loads(line), nursery)
            os.write(1, json.dumps({"born": pid}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
