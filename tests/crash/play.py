"""Plays a scenario: a house that owns the NATS server, a process that dies in the middle of a run, and what is left.

All scenarios run at once, each on a data folder and a NATS server of its own, since most of their time is
spent waiting for a lease of five seconds.
"""

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psutil

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.execution.orders import Order
from mcp_agents.execution.questions import Answer
from mcp_agents.execution.run import Run
from mcp_agents.execution.signals import Delta
from mcp_agents.kernel.errors import Conflict
from mcp_agents.kernel.events import FinalEvent, Started, event_name
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolserver import ToolServerSpec
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.crash.dying import CALLER
from tests.crash.scenarios import STREAM, Scenario
from tests.support.counted_tools import CountedTools
from tests.support.nursery import Nursery
from tests.support.provider import ScriptedProvider

URL = "http://127.0.0.1:1"
"""What the houses call themselves; nobody calls them there."""


@dataclass
class Aftermath:
    """What was found when everything was over; `finals` and `statuses` by run, the first one first."""

    statuses: list[str]
    finals: list[int]
    effects: list[str]
    events: Counter[str]
    died: bool
    claimed: set[str]
    deltas: list[Delta]
    texts: dict[int, str]
    answers: int = 0


class Ahead:
    """The machine's clock, far enough ahead that an accepted run without a job counts as forgotten."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=30)

    def monotonic(self) -> float:
        return anyio.current_time()


class KillNats:
    """Kills the folder's NATS server, once: when the point is reached, or when it is told to."""

    def __init__(self, folder: Path, point: str, nth: int) -> None:
        self._config = str(folder / "nats" / "server.conf")
        self._point, self._nth, self._seen = point, nth, 0
        self.killed = False

    def reach(self, point: str) -> None:
        self._seen += point == self._point
        if point == self._point and self._seen == self._nth and not self.killed:
            self.kill()

    def kill(self) -> None:
        self.killed = True
        for process in psutil.process_iter(["cmdline"]):
            if self._config in (process.info["cmdline"] or []):
                process.kill()


@dataclass
class Follower:
    """A client that follows the run from before the death to the end; `heard` when a part of `turn` was shown."""

    turn: int
    deltas: list[Delta] = field(default_factory=list)
    heard: anyio.Event = field(default_factory=anyio.Event)

    async def follow(self, dispatcher: Dispatcher, space: TenantSpace, execution_id: str) -> None:
        async with dispatcher.follow(space, execution_id) as updates:
            async for update in updates:
                if isinstance(update, Delta):
                    self.deltas.append(update)
                    if update.turn == self.turn:
                        self.heard.set()


@dataclass
class Play:
    """One scenario under way."""

    scenario: Scenario
    folder: Path
    nursery: Nursery
    provider: ScriptedProvider
    tools: CountedTools

    async def play(self) -> Aftermath:
        """From an empty folder to what is left."""
        killer = None
        if self.scenario.role == "nats":
            killer = KillNats(self.folder, self.scenario.point, self.scenario.nth)
        async with house_in(self.folder, self.provider, killer) as house:
            await furnish(house, self.tools)
            return await self._act(house, killer)

    @property
    def journal(self) -> Path:
        """What the dying process reached."""
        return self.folder / "journal"

    @property
    def order(self) -> Order:
        """What the client asks for."""
        name = self.scenario.name
        agents = {
            "tool": "safe" if self.scenario.trusted else "worker",
            "parallel": "parallel",
            "child": "parent",
            "approval": "guarded",
            "question": "asking",
        }
        agent = agents[self.scenario.work]
        return Order(agent=agent, prompt=f"Do it. <{name}>", idempotency_key="once")

    async def _act(self, house: House, killer: KillNats | None) -> Aftermath:
        space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
        follower = Follower(self.scenario.nth)
        async with background() as following:
            if self.scenario.role in ("worker", "nats", "person"):
                execution_id = await dispatcher.submit(space, CALLER, self.order)
                following.start_soon(follower.follow, dispatcher, space, execution_id)
            died, more = False, dict[str, Any]()
            if self.scenario.role == "person":
                await self._until_asked(house, space, execution_id)
                more = {"execution_id": execution_id, "answer": msgspec.to_builtins(self.answer)}
            elif self.scenario.work in ("approval", "question"):
                following.start_soon(self._answer, house, space)
            if killer is None:
                pid = await self.nursery.bear(self.dying() | more)
                if self.scenario.work == "parallel":
                    following.start_soon(self._give_turns)
                if self.scenario.point == STREAM:
                    await self._until_held(follower if self.scenario.role == "worker" else None)
                    if self.scenario.role == "serving":
                        begun = await first_run(space, dispatcher)
                        following.start_soon(follower.follow, dispatcher, space, begun)
                    os.kill(pid, signal.SIGKILL)
                    self.provider.release(self.scenario.name)
                died = os.WTERMSIG(await self.nursery.end(pid)) == signal.SIGKILL
            async with background() as tasks:
                await self._come_back(house, space)
                tasks.start_soon(house.crew.work, 1)
                if killer and self.scenario.point == STREAM:
                    await self._until_held(follower)
                    killer.kill()
                    self.provider.release(self.scenario.name)
                execution_id = await first_run(space, dispatcher)
                if self.scenario.work == "parallel":
                    tasks.start_soon(self._open_turns, dispatcher, space, execution_id)
                await follow_to_the_end(dispatcher, space, execution_id)
            return await self._look(space, follower, died=died or (killer is not None and killer.killed))

    async def _come_back(self, house: House, space: TenantSpace) -> None:
        """The client repeats its call, or somebody sweeps up behind it."""
        scenario = self.scenario
        if scenario.role in ("front", "serving") and scenario.retried_by_client:
            await house.services.dispatcher.submit(space, CALLER, self.order)
        elif scenario.role == "front":
            assert await house.crew.recovery.sweep() == 1
        elif scenario.role == "person":  # who was not told that their answer was taken gives it again
            with suppress(Conflict):
                await house.services.questions.answer(space, CALLER, await self._id(house, space), "", self.answer)

    @property
    def answer(self) -> Answer:
        """What the person says."""
        return Answer(content={"approve": True} if self.scenario.work == "approval" else {"answer": "The second."})

    async def _id(self, house: House, space: TenantSpace) -> str:
        return await first_run(space, house.services.dispatcher)

    async def _until_asked(self, house: House, space: TenantSpace, execution_id: str) -> None:
        """The run is brought to its question by another process, which then is gone."""
        async with house_in(self.folder, self.provider) as other, background() as tasks:
            tasks.start_soon(other.crew.work, 1)
            while not (await house.services.dispatcher.view(space, execution_id)).questions or await space.queued():
                await anyio.sleep(0.01)

    async def _answer(self, house: House, space: TenantSpace) -> None:
        """A person who answers as soon as the run waits for them, whoever is alive then."""
        dispatcher = house.services.dispatcher
        while not await space.execution_ids():
            await anyio.sleep(0.01)
        execution_id = await self._id(house, space)
        while (view := await dispatcher.view(space, execution_id)).status != "waiting":
            await anyio.sleep(0.01)
        with suppress(Conflict):
            await house.services.questions.answer(space, CALLER, view.execution_id, "", self.answer)

    async def _until_held(self, follower: Follower | None) -> None:
        """A part of the answer has been sent, and shown to the follower if there was one from the beginning."""
        await self.provider.until(lambda counts: self.scenario.name in counts.held, 30)
        if follower is not None:
            await follower.heard.wait()

    async def _give_turns(self) -> None:
        """The first tool goes on when all three calls were sent, each further one when the end before is recorded."""
        for turn in range(3):
            point, times = ("tool:send", 3) if turn == 0 else ("append:ToolDone:stored", turn)
            while not self.journal.exists() or self.journal.read_text().split().count(point) < times:
                await anyio.sleep(0.01)
            self.tools.open_turn(self.scenario.name, turn)

    async def _open_turns(self, dispatcher: Dispatcher, space: TenantSpace, execution_id: str) -> None:
        """Once another process has the run, no call of the dead one waits any longer, and none has to wait."""
        begun = 0
        async with dispatcher.follow(space, execution_id, deltas=False) as updates:
            async for update in updates:
                entries = update if isinstance(update, list) else []
                begun += sum(isinstance(entry.event, Started) for entry in entries)
                if begun == 2:
                    self.tools.died(self.scenario.name)
                    for turn in range(3):
                        self.tools.open_turn(self.scenario.name, turn)

    def dying(self) -> dict[str, Any]:
        """What the process is told that dies."""
        scenario = self.scenario
        # With one place, a parent has been let go before its child begins: every point is reached in one order.
        concurrency = 1 if scenario.work == "child" else 256
        return {
            "run": "tests.crash.dying:live",
            "settings": settings(self.folder, self.provider, concurrency),
            "url": URL,
            "role": scenario.role,
            "point": scenario.point,
            "nth": scenario.nth,
            "journal": str(self.journal),
            "order": msgspec.to_builtins(self.order),
        }

    async def _look(self, space: TenantSpace, follower: Follower, *, died: bool) -> Aftermath:
        logs = {each: (await space.log(each).read())[1] for each in await space.execution_ids()}
        runs = [Run.folded(execution_id, entries) for execution_id, entries in logs.items()]
        runs.sort(key=lambda run: run.requested.depth)
        return Aftermath(
            statuses=[run.status for run in runs],
            finals=[sum(isinstance(entry.event, FinalEvent) for entry in entries) for entries in logs.values()],
            effects=self.tools.effects(self.scenario.name),
            events=Counter(event_name(entry.event) for entries in logs.values() for entry in entries),
            died=died,
            claimed={call.effect_id for run in runs for call in run.view().tool_calls},
            deltas=follower.deltas,
            texts={number: each.text for number, each in enumerate(runs[0].turns, 1)},
        )


async def first_run(space: TenantSpace, dispatcher: Dispatcher) -> str:
    """The run that a client asked for, and no other run."""
    runs = [await dispatcher.run(space, each) for each in await space.execution_ids()]
    return next(run.execution_id for run in runs if run.requested.parent is None)


async def follow_to_the_end(dispatcher: Dispatcher, space: TenantSpace, execution_id: str) -> None:
    """Returns when the run has ended."""
    async with dispatcher.follow(space, execution_id, deltas=False) as updates:
        async for _ in updates:
            pass


def settings(folder: Path, provider: ScriptedProvider, concurrency: int = 256) -> dict[str, Any]:
    """Of every house on this folder."""
    model = {"name": "scripted", "litellm_model": "openai/scripted", "api_base": provider.api_base}
    return {
        "server": {"data_dir": str(folder), "workers": 0, "concurrency": concurrency},
        "models": [model],
    }


@asynccontextmanager
async def house_in(folder: Path, provider: ScriptedProvider, faults: Faults | None = None) -> AsyncIterator[House]:
    """The house that owns the folder's NATS server."""
    known = Settings.model_validate(settings(folder, provider))
    async with open_house(known, URL, faults=faults, clock=Ahead()) as house:
        yield house


async def furnish(house: House, tools: CountedTools) -> None:
    """The tool server twice, once believed when it says what may be repeated, and the agents."""
    space = house.tenancy.of(CALLER)
    for name, trusted in (("counted", False), ("trusted", True)):
        spec = ToolServerSpec(name=name, transport="http", url=tools.url, trust_annotations=trusted)
        await house.services.tool_servers.add(space, CALLER, spec)
    for name, bindings in (
        ("worker", ["counted/record"]),
        ("safe", ["trusted/record"]),
        ("parallel", ["counted/record_in_turn", "trusted/record_in_turn"]),
        ("guarded", ["counted/record"]),
        ("asking", ["builtin/ask_user"]),
        ("child", []),
        ("parent", ["agent:child"]),
    ):
        policy = {"approvals": [{"tool": "counted/*"}]} if name == "guarded" else {}
        draft = AgentDraft.model_validate(
            {"name": name, "virtual_model": "scripted", "tools": bindings, "policy": policy}
        )
        await house.services.agents.create(space, draft)
