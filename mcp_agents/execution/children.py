"""Agents as tools of an agent: a binding `agent:{id}` is a tool whose call is a run of its own.

The run's id follows from the id of the call, so that a call that is sent again joins the run it started.
It runs for the same caller with the calling agent added to the chain, one level deeper, on a share of what
its parent has left. Nobody holds a worker for it: the parent waits in its log and is woken by the end
(`endings`). Above: the loop. Below: the catalog and the dispatcher.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.agents.spec import Agent
from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.execution.gates import Gates
from mcp_agents.execution.limits import Limits
from mcp_agents.execution.orders import Order
from mcp_agents.execution.recorder import Recorder
from mcp_agents.execution.run import Call, Run
from mcp_agents.execution.spending import payers
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Denied, NotFound
from mcp_agents.kernel.events import AnyEvent, Parent, ToolDone, ToolFailed
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolset import Tool
from mcp_agents.kernel.trace import child_of

BINDING: Final = "agent:"
_PREFIX: Final = "agent__"
_PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "description": "What the agent is asked."},
        "context": {"description": "JSON data for the agent, shown to it as data."},
    },
    "required": ["prompt"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Children:
    """Starts and reads the runs that a run starts as tools."""

    agents: AgentCatalog
    dispatcher: Dispatcher
    gates: Gates
    clock: Clock

    async def offered(self, space: TenantSpace, bindings: tuple[str, ...]) -> dict[str, tuple[Tool, Agent]]:
        """The agents that `bindings` name, as tools under model-facing names; one that is gone is left out."""
        found: dict[str, tuple[Tool, Agent]] = {}
        for binding in bindings:
            if not binding.startswith(BINDING):
                continue
            try:
                agent = (await self.agents.get(space, binding.removeprefix(BINDING))).value
            except NotFound:
                continue
            name = f"{_PREFIX}{agent.name}"[:64]
            description = agent.description or f"The agent {agent.name}."
            tool = Tool(
                name=name,
                description=description,
                parameters=_PARAMETERS,
                repeatable=True,
                origin=f"{BINDING}{agent.name}",
                labels=agent.tags,
            )
            found[name] = tool, agent
        return found

    async def start(self, recorder: Recorder, call: Call, agent: Agent | None, share: int) -> AnyEvent | None:
        """Starts the run of a claimed call, or joins it. Returns the call's end when it cannot be started."""
        run = recorder.run
        if agent is None:  # it was unbound since; what it started before goes on
            there = await self.dispatcher.find(recorder.space, call.child)
            return (
                None if there else _failed(call, code="TOOL_NOT_OFFERED", message="The agent is not offered any more.")
            )
        arguments = call.call.arguments
        order = Order(
            agent=agent.id,
            prompt=str(arguments.get("prompt") or ""),
            context=arguments.get("context"),
            stream=False,
            priority=run.requested.priority,
            submitted=True,
            traceparent=child_of(run.requested.traceparent),
            depth=run.requested.depth + 1,
            parent=Parent(
                execution_id=run.execution_id,
                agent_id=run.agent.id,
                effect_id=call.effect_id,
                session=payers(run).session,
                joined=run.joined,
            ),
            portion=Limits.of(run).share(run, share, self.clock.now()),
            chain=run.requested.chain,
        )
        try:
            principal = await self.gates.caller(recorder.space, run)
            await self.gates.agent(recorder.space, principal, agent, by=run.agent.name)
            await self.dispatcher.start(recorder.space, principal, order, call.child)
        except Denied as error:
            if await self.dispatcher.find(recorder.space, call.child):
                return None  # it was allowed when it was started, and goes on
            return _failed(call, code=error.code, message=f"{error.public} {error.next_step}")
        except AgentsError as error:
            if error.retryable:
                raise
            return _failed(call, code=error.code, message=f"{error.public} {error.next_step}")
        return None

    async def end(self, space: TenantSpace, call: Call) -> AnyEvent | None:
        """What the call of a child comes to, once its run has ended."""
        child = await self.dispatcher.find(space, call.child)
        if child is None or not child.finished:
            return None
        spent = _total_ms(child)
        if child.status == "completed":
            return ToolDone(
                effect_id=call.effect_id,
                text=child.text if child.structured is None else msgspec.json.encode(child.structured).decode(),
                structured=child.structured,
                tool_ms=spent,
                spent=child.spent,
                asked_seconds=child.asked_seconds,
            )
        said = child.problem.public if child.problem else "It was cancelled."
        return msgspec.structs.replace(
            _failed(call, code="AGENT_FAILED", message=f"The agent's run {call.child} ended {child.status}. {said}"),
            tool_ms=spent,
            spent=child.spent,
            asked_seconds=child.asked_seconds,
        )


def child_id(effect_id: str) -> str:
    """The id of the run that a call starts."""
    return f"ex_{effect_id.removeprefix('eff_')}"


def _failed(call: Call, *, code: str, message: str) -> ToolFailed:
    return ToolFailed(effect_id=call.effect_id, call_id=call.call.call_id, code=code, message=message)


def _total_ms(run: Run) -> int:
    return run.view().timings.total_ms
