"""A process dies at every fault point of a run; the counts afterwards are those of the tables in docs/crashes.md."""

import os
from importlib import import_module

import anyio
import pytest

from mcp_agents.kernel.tasks import together
from tests.crash.play import Aftermath, Play
from tests.crash.scenarios import EVERY, STREAM, Scenario
from tests.support.counted_tools import CountedTools
from tests.support.nursery import nursery
from tests.support.provider import ScriptedProvider

pytestmark = pytest.mark.anyio

AT_ONCE = 20


@pytest.fixture(scope="module")
async def aftermaths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Aftermath]:
    """Every scenario, run; by name."""
    found: dict[str, Aftermath] = {}
    # Imported before any run, since the seconds it takes would cost the runs of this process their leases.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")
    steps = [step for scenario in EVERY for step in scenario.steps]
    async with ScriptedProvider(steps) as provider, CountedTools() as tools, nursery("tests.crash.dying") as births:
        limit = anyio.CapacityLimiter(AT_ONCE)

        async def one(scenario: Scenario) -> None:
            async with limit:
                folder = tmp_path_factory.mktemp(scenario.name)
                with anyio.move_on_after(90):
                    found[scenario.name] = await Play(scenario, folder, births, provider, tools).play()

        async with together() as playing:
            for scenario in EVERY:
                playing.start_soon(one, scenario)
        counts = provider.counts()
        for index, scenario in enumerate(EVERY):
            if after := found.get(scenario.name):
                after.answers = sum(counts.by_step[3 * index : 3 * index + 3])
    return found


@pytest.mark.parametrize("scenario", EVERY, ids=lambda scenario: scenario.name)
async def test_the_counts_after_a_death_are_those_of_the_table(
    scenario: Scenario, aftermaths: dict[str, Aftermath]
) -> None:
    """Each run once, one final event each, no answer bought twice that was recorded, no effect unsaid."""
    assert scenario.name in aftermaths, "it did not come to an end"
    after = aftermaths[scenario.name]
    assert after.died, "the fault point was never reached"
    assert after.statuses == ["completed"] * scenario.executions
    assert after.finals == [1] * scenario.executions
    assert after.answers == scenario.answers
    assert len(after.effects) == scenario.effects
    assert set(after.effects) <= after.claimed, "a repeated effect must come under the effect id of its claim"
    assert after.events["tool_unknown"] == scenario.unknown
    assert after.events["requested"] == scenario.executions
    assert after.events["model_answered"] == scenario.least_answers


@pytest.mark.parametrize(
    "scenario", [each for each in EVERY if each.role in ("worker", "serving")], ids=lambda scenario: scenario.name
)
async def test_what_may_have_happened_twice_is_said_aloud(scenario: Scenario, aftermaths: dict[str, Aftermath]) -> None:
    """More answers, or more effects under one id, than the run needed never go without a retry event."""
    after = aftermaths[scenario.name]
    if after.answers > scenario.least_answers or len(after.effects) > len(set(after.effects)):
        assert after.events["retry"] >= 1


@pytest.mark.parametrize(
    "scenario", [each for each in EVERY if each.point == STREAM], ids=lambda scenario: scenario.name
)
async def test_a_follower_of_a_cut_answer_puts_the_right_text_together(
    scenario: Scenario, aftermaths: dict[str, Aftermath]
) -> None:
    """What is sent again begins at its start; every piece lies where it says in the text that counts."""
    after = aftermaths[scenario.name]
    assert after.deltas
    together: dict[int, str] = {}
    begun: list[int] = []
    for delta in after.deltas:
        if delta.offset == 0:
            begun.append(delta.turn)
            together[delta.turn] = ""
        assert len(together[delta.turn]) == delta.offset
        together[delta.turn] += delta.text
    for number, text in together.items():
        assert after.texts[number].startswith(text)
    if scenario.role == "worker":
        assert scenario.nth in begun
    if scenario.name == "stream-first-cut":  # of the last answer, the end may be heard before its pieces
        assert begun.count(1) == 2, "the answer that was cut is sent again from its start"
