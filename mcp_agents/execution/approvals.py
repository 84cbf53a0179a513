"""How a call comes before a person, and whether their word still holds when the call is sent.

An approval is bound to who asked for the run, the exact call, and the agent with its policy as they stand when it is
requested. What it is bound to is looked at again when somebody decides and when the call is sent; if it is not the
same any more, the approval is void. Above: the loop, `answering`. Below: the catalog, `approving`.
"""

from dataclasses import dataclass
from datetime import timedelta

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.agents.spec import Agent, ApprovalRule
from mcp_agents.execution import approving, asking, effects
from mcp_agents.execution.gates import Gates
from mcp_agents.execution.run import Call, Run
from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import NotFound
from mcp_agents.kernel.events import AnyEvent, ApprovalRequested, InputRequested, ToolFailed
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.policy import denied
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolset import Tool

_SHOWN = 500


@dataclass(frozen=True, slots=True)
class Approvals:
    """Requests and checks approvals, and puts agents' own questions. `pages` is where people find
    the pages, "" where there are none."""

    agents: AgentCatalog
    gates: Gates
    clock: Clock
    pages: str

    async def wanted(self, space: TenantSpace, run: Run, call: ToolCall, tool: Tool) -> AnyEvent | None:
        """What keeps a call from being claimed: a person is asked first, or it is refused. None: it is sent."""
        policy = run.agent.policy
        decision = await self.gates.tool(space, run, call, tool)
        if decision.effect == "deny":
            no = denied(decision)
            return ToolFailed(call_id=call.call_id, code=no.code, message=f"{no.public} {no.next_step}")
        rule = approving.asking_rule(policy.approvals, tool, call.arguments)
        if decision.effect == "ask":
            other = decision.by == "other" or (rule is not None and rule.by == "other")
            rule = ApprovalRule(by="other" if other else "any")
        doubtful = effects.digest(call) in run.forbidden_digests()
        if doubtful and not policy.asks_persons:
            return ToolFailed(
                call_id=call.call_id, code="TOOL_UNKNOWN", message=f"{effects.REPEATED} It is not repeated in this run."
            )
        if rule is None and not doubtful:
            return None
        reason = " ".join(filter(None, (effects.REPEATED if doubtful else "", *decision.reasons)))
        return await self._requested(space, run, call, tool, rule or ApprovalRule(), reason)

    def question(self, run: Run, call: ToolCall) -> AnyEvent:
        """What an agent asks a person with a call of `ask_user`, or why it may not."""
        try:
            message, schema = asking.form(call)
        except asking.Unfit as why:
            return ToolFailed(call_id=call.call_id, code="QUESTION_INVALID", message=str(why))
        return InputRequested(
            effect_id=ids.mint("eff", self.clock),
            question=f"The agent {run.agent.name} asks: {message}",
            kind="question",
            call_id=call.call_id,
            schema=schema,
            expires_at=self.clock.now() + timedelta(seconds=run.agent.policy.approval_seconds),
        )

    async def holds(self, space: TenantSpace, run: Run, call: Call, tool: Tool | None = None) -> bool:
        """Whether what an approval of this call is bound to is still so; with `tool`, whether it may be sent."""
        now = approving.binding(run.requested.caller, call.call, await self._agent(space, run))
        bound = bool(now) and now == call.binding
        return bound and (tool is None or await self.gates.holds(space, run, call.call, tool))

    async def _requested(
        self, space: TenantSpace, run: Run, call: ToolCall, tool: Tool, rule: ApprovalRule, doubt: str
    ) -> AnyEvent:
        approval_id = ids.mint("apr", self.clock)
        says = f"The agent {run.agent.name} wants to call {tool.origin} with {asking.shown(call.arguments, _SHOWN)}."
        return ApprovalRequested(
            approval_id=approval_id,
            call_id=call.call_id,
            tool=call.tool,
            digest=effects.digest(call),
            binding=approving.binding(run.requested.caller, call, await self._agent(space, run)),
            message=f"{says} {doubt}".rstrip(),
            expires_at=self.clock.now() + timedelta(seconds=run.agent.policy.approval_seconds),
            by=rule.by,
            reason=doubt,
            url=f"{self.pages}/approvals/{approval_id}" if self.pages else "",
        )

    async def _agent(self, space: TenantSpace, run: Run) -> Agent | None:
        try:
            return (await self.agents.get(space, run.agent.id)).value
        except NotFound:
            return None
