"""Saying more to a run that is under way, asking a person from inside one, and ending one at once."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from mcp_agents.execution import steering
from mcp_agents.execution.questions import Answer
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.errors import Conflict, Denied, Exhausted, Invalid
from mcp_agents.kernel.events import Steered
from tests.execution.persons import ALWAYS, ANN, BOB, YES, Desk, desk, house_on, person, recording
from tests.support.counted_tools import CountedTools
from tests.support.provider import Call, ScriptedProvider, Step

pytestmark = pytest.mark.anyio


async def steer(at: Desk, execution_id: str, message: str) -> ExecutionView:
    return await steering.steer(at.services.post, at.space, BOB, execution_id, message)


def heard(at: Desk) -> list[list[tuple[str, str]]]:
    """Role and text of what each request said behind the prompt."""
    return [
        [(message["role"], message.get("content") or "") for message in request["messages"][1:]]
        for request in at.provider.requests
    ]


async def test_what_is_said_while_the_model_answers_is_heard_at_the_next_turn(tmp_path: Path) -> None:
    """The answer that is under way was not told; it ends the run no more, and the worker keeps the run."""
    steps = [Step(when="<q>", turn=0, text="First.", hold="q"), Step(when="<q>", turn=1, text="Second.")]
    async with desk(tmp_path, *steps) as at:
        await at.agent()
        execution_id = await at.submit()
        await at.provider.until(lambda counts: counts.holding == 1)
        view = await steer(at, execution_id, "Also look at May.")
        assert view.status == "running"
        at.provider.release("q")
        view = await at.ended(execution_id)
        events = await at.events(execution_id)
        said = heard(at)
    assert view.text == "Second."
    assert said[1] == [("assistant", "First."), ("user", "Also look at May.")]
    assert events.count("started") == 1


async def test_what_is_said_during_a_tool_call_disturbs_it_not(tmp_path: Path) -> None:
    """The call ends as it would have, and what was said stands behind its result."""
    call = Call(name="counted__record_in_turn", arguments='{"place": "q", "turn": 0}')
    steps = [Step(when="<q>", turn=0, calls=[call]), Step(when="<q>", turn=1, text="Done.")]
    async with desk(tmp_path, *steps) as at:
        await at.agent(tools=["counted/*"])
        execution_id = await at.submit()
        await at.until(execution_id, lambda run: bool(run.open_calls()))
        for message in ("one", "two"):
            await steer(at, execution_id, message)
        at.tools.open_turn("q", 0)
        view = await at.ended(execution_id)
        said = heard(at)
    assert [call.state for call in view.tool_calls] == ["done"]
    assert [role for role, _ in said[1]] == ["assistant", "tool", "user", "user"]
    assert [text for _, text in said[1]][2:] == ["one", "two"]


async def test_what_is_said_to_a_run_that_waits_is_heard_when_it_goes_on(tmp_path: Path) -> None:
    """Nobody holds it: for a person, and before it was begun at all."""
    async with ScriptedProvider(recording()) as provider, CountedTools() as tools:
        async with house_on(tmp_path, provider, tools, workers=0) as at:
            await at.agent(policy=ALWAYS)
            execution_id = await at.submit()
            assert (await steer(at, execution_id, "early")).status == "pending"
        async with house_on(tmp_path, provider, tools) as at:
            await at.asked(execution_id)
            assert (await steer(at, execution_id, "late")).status == "waiting"
            await at.answer(BOB, execution_id, YES)
            await at.ended(execution_id)
            said = heard(at)
    assert said[0] == [("user", "early")]
    assert [text for role, text in said[1] if role == "user"] == ["early", "late"]


async def test_nothing_that_was_accepted_is_lost_with_the_worker(tmp_path: Path) -> None:
    """The house closes in the middle of the answer; the next one finds what was said."""
    steps = [Step(when="<q>", turn=0, times=2, text="First.", hold="q"), Step(when="<q>", turn=1, times=0, text="Two.")]
    async with ScriptedProvider(steps) as provider, CountedTools() as tools:
        async with house_on(tmp_path, provider, tools) as at:
            await at.agent()
            execution_id = await at.submit()
            await provider.until(lambda counts: counts.holding == 1)
            await steer(at, execution_id, "Hurry.")
        provider.release("q")
        async with house_on(tmp_path, provider, tools) as at:
            await at.ended(execution_id)
            said = heard(at)
    assert said[-1] == [("user", "Hurry.")]


async def test_a_run_that_has_ended_takes_nothing_more(tmp_path: Path) -> None:
    """And one that goes on takes a bounded number."""
    steps = [Step(when="<q>", text="Done.", times=0), Step(when="<r>", text="Done.", times=0, hold="r")]
    async with desk(tmp_path, *steps) as at:
        await at.agent()
        execution_id = await at.submit()
        await at.ended(execution_id)
        with pytest.raises(Conflict, match="EXECUTION_FINISHED"):
            await steer(at, execution_id, "more")
        other = await at.submit("<r>")
        await at.provider.until(lambda counts: counts.holding == 1)
        async with anyio.create_task_group() as tasks:
            for number in range(steering.STEERS):
                tasks.start_soon(steer, at, other, str(number))
        with pytest.raises(Exhausted, match="STEERS_EXHAUSTED"):
            await steer(at, other, "more")
        run = await at.run(other)
        at.provider.release("r")
    assert sorted(event.message for event in run.steered) == sorted(map(str, range(steering.STEERS)))
    assert len({event.mark for event in run.steered if isinstance(event, Steered)}) == steering.STEERS


FORM = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "size": {"type": "string", "enum": ["S", "M"], "default": "M"}},
    "required": ["city"],
}


def asking(**arguments: Any) -> list[Step]:
    call = Call(name="builtin__ask_user", arguments=msgspec.json.encode(arguments).decode())
    return [Step(when="<q>", turn=0, calls=[call]), Step(when="<q>", turn=1, text="Thanks.")]


@pytest.mark.parametrize(
    ("schema", "content", "result"),
    [
        ({}, {"answer": "Bonn"}, {"answer": "Bonn"}),
        ({"schema": FORM}, {"city": "Bonn"}, {"city": "Bonn", "size": "M"}),
        ({"schema": FORM}, {"city": "Bonn", "size": "S", "extra": 1}, {"city": "Bonn", "size": "S"}),
    ],
)
async def test_an_agent_asks_and_is_told(
    tmp_path: Path, schema: dict[str, Any], content: dict[str, Any], result: dict[str, Any]
) -> None:
    """The caller answers without a right to decide approvals; what was not asked for is dropped."""
    async with desk(tmp_path, *asking(message="Where?", **schema)) as at:
        await at.agent(tools=["builtin/ask_user"])
        execution_id = await at.submit()
        asked = await at.asked(execution_id)
        assert (asked.kind, asked.message) == ("question", "The agent worker asks: Where?")
        await at.answer(person("ann", "executions:run"), execution_id, Answer(content=content))
        view = await at.ended(execution_id)
    assert msgspec.json.decode(view.tool_calls[0].result) == result
    assert view.tool_calls[0].state == "done"


async def test_an_answer_has_to_fit_and_come_from_the_right_person(tmp_path: Path) -> None:
    """Neither a wrong answer nor a stranger's closes the question."""
    async with desk(tmp_path, *asking(message="Where?", schema=FORM)) as at:
        await at.agent(tools=["builtin/*"])
        execution_id = await at.submit()
        await at.asked(execution_id)
        for wrong in ({}, {"city": 1}, {"city": "Bonn", "size": "XL"}):
            with pytest.raises(Invalid, match="ANSWER_INVALID"):
                await at.answer(ANN, execution_id, Answer(content=wrong))
        with pytest.raises(Denied):
            await at.answer(person("carl", "executions:run"), execution_id, Answer(content={"city": "Bonn"}))
        await at.answer(ANN, execution_id, Answer(action="decline"))
        view = await at.ended(execution_id)
    assert view.tool_calls[0].result.startswith("QUESTION_DECLINED")


async def test_an_agent_may_not_ask_for_a_secret(tmp_path: Path) -> None:
    """The model is told so, and nobody is asked."""
    form = {"type": "object", "properties": {"password": {"type": "string"}}}
    async with desk(tmp_path, *asking(message="Sign in", schema=form)) as at:
        await at.agent(tools=["builtin/ask_user"])
        view = await at.ended(await at.submit())
    assert view.tool_calls[0].result.startswith("QUESTION_INVALID")


async def test_cancelling_breaks_off_the_models_stream(tmp_path: Path) -> None:
    """The provider sees its client go while it still holds the answer."""
    async with desk(tmp_path, Step(when="<q>", text="Never said.", hold="q")) as at:
        await at.agent()
        execution_id = await at.submit()
        await at.provider.until(lambda counts: counts.holding == 1)
        await at.services.dispatcher.cancel(at.space, ANN, execution_id, "enough")
        await at.provider.until(lambda counts: counts.disconnected == 1)
        assert (await at.run(execution_id)).status == "cancelled"
        at.provider.release("q")
