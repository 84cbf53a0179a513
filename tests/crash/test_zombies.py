"""A worker is stopped past its lease, another one finishes its run, and then it comes back.

What it still writes is refused, it lets the run go, and it goes on as if nothing had been: its place and its job
are not disturbed, and nobody else's.
"""

import os
import signal
from dataclasses import dataclass, replace

import anyio
import psutil
import pytest

from mcp_agents.execution.run import Run
from mcp_agents.kernel.events import FinalEvent
from mcp_agents.kernel.tasks import background, together
from mcp_agents.scaling.quotas import Allowance
from tests.crash.dying import CALLER
from tests.crash.play import Play, first_run, follow_to_the_end, furnish, house_in
from tests.crash.scenarios import CLAIM, Role, Scenario
from tests.support.counted_tools import CountedTools
from tests.support.nursery import nursery
from tests.support.provider import ScriptedProvider

pytestmark = pytest.mark.anyio


def _zombies(role: Role, prefix: str) -> list[Scenario]:
    return [
        Scenario(f"{prefix}stopped-before-claim", f"{CLAIM}:before", answers=3, role=role),
        Scenario(f"{prefix}stopped-before-tool-sent", "tool:send", unknown=1, role=role),
        Scenario(f"{prefix}stopped-with-result", "tool:answered", unknown=1, role=role),
        Scenario(f"{prefix}stopped-before-end", "append:ModelAnswered+Completed:before", answers=3, role=role),
    ]


ZOMBIES = [*_zombies("worker", ""), *_zombies("serving", "serving-")]
SECOND = [
    "append:Started:before",
    "append:Started:stored",
    "model:send",
    "model:answered",
    f"{CLAIM}:before",
    f"{CLAIM}:stored",
    "tool:send",
    "tool:answered",
    "append:ToolDone:before",
    "append:ToolDone:stored",
    "model:send",
    "model:answered",
    "append:ModelAnswered+Completed:before",
    "append:ModelAnswered+Completed:stored",
    "job:done",
]
"""What a worker reaches in a run from a job, from its start to its end."""


@dataclass
class Comeback:
    """What was found behind a worker that came back."""

    stopped: Run
    finals: int
    unchanged: bool
    effects: list[str]
    reached: list[str]
    answers: int = 0


@pytest.fixture(scope="module")
async def comebacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Comeback]:
    """Every scenario, run at once; by name."""
    found: dict[str, Comeback] = {}
    steps = [step for scenario in ZOMBIES for step in scenario.steps]
    async with ScriptedProvider(steps) as provider, CountedTools() as tools, nursery("tests.crash.dying") as births:

        async def one(scenario: Scenario) -> None:
            folder = tmp_path_factory.mktemp(scenario.name)
            with anyio.move_on_after(90):
                found[scenario.name] = await _come_back(Play(scenario, folder, births, provider, tools))

        async with together() as playing:
            for scenario in ZOMBIES:
                playing.start_soon(one, scenario)
        counts = provider.counts()
        for index, scenario in enumerate(ZOMBIES):
            if after := found.get(scenario.name):
                after.answers = sum(counts.by_step[3 * index : 3 * index + 3]) - 2  # those of the second run
    return found


async def _come_back(play: Play) -> Comeback:
    """A worker stops, its run is ended by this process, it comes back, and takes a second run to its end alone."""
    async with house_in(play.folder, play.provider) as house:
        await furnish(house, play.tools)
        space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
        await house.services.quotas.set(space, "", Allowance(max_concurrent=1), expected_revision=None)
        if play.scenario.role == "worker":
            await dispatcher.submit(space, CALLER, play.order)
        pid = await play.nursery.bear(play.dying() | {"stops": True})
        await _until_stopped(pid)
        first = await first_run(space, dispatcher)
        async with background() as tasks:
            tasks.start_soon(house.crew.work, 1)
            await follow_to_the_end(dispatcher, space, first)
            _, history = await space.log(first).read()
        before = len(play.journal.read_text().split())
        os.kill(pid, signal.SIGCONT)
        second = await dispatcher.submit(space, CALLER, replace(play.order, idempotency_key="second"))
        await follow_to_the_end(dispatcher, space, second)
        while await space.queued():
            await anyio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        await play.nursery.end(pid)
        other = {call.effect_id for call in (await dispatcher.view(space, second)).tool_calls}
        return Comeback(
            stopped=Run.folded(first, history),
            finals=sum(isinstance(entry.event, FinalEvent) for entry in history),
            unchanged=(await space.log(first).read())[1] == history,
            effects=[effect for effect in play.tools.effects(play.scenario.name) if effect not in other],
            reached=play.journal.read_text().split()[before:],
        )


@pytest.mark.parametrize("scenario", ZOMBIES, ids=lambda scenario: scenario.name)
async def test_a_worker_that_comes_back_is_refused_and_goes_on_with_something_else(
    scenario: Scenario, comebacks: dict[str, Comeback]
) -> None:
    """One history, one end, no effect more than the table says; the place of its lost run is free again."""
    assert scenario.name in comebacks, "it did not come to an end"
    after = comebacks[scenario.name]
    late = _without_second(after.reached)
    assert late[0] == scenario.point
    assert not [point for point in late if point.endswith(":stored")], "it was refused"
    assert after.unchanged, "nothing was written behind the end"
    assert after.stopped.status == "completed"
    assert after.finals == 1
    calls = after.stopped.view().tool_calls
    assert len(after.effects) == scenario.effects
    assert set(after.effects) <= {call.effect_id for call in calls}
    assert sum(call.state == "unknown" for call in calls) == scenario.unknown
    assert after.answers == scenario.answers


def _without_second(reached: list[str]) -> list[str]:
    """What it reached besides the second run. Letting go of the first job may fall between two points of the second."""
    late, second = [], [*SECOND]
    for point in reversed(reached):
        if second and point == second[-1]:
            second.pop()
        else:
            late.append(point)
    assert not second, "the second run, from its start to its end"
    return late[::-1]


async def _until_stopped(pid: int) -> None:
    with anyio.fail_after(60):
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            await anyio.sleep(0.01)
