"""Following a run to its end for a caller who waits: progress in readable phases, and the hand-over.

A client that does not get an answer before its own limit loses the call, never the run: after
`wait_seconds` it is given the running state and told how to go on. A closed response detaches.
"""

from collections.abc import AsyncIterator
from typing import Final

import anyio

from mcp_agents.execution.dispatch import Delta, Update
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.events import Entry, ModelAnswered, Requested, Started, ToolClaimed, ToolDone, ToolFailed
from mcp_agents.kernel.tasks import background
from mcp_agents_tools.surface.plugin import Call

HAND_OVER_SECONDS: Final = 45.0
"""How long a client of unknown patience is kept waiting before it gets the handle instead."""
_SILENCE_SECONDS: Final = 12.0
_TAIL: Final = 120
_PER_SECOND: Final = 10


async def follow_to_end(call: Call, execution_id: str, seconds: float) -> ExecutionView:
    """The run when it has ended, or as it stands after `seconds`; progress goes to the caller meanwhile."""
    with anyio.move_on_after(seconds):
        async with background() as tasks, call.services.dispatcher.follow(call.space, execution_id) as updates:
            teller = _Teller(call)
            tasks.start_soon(teller.keep_alive)
            await teller.tell(updates)
    return await call.services.dispatcher.view(call.space, execution_id)


class _Teller:
    """Turns updates into progress: at most ten a second, at least one in fifteen."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._clock = call.services.clock
        self._phase, self._text, self._turn = "queued", "", 1
        self._said_at = float("-inf")

    async def tell(self, updates: AsyncIterator[Update]) -> None:
        await self._say(now=True)
        async for update in updates:
            match update:
                case Delta():
                    if update.turn >= self._turn:
                        self._text = self._text[: update.offset] + update.text
                        await self._say(now=False)
                case entries:
                    if any(self._takes_in(entry) for entry in entries):
                        await self._say(now=True)

    async def keep_alive(self) -> None:
        while True:
            await anyio.sleep(_SILENCE_SECONDS / 4)
            if self._clock.monotonic() - self._said_at > _SILENCE_SECONDS:
                await self._say(now=True)

    def _takes_in(self, entry: Entry) -> bool:
        match entry.event:
            case Requested():
                return False
            case Started(attempt=attempt):
                self._phase = "thinking" if attempt == 1 else f"thinking (attempt {attempt})"
            case ModelAnswered(turn=turn):
                self._turn, self._text = turn + 1, ""
                return False
            case ToolClaimed(tool=tool):
                self._phase = f"calling {tool}"
            case ToolDone() | ToolFailed():
                self._phase = f"thinking (turn {self._turn})"
            case _:
                return False
        return True

    async def _say(self, *, now: bool) -> None:
        moment = self._clock.monotonic()
        if not now and moment - self._said_at < 1 / _PER_SECOND:
            return
        self._said_at = moment
        tail = " ".join(self._text.split())[-_TAIL:]
        await self._call.report(f"{self._phase}: …{tail}" if tail else self._phase)
