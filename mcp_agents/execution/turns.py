"""Asking the model: one turn from the conversation so far to a recorded answer.

Chooses the model, reserves the worst case, streams, and says what belongs into the log with the answer: which
model and why, what was tried again, what it cost. Above: the loop. Below: the model router, the budgets.
"""

import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from mcp_agents.agents.schema import violations
from mcp_agents.execution import limits
from mcp_agents.execution.gates import Gates
from mcp_agents.execution.limits import Limits
from mcp_agents.execution.recorder import Recorder
from mcp_agents.execution.run import OUTPUT, Run
from mcp_agents.execution.signals import DELTA, Delta, encode
from mcp_agents.execution.spending import Spending
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Fault, Invalid
from mcp_agents.kernel.events import (
    AnyEvent,
    BudgetSettled,
    Completed,
    Decision,
    Failed,
    ModelAnswered,
    Problem,
    Retry,
)
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.model import TextDelta, ToolSchema
from mcp_agents.kernel.routing import Routing
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolset import Tool
from mcp_agents.models.router import Choice, Demand, ModelRouter, PricedAnswer, Setback

log = logging.getLogger("mcp_agents.turns")

_DELTA_SECONDS: Final = 0.05
_REPAIRS: Final = 1
_GRACE_SECONDS: Final = 1.0
"""A turn is given more than its run has left, so that the run's own deadline is what ends it, and says so."""
_ROUTING: Final = frozenset(Routing.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Bought:
    """A model's answer that is not recorded yet: `before` belongs into the log, and then what is made of it."""

    before: list[AnyEvent]
    priced: PricedAnswer
    model_ms: int
    reserved: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer of one turn, and the event that it will be."""

    bought: Bought
    event: ModelAnswered

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls the model asks for."""
        return self.event.tool_calls


class Asker:
    """Asks models on behalf of runs. Holds no state of any run."""

    def __init__(self, models: ModelRouter, gates: Gates, spending: Spending, clock: Clock, faults: Faults) -> None:
        self._models, self._gates, self._spending = models, gates, spending
        self._clock, self._faults = clock, faults

    async def ask(self, recorder: Recorder, tools: tuple[Tool, ...]) -> Answered:
        """One model call; its deltas go out as they come. Raises what ends the run: no model, no budget, no answer."""
        run = recorder.run
        demand, heard = self._demand(run, tools), len(run.steered)
        bought = await self.buy(recorder, demand, quietly=False)
        answer = bought.priced.answer
        event = ModelAnswered(
            turn=len(run.turns) + 1,
            model=answer.model,
            text=answer.text,
            tool_calls=answer.tool_calls,
            usage=answer.usage,
            cost_micro_usd=bought.priced.cost_micro_usd,
            model_ms=bought.model_ms,
            dropped=answer.dropped,
            heard=heard,
        )
        return Answered(bought, event)

    async def buy(self, recorder: Recorder, demand: Demand, *, quietly: bool) -> Bought:
        """One model call; `quietly`: nobody hears of it before it is recorded, and not which model was chosen."""
        run, space = recorder.run, recorder.space
        choice = await self._gates.models(space, run, await self._models.choose(space, demand))
        limit = Limits.of(run)
        worst = limits.worst_case(run, demand, choice.worst)
        if limit.spending:
            worst = limits.fitted(run, limit, worst, choice.worst)
        reserved = await self._spending.reserve(
            space, run, worst, priced=choice.worst is not None, patience=demand.seconds
        )
        if limit.spending or reserved:  # only then must the bound be true
            demand = replace(demand, max_tokens=worst.max_tokens)
        before: list[AnyEvent] = [*([] if quietly else _decision(run, choice)), *reserved]
        deltas = _Deltas(space, run, self._clock, wanted=run.requested.stream and not quietly)
        try:
            answer, model_ms = await self._stream(recorder, choice, demand, before, deltas)
        except Exception:
            if reserved:
                await self._spending.release(space, run)
            raise
        return Bought(before, answer, model_ms, bool(reserved))

    async def record(self, recorder: Recorder, answered: Answered, rest: Callable[[], Iterable[AnyEvent]]) -> None:
        """Records an answer with what follows from it when it is recorded, then settles what was reserved for it."""
        await self.book(recorder, answered.bought, answered.event, rest)

    async def book(
        self, recorder: Recorder, bought: Bought, event: AnyEvent, rest: Callable[[], Iterable[AnyEvent]]
    ) -> None:
        """Records what was bought as this event, and settles it."""
        run = recorder.run
        settled: list[AnyEvent] = []
        if bought.reserved:
            cost, tokens = bought.priced.cost_micro_usd, bought.priced.answer.usage.total
            settled = [BudgetSettled(call=run.next_purchase, micro_usd=cost, tokens=tokens)]
        await recorder.record(lambda: [*bought.before, event, *settled, *rest()])
        if bought.reserved:
            try:
                warnings = await self._spending.settle(recorder.space, run)
            except AgentsError as error:  # the answer is recorded: it is settled when the run ends at the latest
                log.warning("run %s is settled later: %s", run.execution_id, error)
                return
            if warnings and not run.finished:
                await recorder.record(warnings)

    async def lost(self, recorder: Recorder) -> list[BudgetSettled]:
        """What stays reserved for a call that will not be answered any more, to be recorded with the run's end."""
        return await self._spending.lost(recorder.space, recorder.run)

    def conclusion(self, run: Run, answered: Answered) -> list[AnyEvent]:
        """What an answer without tool calls comes to: the end, or one more try at the schema it must match."""
        text = answered.event.text
        schema = run.requested.output_schema or run.agent.output_schema
        if schema is None:
            return [Completed(text=text)]
        value, wrong = _structured(text, schema)
        if not wrong:
            return [Completed(text=text, structured=value)]
        if run.repairs() < _REPAIRS:
            return [Retry(what=OUTPUT, reason=_objection(wrong))]
        mismatch = Invalid(
            "OUTPUT_INVALID",
            f"The model's answer does not match the output schema: {'; '.join(wrong[:5])}",
            "Say in the prompt what is wanted, loosen output_schema, or choose another model.",
        )
        return [Failed(problem=Problem.of(mismatch))]

    def _demand(self, run: Run, tools: tuple[Tool, ...]) -> Demand:
        agent, overrides = run.agent, run.requested.overrides
        left = (limits.deadline(run) - self._clock.now()).total_seconds()
        return Demand(
            virtual_model=str(overrides.get("virtual_model") or agent.virtual_model),
            messages=run.conversation(),
            tools=tuple(
                ToolSchema(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in tools
            ),
            temperature=overrides.get("temperature", agent.temperature),
            max_tokens=overrides.get("max_tokens", agent.max_tokens),
            response_schema=run.requested.output_schema or agent.output_schema,
            cache_key=agent.id,
            routing=_routing(run),
            seconds=max(0.0, left) + _GRACE_SECONDS,
        )

    async def _stream(
        self, recorder: Recorder, choice: Choice, demand: Demand, before: list[AnyEvent], deltas: "_Deltas"
    ) -> tuple[PricedAnswer, int]:
        """The answer and the milliseconds it took; what was tried again meanwhile is added to `before`."""
        began = self._clock.monotonic()
        self._faults.reach("model:send")
        async with aclosing(self._models.ask(recorder.space, choice, demand)) as stream:
            async for item in stream:
                match item:
                    case TextDelta():
                        await deltas.add(item.text)
                    case Setback():
                        deltas.restart()
                        before.append(_again(item))
                    case PricedAnswer():
                        self._faults.reach("model:answered")
                        return item, round((self._clock.monotonic() - began) * 1000)
        raise Fault("MODEL_STREAM_ENDED", "The model's answer ended without an end.")


def _routing(run: Run) -> Routing:
    """The agent's wishes, with those of this call in front."""
    wanted = {name: value for name, value in run.requested.overrides.items() if name in _ROUTING}
    return msgspec.structs.replace(run.agent.routing, **wanted) if wanted else run.agent.routing


def _decision(run: Run, choice: Choice) -> list[AnyEvent]:
    """Says which model was chosen and why: in the first turn, and where there was anything to choose."""
    if run.turns or len(choice.candidates) < 2:
        return []
    return [Decision(what="model", choice=choice.candidates[0].name, reason=choice.reason)]


def _again(setback: Setback) -> Retry:
    then = f"asking {setback.next_model}" if setback.next_model else "asking it again"
    return Retry(what="model", reason=f"{setback.model} failed with {setback.code}; {then}")


def _structured(text: str, schema: dict[str, Any]) -> tuple[Any, list[str]]:
    """The JSON value in an answer, and what is wrong with it."""
    bare = text.strip()
    if bare.startswith("```"):
        bare = bare.strip("`").removeprefix("json").strip()
    try:
        value = msgspec.json.decode(bare)
    except (msgspec.MsgspecError, RecursionError):
        return None, ["it is not JSON"]
    return value, violations(schema, value)


def _objection(wrong: list[str]) -> str:
    found = "; ".join(wrong[:5])
    return f"Your answer does not match the required JSON schema: {found}. Answer again with the JSON alone."


class _Deltas:
    """Sends the text of one turn on the delta channel, joined to at most twenty messages a second."""

    def __init__(self, space: TenantSpace, run: Run, clock: Clock, *, wanted: bool) -> None:
        self._space, self._clock, self._wanted = space, clock, wanted
        self._execution_id, self._turn = run.execution_id, len(run.turns) + 1
        self._offset, self._held, self._sent_at = 0, "", -1.0

    async def add(self, text: str) -> None:
        self._held += text
        now = self._clock.monotonic()
        if not self._wanted or now - self._sent_at < _DELTA_SECONDS:
            return
        payload = encode(Delta(self._turn, self._offset, self._held))
        self._offset, self._held, self._sent_at = self._offset + len(self._held), "", now
        await self._space.signal(DELTA, self._execution_id, payload)

    def restart(self) -> None:
        """What was sent of this turn is void: another attempt begins at its start."""
        self._offset, self._held, self._sent_at = 0, "", -1.0
