"""A worker is stopped past its lease, another one finishes its run, and then it comes back.

What it still writes is refused, it lets the run go, and it goes on as if nothing had been: its place and its job
are not disturbed, and nobody else's.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_agents.execution.run import Run
from mcp_agents.kernel.events import FinalEvent
from mcp_agents.kernel.tasks import background
from mcp_agents.scaling.quotas import Quota
from tests.crash.dying import CALLER
from tests.crash.play import Play, first_run, follow_to_the_end, furnish, house_in
from tests.crash.scenarios import CLAIM, Role, Scenario
from tests.support.counted_tools import CountedTools
from tests.support.nursery import Nursery
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


@pytest.mark.parametrize("scenario", ZOMBIES, ids=lambda scenario: scenario.name)
async def test_a_worker_that_comes_back_is_refused_and_goes_on_with_something_else(
    scenario: Scenario, tmp_path: Path
) -> None:
    """One history, one end, no effect more than the table says; the place of its lost run is free again."""
    nursery = Nursery("tests.crash.dying")
    steps = scenario.steps
    async with ScriptedProvider(steps) as provider, CountedTools() as tools, background() as hearing:
        hearing.start_soon(nursery.listen)
        play = Play(scenario, tmp_path, nursery, provider, tools)
        async with house_in(tmp_path, provider) as house:
            await furnish(house, tools)
            space, dispatcher = house.tenancy.of(CALLER), house.services.dispatcher
            one = Quota(scope="tenant", max_concurrent=1)
            await house.services.quotas.define(space, one, expected_revision=None)
            if scenario.role == "worker":
                await dispatcher.submit(space, CALLER, play.order)
            pid = await nursery.bear(play.dying() | {"stops": True})
            await _until_stopped(pid)
            execution_id = await first_run(space, dispatcher)
            async with background() as tasks:
                tasks.start_soon(house.crew.work, 1)
                await follow_to_the_end(dispatcher, space, execution_id)
                _, history = await space.log(execution_id).read()
            reached = len(play.journal.read_text().split())

            os.kill(pid, signal.SIGCONT)
            second = await dispatcher.submit(space, CALLER, replace(play.order, idempotency_key="second"))
            with anyio.fail_after(30):
                await follow_to_the_end(dispatcher, space, second)
                while play.journal.read_text().split()[-1] != "job:done":
                    await anyio.sleep(0.01)

            journal = play.journal.read_text().split()[reached:]
            assert journal[-len(SECOND) :] == SECOND
            late = journal[: -len(SECOND)]
            assert late[0] == scenario.point
            assert not [point for point in late if point.endswith(":stored") or point == "job:done"]
            assert (await space.log(execution_id).read())[1] == history, "nothing was written behind the end"
            run = Run.folded(execution_id, history)
            assert run.status == "completed"
            assert sum(isinstance(entry.event, FinalEvent) for entry in history) == 1
            other = {call.effect_id for call in (await dispatcher.view(space, second)).tool_calls}
            effects = [effect for effect in tools.effects(scenario.name) if effect not in other]
            assert len(effects) == scenario.effects
            assert set(effects) <= {call.effect_id for call in run.view().tool_calls}
            assert sum(call.state == "unknown" for call in run.view().tool_calls) == scenario.unknown
            assert len(provider.requests) - 2 == scenario.answers
            assert await space.queued() == 0
            nursery.close()


async def _until_stopped(pid: int) -> None:
    with anyio.fail_after(60):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await anyio.sleep(0.01)
