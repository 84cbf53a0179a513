"""The one implementation of running an agent: model, tools, model, … until a final event, or until it waits.

Everything it decides it records through a `Recorder` before acting on it, and everything it knows comes from
the folded log, so it can be entered again at any point. It answers nobody: who wants to see a run follows its
log. Above: the worker. Beside it: `turns` asks the model, `effects` says what may be sent and what is unknown,
`children` runs agents as tools, `approvals` says which calls come before a person first.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio

from mcp_agents.agents.spec import Agent
from mcp_agents.execution import effects, limits
from mcp_agents.execution.approvals import Approvals
from mcp_agents.execution.children import Children, child_id
from mcp_agents.execution.compacting import Compacting
from mcp_agents.execution.gates import Gates
from mcp_agents.execution.limits import Limits
from mcp_agents.execution.questions import Question
from mcp_agents.execution.recorder import STORE_AWAY, Recorder
from mcp_agents.execution.register import Register
from mcp_agents.execution.run import Call, Run
from mcp_agents.execution.turns import Answered, Asker
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.errors import Timeout as TimeoutKind
from mcp_agents.kernel.events import (
    AnyEvent,
    Failed,
    HandedOff,
    Problem,
    Started,
    TimedOut,
    ToolClaimed,
    ToolDone,
    ToolFailed,
)
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.toolset import Broken, Invocation, Outcome, Refused, Returned, Tool, Toolset, Toolsets
from mcp_agents.kernel.trace import child_of

_TOOL_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Hands:
    """What a run may call: tools of servers, and agents."""

    toolset: Toolset
    agents: dict[str, Agent]
    offered: dict[str, Tool]


class Loop:
    """Advances runs until they have ended or wait. Holds no state of any run."""

    def __init__(
        self,
        asker: Asker,
        toolsets: Toolsets,
        children: Children,
        approvals: Approvals,
        register: Register,
        compacting: Compacting,
        faults: Faults,
    ) -> None:
        self._asker, self._toolsets, self._children = asker, toolsets, children
        self._approvals, self._register, self._faults = approvals, register, faults
        self._compacting = compacting
        self._clock: Clock = approvals.clock
        self._gates: Gates = approvals.gates

    async def advance(self, recorder: Recorder) -> None:
        """Runs until a final event is recorded, or the run waits for somebody else.

        Lets `Fenced` and an unavailable store through, nothing else.
        """
        run = recorder.run
        with suppress(AgentsError):  # what cannot be read is met again below; what can, says how long people took
            await self._take_in(recorder)
        remaining = (limits.deadline(run) - self._clock.now()).total_seconds()
        with anyio.move_on_after(max(0.0, remaining)) as limit:
            await self._until_still(recorder)
        if limit.cancelled_caught and not run.finished:
            error = TimeoutKind(
                "RUN_TIMEOUT",
                f"The run did not end within {Limits.of(run).timeout_seconds:g} seconds.",
                "Raise limits.timeout_seconds.",
            )
            await recorder.record([*await self._asker.lost(recorder), TimedOut(problem=Problem.of(error))])

    async def _until_still(self, recorder: Recorder) -> None:
        run, space = recorder.run, recorder.space
        bindings = run.agent.tools if run.requested.tools_enabled else ()
        try:
            principal = await self._gates.caller(space, run)
            await self._compacting.recall(recorder, principal)
            if run.finished:
                return
            agents = await self._children.offered(space, bindings)
            async with self._toolsets.open(space, principal, bindings) as toolset:
                offered = {tool.name: tool for tool in toolset.tools} | {
                    name: tool for name, (tool, _) in agents.items()
                }
                hands = _Hands(toolset, {name: agent for name, (_, agent) in agents.items()}, offered)
                await self._settle(recorder, hands)
                while not run.finished and run.status != "waiting":
                    await self._turn(recorder, hands)
        except AgentsError as error:
            if run.finished:
                return  # what came after the end is for whoever finds the run ended
            if error.code == STORE_AWAY:
                raise
            await recorder.record([Failed(problem=Problem.of(error))])

    async def _turn(self, recorder: Recorder, hands: _Hands) -> None:
        """One answer of the model and the calls it asks for."""
        run = recorder.run
        answered = await self._asker.ask(recorder, tuple(hands.offered.values()))
        calls = answered.calls
        if not calls:
            await self._asker.record(recorder, answered, lambda: self._conclusion(run, answered))
            return
        children = sum(1 for call in calls if call.tool in hands.agents)
        if over := limits.over(run, Limits.of(run), len(calls), children):
            await self._asker.record(recorder, answered, lambda: [Failed(problem=Problem.of(over))])
            return
        opened = [await self._opened(recorder, hands, call) for call in calls]
        await self._asker.record(recorder, answered, lambda: opened)
        await self._register.sync(recorder.space, run)
        await self._call_all(recorder, hands, [call for call in run.open_calls() if call.state == "claimed"])
        await self._carry_on(recorder, hands)

    def _conclusion(self, run: Run, answered: Answered) -> list[AnyEvent]:
        """The end, unless somebody steered the run while the model answered: then it has another turn."""
        if len(run.steered) == answered.event.heard:
            return self._asker.conclusion(run, answered)
        over = limits.over(run, Limits.of(run), 0, 0)
        return [Failed(problem=Problem.of(over))] if over else []

    async def _opened(self, recorder: Recorder, hands: _Hands, call: ToolCall) -> AnyEvent:
        """What a call of the model begins with: its claim, its refusal, or what a person is asked."""
        run = recorder.run
        if no := effects.objection(call, hands.offered, run.refused_digests()):
            return ToolFailed(call_id=call.call_id, code=no[0], message=no[1])
        tool = hands.offered[call.tool]
        if tool.asks:
            return self._approvals.question(run, call)
        return await self._approvals.wanted(recorder.space, run, call, tool) or self._claim(call, hands)

    def _claim(self, call: ToolCall, hands: _Hands) -> ToolClaimed:
        effect_id = ids.mint("eff", self._clock)
        return ToolClaimed(
            effect_id=effect_id,
            call_id=call.call_id,
            tool=call.tool,
            digest=effects.digest(call),
            repeatable=hands.offered[call.tool].repeatable,
            child=child_id(effect_id) if call.tool in hands.agents else "",
        )

    async def _settle(self, recorder: Recorder, hands: _Hands) -> None:
        """Ends every claim that an earlier worker left open: sends it again where that is allowed."""
        run = recorder.run
        again: list[Call] = []
        recovery: list[AnyEvent] = []
        for call in run.open_calls():
            if call.state != "claimed" or call.asked:
                continue
            if call.child:
                again.append(call)  # joins the run that was started, if it was
            elif effects.may_repeat(call, hands.offered):
                recovery.append(effects.repeated(call, effects.LOST))
                again.append(call)
            else:
                recovery += await self._settled_by_policy(recorder, hands, call, effects.LOST)
        if recovery:
            await recorder.record(recovery)
        if again:
            await self._call_all(recorder, hands, again)
        await self._carry_on(recorder, hands)

    async def _settled_by_policy(self, recorder: Recorder, hands: _Hands, call: Call, reason: str) -> list[AnyEvent]:
        """What the agent's policy makes of a call that may have happened."""
        policy = recorder.run.agent.policy
        if policy.unknown_effects == "ask_person":
            return [effects.asked(call)]
        if policy.unknown_effects == "verify" and (verifier := _bound(policy.verify_tool, hands.offered)):
            question = {"effect_id": call.effect_id, "tool": call.call.tool, "arguments": call.call.arguments}
            effect_id = ids.mint("eff", self._clock)
            outcome = await self._sent(
                recorder, hands, ToolCall(call_id="verify", tool=verifier, arguments=question), effect_id
            )
            if end := effects.verified(call, outcome):
                return [end]
        return [effects.unknown(call, reason)]

    async def _call_all(self, recorder: Recorder, hands: _Hands, calls: list[Call]) -> None:
        share = max(1, sum(1 for call in calls if call.child))
        if len(calls) == 1:
            await self._call(recorder, hands, calls[0], share)
            return
        async with together() as tasks:
            for call in calls:
                tasks.start_soon(self._call, recorder, hands, call, share)

    async def _call(self, recorder: Recorder, hands: _Hands, call: Call, share: int) -> None:
        """Sends one claimed call and records its end; an agent's run is only started."""
        if call.child:
            if refused := await self._children.start(recorder, call, hands.agents.get(call.call.tool), share):
                await recorder.record([refused])
            return
        began = self._clock.monotonic()
        outcome = await self._sent(recorder, hands, call.call, call.effect_id)
        spent = round((self._clock.monotonic() - began) * 1000)
        match outcome:
            case Returned(text=text, structured=structured):
                events: list[AnyEvent] = [
                    ToolDone(effect_id=call.effect_id, text=text, structured=structured, tool_ms=spent)
                ]
            case Refused(code=code, message=message):
                call_id = call.call.call_id
                events = [
                    ToolFailed(effect_id=call.effect_id, call_id=call_id, code=code, message=message, tool_ms=spent)
                ]
            case Broken(message=message):
                events = await self._settled_by_policy(recorder, hands, call, message)
        await recorder.record(events)

    async def _sent(self, recorder: Recorder, hands: _Hands, call: ToolCall, effect_id: str) -> Outcome:
        run = recorder.run
        invocation = Invocation(
            effect_id=effect_id,
            tool=call.tool,
            arguments=call.arguments,
            execution_id=run.execution_id,
            traceparent=child_of(run.requested.traceparent),
            timeout=_TOOL_SECONDS,
            depth=run.requested.depth + 1,
            chain=run.requested.chain,
            session_id=run.requested.session.id if run.requested.session else "",
            within=run.within,
            joined=run.joined,
        )
        self._faults.reach("tool:send")
        outcome = await hands.toolset.call(invocation)
        self._faults.reach("tool:answered")
        return outcome

    async def _carry_on(self, recorder: Recorder, hands: _Hands) -> None:
        """Sends what people approved and takes in the ends of the runs it started, until every call has its end or
        the run waits: for runs that have not ended, and for people."""
        run = recorder.run
        while run.open_calls() and run.status != "waiting":
            if approved := await self._decided(recorder, hands):
                await self._call_all(recorder, hands, approved)
                continue
            await self._take_in(recorder)
            if run.open_calls():
                await self._register.sync(recorder.space, run)
                await self._hand_off(recorder)

    async def _decided(self, recorder: Recorder, hands: _Hands) -> list[Call]:
        """Claims what may be sent now, and ends what may not be approved any more; returns what was claimed."""
        run, now = recorder.run, self._clock.now()
        found: list[tuple[Call, Question | None, AnyEvent]] = []
        for call in run.open_calls():
            asked = call.asked
            if asked and asked.over(now):
                found.append((call, asked, effects.expired(call)))
            elif (call.due or (asked and asked.kind == "approval")) and not await self._holds(recorder, hands, call):
                found.append((call, asked, effects.void(call)))
            elif call.due:
                found.append((call, asked, self._claim(call.call, hands)))
        if found:  # what a person said meanwhile counts before what was found here
            await recorder.record(lambda: [event for call, asked, event in found if _unchanged(call, asked)])
            await self._register.sync(recorder.space, run)
        claimed = {event.effect_id for _, _, event in found if isinstance(event, ToolClaimed)}
        return [call for call in run.open_calls() if call.effect_id in claimed]

    async def _holds(self, recorder: Recorder, hands: _Hands, call: Call) -> bool:
        tool = hands.offered.get(call.call.tool)
        return tool is not None and await self._approvals.holds(recorder.space, recorder.run, call, tool)

    async def _hand_off(self, recorder: Recorder) -> None:
        """Says that the run waits, unless a person has just said something."""
        run = recorder.run
        started = [call for call in run.open_calls() if call.child]
        waits = HandedOff(to=tuple(call.child for call in started))
        await recorder.record(
            lambda: [] if not run.open_calls() or any(call.due for call in run.open_calls()) else [waits]
        )
        # One may have ended before it could know that somebody waits; the job it sent would have been dropped.
        if run.status == "waiting" and (ends := await self._ends_of(recorder, started)):
            await recorder.record([Started(worker=run.worker, attempt=run.attempts, job=run.job), *ends])

    async def _take_in(self, recorder: Recorder) -> None:
        started = [call for call in recorder.run.open_calls() if call.child]
        if started and (ends := await self._ends_of(recorder, started)):
            await recorder.record(ends)

    async def _ends_of(self, recorder: Recorder, started: list[Call]) -> list[AnyEvent]:
        found = [await self._children.end(recorder.space, call) for call in started]
        return [end for end in found if end is not None]


def _unchanged(call: Call, asked: Question | None) -> bool:
    return not call.ended and call.asked is asked


def _bound(binding: str, offered: dict[str, Tool]) -> str:
    """The model-facing name of a bound tool (`server/tool`), or "" when it is not offered."""
    name = binding.replace("/", "__")
    return name if name in offered else ""
