"""Processes that die where they are told to: imports everything once, then forks one child for each order.

`python -m tests.support.nursery`. Orders come as JSON lines on stdin, `{"pid": …, "status": …}` goes out when
a child has ended. A child opens the house on the order's folder and works, or submits, until the fault point
in the order is reached, where it kills itself without any clean-up.
"""

import json
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

import anyio
import msgspec

from mcp_agents.execution.orders import Order
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.server.compose import open_house
from mcp_agents.server.config import Settings


class DieAt:
    """Kills the process when the named point is reached for the `nth` time."""

    def __init__(self, point: str, nth: int) -> None:
        self._point, self._nth, self._seen = point, nth, Counter[str]()

    def reach(self, point: str) -> None:
        self._seen[point] += 1
        if point == self._point and self._seen[point] == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)


async def _live(order: dict[str, Any]) -> None:
    settings = Settings.model_validate(order["settings"])
    async with open_house(settings, order["url"], faults=DieAt(order["point"], order["nth"])) as house:
        if order["role"] == "worker":
            await house.crew.worker().work()
        principal = Principal(tenant=order["tenant"], subject="caller", scopes=TENANT_SCOPES)
        await house.services.dispatcher.submit(
            house.tenancy.of(principal), principal, msgspec.convert(order["order"], Order)
        )


def _reap(*_: object) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            os.write(1, json.dumps({"pid": pid, "status": status}).encode() + b"\n")


def main() -> None:
    """Forks a child per line until stdin ends."""
    signal.signal(signal.SIGCHLD, _reap)
    os.write(1, b'{"ready": true}\n')
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(2, 1)
            anyio.run(_live, json.loads(line))
            os._exit(0)
        os.write(1, json.dumps({"born": pid}).encode() + b"\n")


if __name__ == "__main__":
    main()
