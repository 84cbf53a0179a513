"""Calls that a person approves first: who decides, when it counts, and what becomes of the run."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from mcp_agents.execution import approving, effects
from mcp_agents.execution.orders import Order
from mcp_agents.execution.questions import Answer
from mcp_agents.execution.register import Asked
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Conflict, Denied
from mcp_agents.kernel.events import (
    START,
    ApprovalRequested,
    HandedOff,
    ModelAnswered,
    Started,
    ToolClaimed,
    ToolUnknown,
)
from mcp_agents.kernel.messages import ToolCall
from tests.execution.persons import ALWAYS, ANN, BOB, NO, YES, Desk, Jumping, desk, house_on, person, recording
from tests.support.counted_tools import CountedTools
from tests.support.provider import Call, ScriptedProvider, Step

pytestmark = pytest.mark.anyio


async def test_an_approved_call_is_sent_and_the_run_goes_on(tmp_path: Path) -> None:
    """Nothing is claimed before; the run waits without a worker, and the log says who decided."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent(policy=ALWAYS)
        execution_id = await at.submit()
        asked = await at.asked(execution_id)
        assert (asked.kind, asked.tool, asked.arguments) == ("approval", "counted__record", {"place": "q"})
        assert asked.url.endswith(f"/approvals/{asked.id}")
        assert "worker wants to call counted/record" in asked.message
        assert at.tools.effects("q") == []
        assert "tool_claimed" not in await at.events(execution_id)
        assert await at.space.queued() == 0
        await at.answer(BOB, execution_id, Answer(content={"approve": True, "reason": "fine"}))
        view = await at.ended(execution_id)
        events = await at.events(execution_id)
    assert view.status == "completed"
    assert [call.state for call in view.tool_calls] == ["done"]
    assert at.tools.effects("q") == [view.tool_calls[0].effect_id]
    assert view.questions == ()
    order = ["approval_requested", "handed_off", "approval_decided", "started", "tool_claimed", "tool_done"]
    assert [name for name in events if name in order][-len(order) :] == order


@pytest.mark.parametrize("no", [NO, Answer(action="decline")])
async def test_a_refused_call_is_told_to_the_model_and_not_asked_again(tmp_path: Path, no: Answer) -> None:
    """The model wants the same once more: it is refused without a person."""
    call = Call(name="counted__record", arguments='{"place": "q"}')
    steps = [
        Step(when="<q>", turn=0, calls=[call]),
        Step(when="<q>", turn=1, calls=[call]),
        Step(when="<q>", turn=2, text="Then not."),
    ]
    async with desk(tmp_path, *steps) as at:
        await at.agent(policy=ALWAYS)
        execution_id = await at.submit()
        await at.asked(execution_id)
        await at.answer(ANN, execution_id, no)
        view = await at.ended(execution_id)
        events = await at.events(execution_id)
    assert view.status == "completed"
    assert at.tools.effects("q") == []
    assert all(call.result.startswith("APPROVAL_REFUSED") for call in view.tool_calls)
    assert ("too dear" in view.tool_calls[0].result) is (no is NO)
    assert events.count("approval_requested") == 1


async def test_cancel_decides_nothing(tmp_path: Path) -> None:
    """Closing the form leaves the question open."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent(policy=ALWAYS)
        execution_id = await at.submit()
        await at.asked(execution_id)
        view = await at.answer(ANN, execution_id, Answer(action="cancel"))
        assert len(view.questions) == 1
        await at.answer(ANN, execution_id, YES)
        assert (await at.ended(execution_id)).status == "completed"


async def test_other_calls_of_the_same_answer_go_on(tmp_path: Path) -> None:
    """What no rule fits is sent at once; a decision that comes while it runs is heard by the worker that has it."""
    calls = [
        Call(name="counted__record_in_turn", arguments='{"place": "q", "turn": 0}'),
        Call(name="counted__record", arguments='{"place": "r"}'),
    ]
    steps = [Step(when="<q>", turn=0, calls=calls), Step(when="<q>", turn=1, text="Both.")]
    async with desk(tmp_path, *steps) as at:
        await at.agent(tools=["counted/*"], policy={"approvals": [{"tool": "counted/record"}]})
        execution_id = await at.submit()
        run = await at.until(execution_id, lambda run: bool(run.questions()))
        assert run.status == "running"
        await at.answer(BOB, execution_id, YES)
        at.tools.open_turn("q", 0)
        view = await at.ended(execution_id)
        events = await at.events(execution_id)
    assert [call.state for call in view.tool_calls] == ["done", "done"]
    assert (len(at.tools.effects("q")), len(at.tools.effects("r"))) == (1, 1)
    assert "handed_off" not in events, "the worker that had the run was not disturbed"
    assert events.count("started") == 1


@pytest.mark.parametrize(
    ("who", "rule", "code"),
    [
        (person("carl", "executions:run", "approvals:read"), {}, "INSUFFICIENT_SCOPE"),
        (person("ann", "executions:run"), {}, "INSUFFICIENT_SCOPE"),
        (ANN, {"by": "other"}, "APPROVAL_NEEDS_OTHER"),
        (BOB.acting("ag_1"), {}, "APPROVAL_NEEDS_PERSON"),
    ],
)
async def test_whoever_may_not_decide_is_refused(tmp_path: Path, who: Any, rule: dict[str, str], code: str) -> None:
    """Without the right; the caller where four eyes are wanted; an agent. Somebody else then decides."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent(policy={"approvals": [rule]})
        execution_id = await at.submit()
        await at.asked(execution_id)
        with pytest.raises(Denied, match=code):
            await at.answer(who, execution_id, YES)
        await at.answer(BOB, execution_id, YES)
        assert (await at.ended(execution_id)).tool_calls[0].state == "done"


async def test_of_two_decisions_the_first_counts(tmp_path: Path) -> None:
    """Also of the same person."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent(policy=ALWAYS)
        execution_id = await at.submit()
        asked = await at.asked(execution_id)
        await at.answer(BOB, execution_id, YES)
        for who, answer in ((ANN, NO), (BOB, YES)):
            with pytest.raises(Conflict, match="QUESTION_ANSWERED"):
                await at.answer(who, execution_id, answer, asked.id)
        await at.ended(execution_id)
        with pytest.raises(Conflict, match="QUESTION_ANSWERED"):
            await at.answer(ANN, execution_id, NO, asked.id)
        assert (await at.events(execution_id)).count("approval_decided") == 1


async def test_of_twenty_at_once_in_two_processes_one_wins(tmp_path: Path) -> None:
    """Each of the others hears that it came too late, and the call is made once or not at all."""
    said: list[str] = []
    late: list[str] = []

    async def one(at: Desk, answer: Answer) -> None:
        try:
            await at.answer(BOB, execution_id, answer)
        except Conflict as error:
            late.append(error.code)
        else:
            said.append("refused" if answer is NO else "approved")

    async with (
        ScriptedProvider(recording()) as provider,
        CountedTools() as tools,
        house_on(tmp_path, provider, tools) as first,
        house_on(tmp_path, provider, tools) as second,
    ):
        await first.agent(policy=ALWAYS)
        execution_id = await first.submit()
        await first.asked(execution_id)
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one, (first, second)[number % 2], (YES, NO)[number // 2 % 2])
        view = await second.ended(execution_id)
    assert set(late) <= {"QUESTION_ANSWERED", "EXECUTION_NOT_WAITING"}
    assert len(said) == 1
    assert len(tools.effects("q")) == (said == ["approved"])
    assert view.tool_calls[0].state == ("done" if said == ["approved"] else "failed")


@pytest.mark.parametrize("swept", [True, False])
async def test_nobody_decides_after_the_time_is_over(tmp_path: Path, swept: bool) -> None:
    """The decision is refused, and the run goes on without the call: woken by the attempt, or by the sweep."""
    clock = Jumping()
    async with desk(tmp_path, *recording(), clock=clock) as at:
        await at.agent(policy={**ALWAYS, "approval_seconds": 3600})
        execution_id = await at.submit()
        await at.asked(execution_id)
        clock.jump(3601)
        if swept:
            assert await at.house.crew.recovery.recover() == 1
        else:
            with pytest.raises(Conflict, match="APPROVAL_EXPIRED"):
                await at.answer(BOB, execution_id, YES)
        view = await at.ended(execution_id)
    assert view.status == "completed"
    assert view.tool_calls[0].result.startswith("APPROVAL_EXPIRED")
    assert at.tools.effects("q") == []


@pytest.mark.parametrize("change", [{"system_prompt": "Be bold."}, {"policy": {}}])
@pytest.mark.parametrize("late", [True, False])
async def test_an_approval_is_void_when_the_agent_or_its_policy_has_changed(
    tmp_path: Path, change: dict[str, Any], late: bool
) -> None:
    """Whether it changed before the decision, or between the decision and the sending."""
    async with ScriptedProvider(recording()) as provider, CountedTools() as tools:
        async with house_on(tmp_path, provider, tools) as at:
            await at.agent(policy=ALWAYS)
            execution_id = await at.submit()
            asked = await at.asked(execution_id)
        async with house_on(tmp_path, provider, tools, workers=0) as at:
            if late:
                await at.answer(BOB, execution_id, YES)
            await at.services.agents.update(at.space, "worker", change, None)
            if not late:
                with pytest.raises(Conflict, match="APPROVAL_VOID"):
                    await at.answer(BOB, execution_id, YES, asked.id)
        async with house_on(tmp_path, provider, tools) as at:
            view = await at.ended(execution_id)
    assert view.status == "completed"
    assert view.tool_calls[0].result.startswith("APPROVAL_VOID")
    assert tools.effects("q") == []


async def test_an_approval_of_other_arguments_is_void(tmp_path: Path) -> None:
    """A log that asks about one call and would send another."""
    async with desk(tmp_path, *recording()[1:], workers=0) as at:
        await at.agent(policy=ALWAYS)
        agent = (await at.services.agents.get(at.space, "worker")).value
        shown = ToolCall(call_id="c1", tool="counted__record", arguments={"place": "shown"})
        execution_id, asked = await _left(at, agent, shown)
        with pytest.raises(Conflict, match="APPROVAL_VOID"):
            await at.answer(BOB, execution_id, YES, asked)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(at.house.crew.work, 1)
            view = await at.ended(execution_id)
            tasks.cancel_scope.cancel()
    assert view.tool_calls[0].result.startswith("APPROVAL_VOID")
    assert at.tools.effects("sent") == []


async def _left(at: Desk, agent: Any, shown: ToolCall) -> tuple[str, str]:
    """A run that waits for the approval of `shown`, while its model asked for something else."""

    clock = at.house.tenancy.clock
    requested = Order(agent=agent.id, prompt="<q>", submitted=True).requested(agent, ANN)
    wanted = msgspec.structs.replace(shown, arguments={"place": "sent"})
    execution_id, approval_id = ids.mint("ex", clock), ids.mint("apr", clock)
    events = [
        requested,
        Started(worker="w", attempt=1),
        ModelAnswered(turn=1, model="m", tool_calls=(wanted,)),
        ApprovalRequested(
            approval_id=approval_id,
            call_id="c1",
            tool=shown.tool,
            digest="d",
            binding=approving.binding(requested.caller, shown, agent),
            message="May it?",
            expires_at=Jumping(3600).now(),
        ),
        HandedOff(to=()),
    ]
    await at.space.log(execution_id).append(START, events)
    return execution_id, approval_id


async def test_a_decision_counts_after_every_process_was_started_again(tmp_path: Path) -> None:
    """Asked in one life of the deployment, decided in the next, carried out in the one after."""
    async with ScriptedProvider(recording()) as provider, CountedTools() as tools:
        async with house_on(tmp_path, provider, tools) as at:
            await at.agent(policy=ALWAYS)
            execution_id = await at.submit()
            asked = await at.asked(execution_id)
        async with house_on(tmp_path, provider, tools, workers=0) as at:
            found = await at.services.register.find(at.space, asked.id)
            assert found is not None
            assert (found.status, found.execution_id) == ("open", execution_id)
            await at.answer(BOB, execution_id, YES)
        async with house_on(tmp_path, provider, tools) as at:
            view = await at.ended(execution_id)
    assert [call.state for call in view.tool_calls] == ["done"]
    assert len(tools.effects("q")) == 1


async def test_time_in_which_a_person_thinks_is_not_the_runs(tmp_path: Path) -> None:
    """A run with ten seconds waits for an hour, and so does the run that called its agent."""
    clock = Jumping()
    inner = Call(name="counted__record", arguments='{"place": "q"}')
    steps = [
        Step(when="<outer>", turn=0, calls=[Call(name="agent__worker", arguments='{"prompt": "<q>"}')]),
        Step(when="<outer>", turn=1, text="All done."),
        Step(when="<q>", turn=0, calls=[inner]),
        Step(when="<q>", turn=1, text="Done."),
    ]
    async with desk(tmp_path, *steps, clock=clock) as at:
        await at.agent(policy=ALWAYS, limits={"timeout_seconds": 10})
        await at.agent("outer", tools=["agent:worker"], limits={"timeout_seconds": 10})
        outer = await at.submit("<outer>", "outer")
        run = await at.until(outer, lambda run: run.status == "waiting")
        (child,) = run.waiting_for
        await at.asked(child)
        clock.jump(3600)
        await at.answer(BOB, child, YES)
        assert (await at.ended(child)).status == "completed"
        assert (await at.ended(outer)).status == "completed"


async def test_a_doubtful_call_is_made_again_when_a_person_approves(tmp_path: Path) -> None:
    """Where the policy asks people, nobody knows whether the first took effect, and somebody says: again."""

    steps = [Step(when="<q>", turn=1, calls=[Call(name="counted__record", arguments='{"place": "q"}')])]
    async with desk(tmp_path, *steps, Step(when="<q>", turn=2, text="Twice.")) as at:
        await at.agent(policy={"unknown_effects": "ask_person"})
        agent = (await at.services.agents.get(at.space, "worker")).value
        requested = Order(agent=agent.id, prompt="<q>", submitted=True).requested(agent, ANN)
        call = ToolCall(call_id="c1", tool="counted__record", arguments={"place": "q"})
        execution_id, effect = ids.mint("ex", at.house.tenancy.clock), ids.mint("eff", at.house.tenancy.clock)
        claim = ToolClaimed(effect_id=effect, call_id="c1", tool=call.tool, digest=effects.digest(call))
        first = [
            requested,
            Started(worker="gone", attempt=1),
            ModelAnswered(turn=1, model="m", tool_calls=(call,)),
            claim,
            ToolUnknown(effect_id=effect),
        ]
        await at.space.log(execution_id).append(START, first)
        assert await at.house.crew.recovery.recover() == 1
        asked = await at.asked(execution_id)
        assert (asked.kind, "may have taken effect" in asked.message) == ("approval", True)
        await at.answer(BOB, execution_id, YES)
        view = await at.ended(execution_id)
    assert [call.state for call in view.tool_calls] == ["unknown", "done"]
    assert len(at.tools.effects("q")) == 1


async def test_the_list_follows_what_is_open(tmp_path: Path) -> None:
    """A question is listed while it is open, as ended afterwards; one that a crash left out is listed by recovery."""
    async with desk(tmp_path, *recording()) as at:
        await at.agent(policy=ALWAYS)
        register = at.services.register
        first, second = await at.submit(), await at.submit()
        one, two = await at.asked(first), await at.asked(second)
        listed = await register.newest(at.space, done=False)
        assert [asked.id for asked in listed] == sorted((one.id, two.id), reverse=True)
        assert {asked.asked_for for asked in listed} == {"ann"}
        assert [asked.id for asked in await register.newest(at.space, done=False, before=listed[0].id)] == [
            listed[1].id
        ]
        records = at.space.records("cb_executions", Asked)
        kept = await records.get("question", "open", one.id)
        assert kept is not None
        await records.delete("question", "open", one.id, revision=kept.revision)
        assert await at.house.crew.recovery.recover() == 0
        assert [asked.id for asked in await register.newest(at.space, done=False)] == [asked.id for asked in listed]
        await at.answer(BOB, first, NO)
        await at.services.dispatcher.cancel(at.space, ANN, second, "enough")
        await at.ended(first)
        assert await register.newest(at.space, done=False) == []
        ended = {asked.id: asked for asked in await register.newest(at.space, done=True)}
    assert (ended[one.id].status, ended[one.id].decided_by, ended[one.id].reason) == ("refused", "bob", "too dear")
    assert ended[two.id].status == "ended"
