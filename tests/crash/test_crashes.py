"""A process dies at every fault point of a run; the counts afterwards are those of the table.

The run has two model turns and one counted side-effecting tool. `docs/crashes.md` shows the same table. All
scenarios run at once, each on a data folder and a NATS server of its own, since most of their time is
spent waiting for a lease of five seconds.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import psutil
import pytest

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.kernel.events import FinalEvent, event_name
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background, together
from mcp_agents.kernel.toolserver import ToolServerSpec
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.support.provider import Call, ScriptedProvider, Step

pytestmark = pytest.mark.anyio

CLAIM = "append:ModelAnswered+ToolClaimed"
END = "append:ModelAnswered+Completed"
TENANT = "acme"
ADMIN = Principal(tenant=TENANT, subject="caller", scopes=TENANT_SCOPES)


@dataclass(frozen=True)
class Scenario:
    """Where who dies, and what is true afterwards: paid model answers, effects of the tool, a call left unknown."""

    name: str
    point: str
    answers: int = 2
    effects: int = 1
    unknown: int = 0
    nth: int = 1
    trusted: bool = False
    role: str = "worker"
    retried_by_client: bool = True


WORKER = [
    Scenario("before-started", "append:Started:before"),
    Scenario("started-stored", "append:Started:stored"),
    Scenario("before-first-question", "model:send"),
    Scenario("first-answer-lost", "model:answered", answers=3),
    Scenario("before-claim", f"{CLAIM}:before", answers=3),
    Scenario("claim-stored", f"{CLAIM}:stored", effects=0, unknown=1),
    Scenario("before-tool-sent", "tool:send", effects=0, unknown=1),
    Scenario("tool-answer-lost", "tool:answered", unknown=1),
    Scenario("before-tool-done", "append:ToolDone:before", unknown=1),
    Scenario("tool-done-stored", "append:ToolDone:stored"),
    Scenario("before-second-question", "model:send", nth=2),
    Scenario("second-answer-lost", "model:answered", nth=2, answers=3),
    Scenario("before-end", f"{END}:before", answers=3),
    Scenario("end-stored", f"{END}:stored"),
    Scenario("before-job-done", "job:done"),
]
REPEATABLE = [
    Scenario("repeatable-claim-stored", f"{CLAIM}:stored", trusted=True),
    Scenario("repeatable-before-tool-sent", "tool:send", trusted=True),
    Scenario("repeatable-tool-answer-lost", "tool:answered", effects=2, trusted=True),
    Scenario("repeatable-before-tool-done", "append:ToolDone:before", effects=2, trusted=True),
]
FRONT = [
    Scenario("front-before-request", "append:Requested:before", role="front"),
    Scenario("front-keyed", "accept:keyed", role="front"),
    Scenario("front-request-stored", "append:Requested:stored", role="front"),
    Scenario("front-queued", "accept:queued", role="front"),
    Scenario("front-request-stored-and-forgotten", "append:Requested:stored", role="front", retried_by_client=False),
]
NATS = [
    Scenario(f"nats-{scenario.name}", scenario.point, nth=scenario.nth, role="nats")
    for scenario in WORKER
    if scenario.name != "before-job-done"
]
EVERY = [*WORKER, *REPEATABLE, *FRONT, *NATS]


@dataclass
class Aftermath:
    """What was found when everything was over."""

    status: str
    answers: int
    effects: list[str]
    events: Counter[str]
    finals: int
    died: bool
    claimed: set[str] = field(default_factory=set)
    executions: int = 1


class Ahead:
    """The machine's clock, far enough ahead that an accepted run without a job counts as forgotten."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=30)

    def monotonic(self) -> float:
        return anyio.current_time()


class KillNats:
    """Kills the folder's NATS server, once, when the point is reached."""

    def __init__(self, folder: Path, point: str, nth: int) -> None:
        self._config = str(folder / "nats" / "server.conf")
        self._point, self._nth, self._seen = point, nth, 0
        self.killed = False

    def reach(self, point: str) -> None:
        self._seen += point == self._point
        if point == self._point and self._seen == self._nth and not self.killed:
            self.killed = True
            for process in psutil.process_iter(["cmdline"]):
                if self._config in (process.info["cmdline"] or []):
                    process.kill()


class Nursery:
    """Orders children and hears of their ends."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ordering = anyio.Lock()
        self._births: list[int] = []
        self._ends: dict[int, int] = {}
        self._changed = anyio.Event()

    async def listen(self) -> None:
        assert self._process.stdout is not None
        while line := await anyio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True):
            said = msgspec.json.decode(line)
            if "born" in said:
                self._births.append(said["born"])
            elif "pid" in said:
                self._ends[said["pid"]] = said["status"]
            self._changed.set()
            self._changed = anyio.Event()

    async def die(self, order: dict[str, Any]) -> int:
        """Starts a child and returns its wait status when it has ended."""
        async with self._ordering:
            known = len(self._births)
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
            self._process.stdin.flush()
            while len(self._births) == known:
                await self._changed.wait()
            pid = self._births[-1]
        while pid not in self._ends:
            await self._changed.wait()
        return self._ends[pid]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
async def aftermaths(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Aftermath]]:
    """Every scenario, run; by name."""
    found: dict[str, Aftermath] = {}
    nursery = Nursery()
    async with ScriptedProvider(_script()) as provider, background() as tasks:
        tasks.start_soon(nursery.listen)
        try:
            limit = anyio.CapacityLimiter(6)

            async def one(scenario: Scenario) -> None:
                async with limit:
                    folder = tmp_path_factory.mktemp(scenario.name)
                    with anyio.fail_after(90):
                        found[scenario.name] = await _play(scenario, folder, nursery, provider.api_base)

            async with together() as playing:
                for scenario in EVERY:
                    playing.start_soon(one, scenario)
            counts = provider.counts()
            for index, scenario in enumerate(EVERY):
                found[scenario.name].answers = counts.by_step[2 * index] + counts.by_step[2 * index + 1]
            yield found
        finally:
            nursery.close()


def _script() -> list[Step]:
    steps: list[Step] = []
    for scenario in EVERY:
        call = Call(name="counted__record", arguments='{"note": "once"}')
        steps.append(Step(when=f"<{scenario.name}>", turn=0, times=0, calls=[call]))
        steps.append(Step(when=f"<{scenario.name}>", turn=1, times=0, text="It is done."))
    return steps


async def _play(scenario: Scenario, folder: Path, nursery: Nursery, provider: str) -> Aftermath:
    settings = {
        "server": {"data_dir": str(folder), "workers": 0},
        "models": [{"name": "scripted", "litellm_model": "openai/scripted", "api_base": provider, "wire": "openai"}],
    }
    effects = folder / "effects"
    order = Order(agent="worker", prompt=f"Do it. <{scenario.name}>", idempotency_key="once")
    killer = KillNats(folder, scenario.point, scenario.nth) if scenario.role == "nats" else None
    url = "http://127.0.0.1:1"
    async with _house(settings, url, killer) as house:
        await _furnish(house, effects, trusted=scenario.trusted)
        dying = {
            "settings": settings,
            "url": url,
            "role": scenario.role,
            "point": scenario.point,
            "nth": scenario.nth,
            "tenant": TENANT,
            "order": msgspec.to_builtins(order),
        }
        space, dispatcher = house.tenancy.of(ADMIN), house.services.dispatcher
        died = False
        if scenario.role == "front":
            died = os.WTERMSIG(await nursery.die(dying)) == signal.SIGKILL
            if scenario.retried_by_client:
                await dispatcher.submit(space, ADMIN, order)
            else:
                assert await house.crew.recovery.sweep() == 1
        else:
            await dispatcher.submit(space, ADMIN, order)
            if scenario.role == "worker":
                died = os.WTERMSIG(await nursery.die(dying)) == signal.SIGKILL
        async with background() as tasks:
            tasks.start_soon(house.crew.worker().work)
            executions = await space.execution_ids()
            with anyio.fail_after(60):
                async with dispatcher.follow(space, executions[-1], deltas=False) as updates:
                    async for _ in updates:
                        pass
            view = await dispatcher.view(space, executions[-1])
        _, entries = await space.log(view.execution_id).read()
        return Aftermath(
            status=view.status,
            answers=0,
            effects=effects.read_text("utf-8").split() if effects.exists() else [],
            events=Counter(event_name(entry.event) for entry in entries),
            finals=sum(isinstance(entry.event, FinalEvent) for entry in entries),
            died=died or (killer is not None and killer.killed),
            claimed={call.effect_id for call in view.tool_calls},
            executions=len(executions),
        )


def _house(settings: dict[str, Any], url: str, faults: Faults | None) -> Any:
    return open_house(Settings.model_validate(settings), url, faults=faults, clock=Ahead())


async def _furnish(house: House, effects: Path, *, trusted: bool) -> None:
    space = house.tenancy.of(ADMIN)
    spec = ToolServerSpec(
        name="counted",
        transport="stdio",
        command=sys.executable,
        args=("-m", "tests.support.counted_tools", str(effects)),
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        trust_annotations=trusted,
    )
    await house.services.tool_servers.add(space, ADMIN, spec)
    draft = AgentDraft.model_validate({"name": "worker", "virtual_model": "scripted", "tools": ["counted/*"]})
    await house.services.agents.create(space, draft)


@pytest.mark.parametrize("scenario", EVERY, ids=lambda scenario: scenario.name)
async def test_the_counts_after_a_death_are_those_of_the_table(
    scenario: Scenario, aftermaths: dict[str, Aftermath]
) -> None:
    """One run, one final event, no answer bought twice that was recorded, no effect twice that was not said."""
    after = aftermaths[scenario.name]
    assert after.died, "the fault point was never reached"
    assert after.status == "completed"
    assert after.finals == 1
    assert after.executions == 1
    assert after.answers == scenario.answers
    assert len(after.effects) == scenario.effects
    assert set(after.effects) <= after.claimed, "a repeated effect must come under the effect id of its claim"
    assert after.events["tool_unknown"] == scenario.unknown
    assert after.events["requested"] == 1
    assert after.events["model_answered"] == 2


@pytest.mark.parametrize("scenario", [*WORKER, *REPEATABLE], ids=lambda scenario: scenario.name)
async def test_what_may_have_happened_twice_is_said_aloud(scenario: Scenario, aftermaths: dict[str, Aftermath]) -> None:
    """More answers or effects than the run needed never go without a retry event."""
    after = aftermaths[scenario.name]
    if after.answers > 2 or len(after.effects) > 1:
        assert after.events["retry"] >= 1
