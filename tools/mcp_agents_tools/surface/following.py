"""Following a run to its end for a caller who waits: progress in readable phases, and the hand-over.

A client that does not get an answer before its own limit loses the call, never the run: just before it
(`clients`), or after `wait_seconds`, it is given the running state and told how to go on. A response that is
closed detaches; a call that is cancelled in so many words cancels the run that it started.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import anyio

from mcp_agents.execution.dispatch import Update
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import FINAL, ExecutionView, Run
from mcp_agents.execution.signals import Delta
from mcp_agents.kernel.events import (
    ApprovalDecided,
    ApprovalRequested,
    Entry,
    HandedOff,
    InputReceived,
    InputRequested,
    ModelAnswered,
    Requested,
    Started,
    ToolClaimed,
    ToolDone,
    ToolFailed,
)
from mcp_agents.kernel.tasks import background
from mcp_agents_tools.surface.asking import Person
from mcp_agents_tools.surface.plugin import Call, Reporter

CANCELLED: Final = "its call was cancelled"
"""Why a run was cancelled, where its caller's client took the call back."""
_SILENCE_SECONDS: Final = 12.0
_TAIL: Final = 120
_PER_SECOND: Final = 10


async def execute(call: Call, order: Order, seconds: float | None) -> ExecutionView:
    """Accepts a run and returns it when it has ended, or as it stands after `seconds`, or when it waits for a person.

    `seconds` None: just before this client would give up. A call that comes back with an answer (`call.state`)
    goes on with the run that asked.
    """
    dispatcher = call.services.dispatcher
    told = call.report is not None and order.stream
    async with dispatcher.execute(call.space, call.principal, order, deltas=told, joins=call.state) as (
        execution_id,
        updates,
    ):
        try:
            view = await _told(call, execution_id, updates, seconds)
        except anyio.get_cancelled_exc_class():
            if call.cancelled():
                with anyio.CancelScope(shield=True):
                    await dispatcher.cancel(call.space, call.principal, execution_id, CANCELLED)
            raise
    return view or await dispatcher.view(call.space, execution_id)


async def wait(call: Call, execution_id: str, seconds: float | None) -> ExecutionView:
    """A run when it has ended, or as it stands after `seconds`, which are as for `execute`. Raises `NotFound`.

    It only reads: to cancel this call cancels no run.
    """
    dispatcher = call.services.dispatcher
    view = await dispatcher.view(call.space, execution_id)
    if view.status in FINAL:
        return view
    known = frozenset(question.id for question in view.questions)
    async with dispatcher.follow(call.space, execution_id, deltas=call.report is not None) as updates:
        later = await _told(call, execution_id, updates, seconds, known)
    return later or await dispatcher.view(call.space, execution_id)


async def _told(
    call: Call,
    execution_id: str,
    updates: AsyncIterator[Update],
    seconds: float | None,
    known: frozenset[str] = frozenset(),
) -> ExecutionView | None:
    """The run when it has ended in time, or waits for somebody; a caller who asked for progress is told meanwhile."""
    person = Person(call, execution_id, known)
    limit = call.services.hand_over.seconds(call.client) if seconds is None else seconds
    with anyio.move_on_after(limit) as reading:
        teller = _Teller(call, call.report) if call.report else None
        if teller is None and not person.is_pushed_to:
            return await _heard(execution_id, updates, None, lambda: person.asked(None, reading), person.withdraw)
        async with background() as tasks:
            if teller is not None:
                tasks.start_soon(teller.keep_alive)
            return await _heard(execution_id, updates, teller, lambda: person.asked(tasks, reading), person.withdraw)
    return person.left_open


async def _heard(
    execution_id: str,
    updates: AsyncIterator[Update],
    teller: "_Teller | None",
    asked: Callable[[], Awaitable[ExecutionView | None]],
    moved_on: Callable[[], None],
) -> ExecutionView:
    """Until the run has ended, or `asked` has something for its caller when it comes to wait."""
    entries: list[Entry] = []
    if teller is not None:
        await teller.begin()
    async for update in updates:
        if teller is not None:
            await teller.tell(update)
        if isinstance(update, Delta):
            continue
        entries += update
        if any(isinstance(entry.event, Started | ApprovalDecided | InputReceived) for entry in update):
            moved_on()
        if any(isinstance(entry.event, HandedOff) for entry in update) and (waiting := await asked()):
            return waiting
    return Run.folded(execution_id, entries).view()


class _Teller:
    """Turns updates into progress: at most ten a second, at least one in fifteen."""

    def __init__(self, call: Call, report: Reporter) -> None:
        self._report = report
        self._clock = call.services.clock
        self._phase, self._text, self._turn = "queued", "", 1
        self._said_at = float("-inf")
        self._held_back = anyio.Event()

    async def begin(self) -> None:
        """Says that the call was heard."""
        await self._say(now=True)

    async def tell(self, update: Update) -> None:
        """Says what an update means, or keeps it for the next time."""
        match update:
            case Delta():
                if update.turn >= self._turn:
                    self._text = self._text[: update.offset] + update.text
                    await self._say(now=False)
            case entries:
                news = [self._takes_in(entry) for entry in entries]
                if any(news):
                    await self._say(now=True)

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
            case HandedOff(to=to):
                if not to:
                    return False
                self._phase = "waiting for other agents"
            case ApprovalRequested(tool=tool):
                self._phase = f"waiting for approval of {tool}"
            case InputRequested(question=question):
                self._phase = f"waiting for an answer: {question[:_TAIL]}"
            case ApprovalDecided() | InputReceived():
                self._phase = "going on with the answer"
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
