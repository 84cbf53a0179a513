"""What the processes of the trial do until they are killed: workers take jobs, front ends accept runs and work too.

Started by the nursery. A front end listens on a Unix socket. A client connects, sends one line, and is told
in lines: the execution id once the run is accepted, and how it ended, or the code of an error. `{"submit": true}` in
the client's line: it is told the id alone.
"""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteStream, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from mcp_agents.execution.orders import Order
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.tasks import background
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.soak.work import caller

GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead, OSError)
"""What whoever is connected to a process meets when that is killed."""
_LINE = 1 << 20


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A client's line."""

    tenant: str
    order: dict[str, Any]
    submit: bool


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A front end's line: the id of the accepted run, or how it ended, or why not."""

    execution_id: str = ""
    status: str = ""
    text: str = ""
    error: str = ""
    retryable: bool = False
    retry_after_ms: int = 0


async def live(order: dict[str, Any]) -> None:
    """Until it is killed."""
    async with open_house(Settings.model_validate(order["settings"]), order["url"]) as house:
        if order["role"] == "worker":
            await house.crew.work(1)
            return
        listener = await anyio.create_unix_listener(order["socket"])
        async with background() as tasks:
            tasks.start_soon(house.crew.work, 1)
            await listener.serve(lambda stream: _serve(house, stream))


async def lines(stream: ByteStream) -> AsyncIterator[bytes]:
    """Line by line, until whoever sends them closes the stream. Raises one of `GONE` when it was killed."""
    buffered = BufferedByteReceiveStream(stream)
    while True:
        yield await buffered.receive_until(b"\n", _LINE)


async def _serve(house: House, stream: SocketStream) -> None:
    async with stream:
        try:
            line = await anext(lines(stream))
            async for said in _answers(house, msgspec.json.decode(line, type=Ask)):
                await stream.send(msgspec.json.encode(said) + b"\n")
        except GONE:
            return  # the client gave up


async def _answers(house: House, ask: Ask) -> AsyncIterator[Said]:
    principal = caller(ask.tenant)
    space, dispatcher = house.tenancy.of(principal), house.services.dispatcher
    order = msgspec.convert(ask.order, Order)
    try:
        if ask.submit:
            yield Said(execution_id=await dispatcher.submit(space, principal, order))
            return
        async with dispatcher.execute(space, principal, order, deltas=order.stream) as (execution_id, updates):
            yield Said(execution_id=execution_id)
            async for _ in updates:
                pass
        view = await dispatcher.view(space, execution_id)
        yield Said(status=view.status, text=view.text)
    except AgentsError as error:
        yield Said(error=error.code, retryable=error.retryable, retry_after_ms=error.retry_after_ms or 0)
