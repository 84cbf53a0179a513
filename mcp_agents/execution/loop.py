"""The one implementation of running an agent: model, tools, model, … until a final event.

Everything it decides it records through `Recorder` before acting on it, and everything it knows comes from
the folded log, so it can be entered again at any point. It answers nobody: who wants to see a run
follows its log. Above: the worker. Beside it: `effects`, what may be sent and what is unknown.
"""

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from mcp_agents.execution import effects
from mcp_agents.execution.run import Run
from mcp_agents.execution.signals import DELTA, Delta, encode
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Exhausted, Fault
from mcp_agents.kernel.errors import Timeout as TimeoutKind
from mcp_agents.kernel.events import (
    AnyEvent,
    Completed,
    Failed,
    ModelAnswered,
    Problem,
    Retry,
    TimedOut,
    Tip,
    ToolClaimed,
    ToolDone,
    ToolFailed,
    ToolUnknown,
)
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.model import TextDelta, ToolSchema
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import ExecutionLog, TenantSpace
from mcp_agents.kernel.toolset import Broken, Invocation, Refused, Returned, Tool, Toolset, Toolsets
from mcp_agents.kernel.trace import child_of
from mcp_agents.models.router import Demand, ModelRouter, PricedAnswer, Setback

_TOOL_SECONDS = 120.0
_DELTA_SECONDS = 0.05
_GRACE_SECONDS = 1.0
"""A turn may ask for longer than the run has left, so that it is the run's own limit that ends it."""


@dataclass(slots=True)
class Recorder:
    """The writing end of one run: appends, and keeps the fold in step. One append at a time."""

    space: TenantSpace
    log: ExecutionLog
    tip: Tip
    run: Run
    lock: anyio.Lock

    async def record(self, events: Iterable[AnyEvent]) -> None:
        """Appends one commit. Raises `Fenced` when somebody else owns the run now."""
        async with self.lock:
            self.tip, entries = await self.log.append(self.tip, events)
            self.run.apply(entries)


class Loop:
    """Advances runs to their end. Holds no state of any run."""

    def __init__(self, models: ModelRouter, toolsets: Toolsets, clock: Clock, faults: Faults) -> None:
        self._models, self._toolsets, self._clock, self._faults = models, toolsets, clock, faults

    async def finish(self, recorder: Recorder) -> None:
        """Runs until a final event is recorded. Lets `Fenced` and an unavailable store through, nothing else."""
        run = recorder.run
        with anyio.move_on_after(self._remaining(run)) as limit:
            await self._until_final(recorder)
        if limit.cancelled_caught and not run.finished:
            error = TimeoutKind(
                "RUN_TIMEOUT",
                f"The run did not end within {_allowed(run):g} seconds.",
                "Raise limits.timeout_seconds.",
            )
            await recorder.record([TimedOut(problem=Problem.of(error))])

    def _remaining(self, run: Run) -> float:
        return max(0.0, _allowed(run) - (self._clock.now() - run.created_at).total_seconds())

    async def _until_final(self, recorder: Recorder) -> None:
        run = recorder.run
        principal = run.requested.caller.principal(recorder.space.tenant).acting(run.agent.id)
        bindings = run.agent.tools if run.requested.tools_enabled else ()
        try:
            async with self._toolsets.open(recorder.space, principal, bindings) as toolset:
                offered = {tool.name: tool for tool in toolset.tools}
                await self._settle(recorder, toolset, offered)
                while not run.finished:
                    await self._turn(recorder, toolset, offered)
        except AgentsError as error:
            if error.code == "STORE_UNAVAILABLE":
                raise
            await recorder.record([Failed(problem=Problem.of(error))])

    async def _settle(self, recorder: Recorder, toolset: Toolset, offered: dict[str, Tool]) -> None:
        """Ends every claim that an earlier worker left open: sends it again where that is allowed."""
        run = recorder.run
        left = run.owed()
        if not left:
            return
        recovery: list[AnyEvent] = []
        again: list[tuple[ToolCall, str]] = []
        for call, effect_id, repeatable in left:
            may_repeat = repeatable and call.tool in offered
            recovery.append(effects.taken_over(effect_id, call.tool, repeatable=may_repeat))
            if may_repeat:
                again.append((call, effect_id))
        await recorder.record(recovery)
        await self._call_all(recorder, toolset, again)

    async def _turn(self, recorder: Recorder, toolset: Toolset, offered: dict[str, Tool]) -> None:
        run = recorder.run
        answer, model_ms = await self._ask(recorder, offered)
        calls = answer.answer.tool_calls
        events: list[AnyEvent] = [
            ModelAnswered(
                turn=len(run.turns) + 1,
                model=answer.answer.model,
                text=answer.answer.text,
                tool_calls=calls,
                usage=answer.answer.usage,
                cost_micro_usd=answer.cost_micro_usd,
                model_ms=model_ms,
            )
        ]
        if not calls:
            await recorder.record([*events, Completed(text=answer.answer.text)])
            return
        if over := self._over_limits(run, len(calls)):
            await recorder.record([*events, Failed(problem=Problem.of(over))])
            return
        send: list[tuple[ToolCall, str]] = []
        for call in calls:
            if no := effects.objection(call, offered, run.forbidden_digests()):
                events.append(ToolFailed(call_id=call.call_id, code=no[0], message=no[1]))
                continue
            effect_id = ids.mint("eff", self._clock)
            send.append((call, effect_id))
            events.append(
                ToolClaimed(
                    effect_id=effect_id,
                    call_id=call.call_id,
                    tool=call.tool,
                    digest=effects.digest(call),
                    repeatable=offered[call.tool].repeatable,
                )
            )
        await recorder.record(events)
        await self._call_all(recorder, toolset, send)

    def _over_limits(self, run: Run, asked: int) -> Exhausted | None:
        turns = int(run.requested.overrides.get("max_turns") or run.agent.limits.max_turns)
        if len(run.turns) + 1 >= turns:
            return Exhausted("TURNS_EXHAUSTED", f"The run used its {turns} model turns.", "Raise limits.max_turns.")
        calls = run.agent.limits.max_tool_calls
        if run.tool_call_count() + asked > calls:
            return Exhausted(
                "TOOL_CALLS_EXHAUSTED", f"The run used its {calls} tool calls.", "Raise limits.max_tool_calls."
            )
        return None

    async def _ask(self, recorder: Recorder, offered: dict[str, Tool]) -> tuple[PricedAnswer, int]:
        """One model call; its deltas go out as they come."""
        run = recorder.run
        agent, overrides = run.agent, run.requested.overrides
        tools = tuple(
            ToolSchema(name=tool.name, description=tool.description, parameters=tool.parameters)
            for tool in offered.values()
        )
        demand = Demand(
            virtual_model=str(overrides.get("virtual_model") or agent.virtual_model),
            messages=run.conversation(),
            tools=tools,
            temperature=overrides.get("temperature", agent.temperature),
            max_tokens=overrides.get("max_tokens", agent.max_tokens),
            seconds=self._remaining(run) + _GRACE_SECONDS,
        )
        choice = await self._models.choose(recorder.space, demand)
        deltas = _Deltas(recorder.space, run, self._clock)
        began = self._clock.monotonic()
        self._faults.reach("model:send")
        async with aclosing(self._models.ask(recorder.space, choice, demand)) as stream:
            async for item in stream:
                match item:
                    case TextDelta():
                        await deltas.add(item.text)
                    case Setback():
                        after = f"{item.model} failed with {item.code}"
                        then = f"asking {item.next_model}" if item.next_model else "asking it again"
                        await recorder.record([Retry(what="model", reason=f"{after}; {then}")])
                        deltas = _Deltas(recorder.space, run, self._clock)
                    case PricedAnswer():
                        self._faults.reach("model:answered")
                        return item, round((self._clock.monotonic() - began) * 1000)
        raise Fault("MODEL_STREAM_ENDED", "The model's answer ended without an end.")

    async def _call_all(self, recorder: Recorder, toolset: Toolset, calls: list[tuple[ToolCall, str]]) -> None:
        if len(calls) == 1:
            await self._call(recorder, toolset, *calls[0])
            return
        async with together() as tasks:
            for call, effect_id in calls:
                tasks.start_soon(self._call, recorder, toolset, call, effect_id)

    async def _call(self, recorder: Recorder, toolset: Toolset, call: ToolCall, effect_id: str) -> None:
        run = recorder.run
        invocation = Invocation(
            effect_id=effect_id,
            tool=call.tool,
            arguments=call.arguments,
            execution_id=run.execution_id,
            traceparent=child_of(run.requested.traceparent),
            timeout=_TOOL_SECONDS,
            depth=run.requested.depth + 1,
        )
        began = self._clock.monotonic()
        self._faults.reach("tool:send")
        outcome = await toolset.call(invocation)
        self._faults.reach("tool:answered")
        spent = round((self._clock.monotonic() - began) * 1000)
        match outcome:
            case Returned(text=text, structured=structured):
                event: AnyEvent = ToolDone(effect_id=effect_id, text=text, structured=structured, tool_ms=spent)
            case Refused(code=code, message=message):
                event = ToolFailed(effect_id=effect_id, call_id=call.call_id, code=code, message=message, tool_ms=spent)
            case Broken(message=message):
                event = ToolUnknown(effect_id=effect_id, reason=message)
        await recorder.record([event])


def _allowed(run: Run) -> float:
    """Seconds that the run may take."""
    return float(run.requested.overrides.get("timeout_seconds") or run.agent.limits.timeout_seconds)


class _Deltas:
    """Sends the text of one turn on the delta channel, joined to at most twenty messages a second."""

    def __init__(self, space: TenantSpace, run: Run, clock: Clock) -> None:
        self._space, self._clock = space, clock
        self._execution_id, self._turn = run.execution_id, len(run.turns) + 1
        self._wanted = run.requested.stream
        self._offset, self._held, self._sent_at = 0, "", -1.0

    async def add(self, text: str) -> None:
        self._held += text
        now = self._clock.monotonic()
        if not self._wanted or now - self._sent_at < _DELTA_SECONDS:
            return
        payload = encode(Delta(self._turn, self._offset, self._held))
        self._offset, self._held, self._sent_at = self._offset + len(self._held), "", now
        await self._space.signal(DELTA, self._execution_id, payload)
