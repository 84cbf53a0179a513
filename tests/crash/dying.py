"""What a process of the crash tests does until it dies, or stands still: its life, by the role in its order.

Started by the nursery. `worker` takes jobs; `front` accepts a run and does not work; `serving` accepts a run
with a free hand of its own; `person` takes a person's answer to what a run asks.
"""

import os
import signal
from collections import Counter
from typing import Any

import anyio
import msgspec

from mcp_agents.execution.orders import Order
from mcp_agents.execution.questions import Answer
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings

TENANT = "acme"
CALLER = Principal(tenant=TENANT, subject="caller", scopes=TENANT_SCOPES)


class DieAt:
    """Kills or stops the process when the named point is reached for the `nth` time.

    It writes what is reached into a journal, line by line: what a stopped process does later can be read there,
    and whose turn it is among tools that wait for theirs.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self._point, self._nth, self._journal = order["point"], order["nth"], order["journal"]
        self._signal = signal.SIGSTOP if order.get("stops") else signal.SIGKILL
        self._seen = Counter[str]()

    def reach(self, point: str) -> None:
        self._seen[point] += 1
        if point == self._point and self._seen[point] == self._nth:
            os.kill(os.getpid(), self._signal)
        descriptor = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{point}\n".encode())
        os.close(descriptor)


async def live(order: dict[str, Any]) -> None:
    """Until the point is reached."""
    settings = Settings.model_validate(order["settings"])
    async with open_house(settings, order["url"], faults=DieAt(order)) as house:
        match order["role"]:
            case "worker":
                await house.crew.work(1)
            case "front":
                wanted = msgspec.convert(order["order"], Order)
                await house.services.dispatcher.submit(house.tenancy.of(CALLER), CALLER, wanted)
            case "person":
                answer = msgspec.convert(order["answer"], Answer)
                space = house.tenancy.of(CALLER)
                await house.services.questions.answer(space, CALLER, order["execution_id"], "", answer)
            case "serving":
                await _serve(house, msgspec.convert(order["order"], Order))


async def _serve(house: House, order: Order) -> None:
    async with background() as tasks:
        tasks.start_soon(house.crew.work, 1)
        while (hand := house.crew.station.free_hand()) is None:
            await anyio.sleep(0.01)
        hand.take_back()
        space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
        async with dispatcher.execute(space, CALLER, order, deltas=order.stream) as (_, updates):
            async for _ in updates:
                pass
        await anyio.sleep_forever()
