"""Following a run to its end for a caller who waits: progress in readable phases, and the hand-over.

A client that does not get an answer before its own limit loses the call, never the run: just before it
(`clients`), or after `wait_seconds`, it is given the running state and told how to go on. A response that is
closed detaches; a call that is cancelled in so many words cancels the run that it started.
"""

from collections.abc import AsyncIterator
from typing import Final

import anyio

from mcp_agents.execution.dispatch import Update
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import FINAL, ExecutionView, Run
from mcp_agents.execution.signals import Delta
from mcp_agents.kernel.events import (
    Entry,
    HandedOff,
    InputRequested,
    ModelAnswered,
    Requested,
    Started,
    ToolClaimed,
    ToolDone,
    ToolFailed,
)
from mcp_agents.kernel.tasks import background
from mcp_agents_tools.surface.plugin import Call, Reporter

CANCELLED: Final = "its call was cancelled"
"""Why a run was cancelled, where its caller's client took the call back."""
_SILENCE_SECONDS: Final = 12.0
_TAIL: Final = 120
_PER_SECOND: Final = 10


async def execute(call: Call, order: Order, seconds: float | None) -> ExecutionView:
    """Accepts a run and returns it when it has ended, or as it stands after `seconds`.

    None: just before this client would give up.
    """
    dispatcher = call.services.dispatcher
    told = call.report is not None and order.stream
    async with dispatcher.execute(call.space, call.principal, order, deltas=told) as (execution_id, updates):
        try:
            ended = await _told(call, execution_id, updates, seconds)
        except anyio.get_cancelled_exc_class():
            if call.cancelled():
                with anyio.CancelScope(shield=True):
                    await dispatcher.cancel(call.space, call.principal, execution_id, CANCELLED)
            raise
    return ended or await dispatcher.view(call.space, execution_id)


async def wait(call: Call, execution_id: str, seconds: float | None) -> ExecutionView:
    """A run when it has ended, or as it stands after `seconds`, which are as for `execute`. Raises `NotFound`.

    It only reads: to cancel this call cancels no run.
    """
    dispatcher = call.services.dispatcher
    view = await dispatcher.view(call.space, execution_id)
    if view.status in FINAL:
        return view
    async with dispatcher.follow(call.space, execution_id, deltas=call.report is not None) as updates:
        ended = await _told(call, execution_id, updates, seconds)
    return ended or await dispatcher.view(call.space, execution_id)


async def _told(
    call: Call, execution_id: str, updates: AsyncIterator[Update], seconds: float | None
) -> ExecutionView | None:
    """The run when it has ended in time; a caller who asked for progress is told what happens meanwhile."""
    with anyio.move_on_after(call.services.hand_over.seconds(call.client) if seconds is None else seconds):
        if call.report is None:
            entries = [entry async for update in updates if isinstance(update, list) for entry in update]
            return Run.folded(execution_id, entries).view()
        teller = _Teller(call, call.report, execution_id)
        async with background() as tasks:
            tasks.start_soon(teller.keep_alive)
            return await teller.tell(updates)
    return None


class _Teller:
    """Turns updates into progress: at most ten a second, at least one in fifteen."""

    def __init__(self, call: Call, report: Reporter, execution_id: str) -> None:
        self._report = report
        self._execution_id = execution_id
        self._entries: list[Entry] = []
        self._clock = call.services.clock
        self._phase, self._text, self._turn = "queued", "", 1
        self._said_at = float("-inf")
        self._held_back = anyio.Event()

    async def tell(self, updates: AsyncIterator[Update]) -> ExecutionView:
        """Until the run has ended; returns it as folded from what was told."""
        await self._say(now=True)
        async for update in updates:
            match update:
                case Delta():
                    if update.turn >= self._turn:
                        self._text = self._text[: update.offset] + update.text
                        await self._say(now=False)
                case entries:
                    self._entries += entries
                    if any(self._takes_in(entry) for entry in entries):
                        await self._say(now=True)
        return Run.folded(self._execution_id, self._entries).view()

    async def keep_alive(self) -> None:
        """Says again what has been said for a while, and what was held back because it came too fast."""
        while True:
            with anyio.move_on_after(_SILENCE_SECONDS) as silence:
                await self._held_back.wait()
                await anyio.sleep(max(0.0, self._said_at + 1 / _PER_SECOND - self._clock.monotonic()))
            if silence.cancelled_caught or self._held_back.is_set():
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
            case HandedOff():
                self._phase = "waiting for other agents"
            case InputRequested():
                self._phase = "waiting to be told what became of a call"
            case ToolDone() | ToolFailed():
                self._phase = f"thinking (turn {self._turn})"
            case _:
                return False
        return True

    async def _say(self, *, now: bool) -> None:
        moment = self._clock.monotonic()
        if not now and moment - self._said_at < 1 / _PER_SECOND:
            self._held_back.set()
            return
        self._said_at, self._held_back = moment, anyio.Event()
        tail = " ".join(self._text.split())[-_TAIL:]
        await self._report(f"{self._phase}: …{tail}" if tail else self._phase)
