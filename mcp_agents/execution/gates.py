"""The gates of a run: before each model turn, tool call and delegation, what its caller may still do is asked again.

First the caller's rights as they stand now (`kernel.rights`), then the tenant's policies (`kernel.policy`). What was
decided is not kept: whoever takes a run over asks anew, and a claim that was recorded stands. Above: the front of
execution, the loop, the turns, the approvals.
"""

from dataclasses import dataclass, replace

from mcp_agents.agents.spec import Agent
from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.policy import Act, Action, Decision, Policies, denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.rights import Rights
from mcp_agents.kernel.scopes import RUN_AGENTS
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolset import Tool
from mcp_agents.models.attempts import Candidate
from mcp_agents.models.router import Choice


@dataclass(frozen=True, slots=True)
class Gates:
    """Asks for runs of any tenant. Raises `Denied` (`POLICY_DENIED`, and what `Rights` raises) or `Unavailable`."""

    rights: Rights
    policies: Policies

    async def caller(self, space: TenantSpace, run: Run) -> Principal:
        """In whose name the run acts, with what is left of the rights. Who may not run agents any more is refused."""
        before = run.requested.caller.principal(space.tenant).acting(run.agent.id)
        principal = await self.rights.now(before)
        if before.allows(RUN_AGENTS):
            principal.require(RUN_AGENTS)
        return principal

    async def agent(self, space: TenantSpace, principal: Principal, agent: Agent, *, by: str = "") -> None:
        """Whether this agent may be run: by a person or a client, or `by` the agent of that name."""
        action: Action = "delegate" if by else "run_agent"
        act = Act(action=action, resource=agent.name, agent=by or agent.name, labels=frozenset(agent.tags))
        decision = await self.policies.decide(space, principal, act)
        if decision.effect != "allow":
            raise denied(decision)

    async def models(self, space: TenantSpace, run: Run, choice: Choice) -> Choice:
        """Those of the candidates that may be asked. Raises `Denied` where none is left."""
        principal = await self.caller(space, run)
        kept: list[Candidate] = []
        left_out: list[tuple[str, str]] = []
        why: Decision | None = None
        for candidate in choice.candidates:
            act = Act(
                action="use_model",
                resource=candidate.model.name,
                agent=run.agent.name,
                labels=frozenset(run.agent.tags),
                region=candidate.model.region,
            )
            decision = await self.policies.decide(space, principal, act)
            if decision.effect == "allow":
                kept.append(candidate)
            else:
                why = decision
                left_out.append((candidate.model.name, "policy"))
        if why is None:
            return choice
        if not kept:
            raise denied(why)
        return replace(choice, candidates=tuple(kept), left_out=(*choice.left_out, *left_out))

    async def tool(
        self, space: TenantSpace, run: Run, call: ToolCall, tool: Tool, *, approved: bool = False
    ) -> Decision:
        """What the policies say of a call of the model."""
        principal = await self.caller(space, run)
        act = Act(
            action="call_tool",
            resource=tool.origin,
            agent=run.agent.name,
            labels=frozenset((*run.agent.tags, *tool.labels)),
            network=tool.network,
            arguments=call.arguments,
            approved=approved,
        )
        decision = await self.policies.decide(space, principal, act)
        if decision.effect == "deny" or not tool.network:
            return decision
        reached = await self.policies.decide(
            space, principal, replace(act, action="reach_network", resource=tool.network)
        )
        return decision if reached.effect == "allow" else reached

    async def holds(self, space: TenantSpace, run: Run, call: ToolCall, tool: Tool) -> bool:
        """Whether a call that a person approved may still be sent."""
        try:
            return (await self.tool(space, run, call, tool, approved=True)).effect == "allow"
        except Denied:
            return False
