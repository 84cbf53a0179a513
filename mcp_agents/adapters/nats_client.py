"""The library's client, mended where it would stay connected and deaf: all that this project changes in nats-py.

Two faults of its versions up to 2.16. A `flush` that is cancelled, or waits in vain, leaves a cancelled future behind,
and the answer that comes for it ends the task that reads the connection. And whatever ends that task by an exception
that nobody foresaw, the client takes itself for connected until its pings are missed, minutes later. Below: nothing of
ours. Above: `nats_link`, which makes the one client of a process.
"""

import asyncio

from nats.aio.client import Client
from nats.errors import StaleConnectionError


class ListeningClient(Client):
    """A client that is connected only while it listens."""

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():  # whoever asked has left
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _read_loop(self) -> None:
        await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and not (task and task.cancelling()):
            await self._process_op_err(StaleConnectionError())
