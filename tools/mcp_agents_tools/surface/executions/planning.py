"""Before and after a run: what one would cost, and one's result as context of another."""

from msgspec import Struct
from pydantic import Field

from mcp_agents.execution import history, sharing
from mcp_agents.kernel.messages import Spend
from mcp_agents.scaling.budgets import Payers
from mcp_agents_tools.surface.capacity import BudgetView, budget_view
from mcp_agents_tools.surface.executions.shapes import ID, plugin
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints


class Estimate(Struct, frozen=True, kw_only=True):
    """What a run of the agent is likely to use, by its last completed runs; money in micro-USD.

    `runs` is how many there were to go by; with none of them all figures are 0 and say nothing. `fits` is
    whether the dearer of the two costs is within what every budget has left.
    """

    agent_id: str
    runs: int
    cost_micro_usd_p50: int
    cost_micro_usd_p90: int
    tokens_p50: int
    tokens_p90: int
    total_ms_p50: int
    total_ms_p90: int
    budgets: tuple[BudgetView, ...]
    fits: bool
    advice: str


class Shared(Struct, frozen=True, kw_only=True):
    """What a run shares; `parts` is empty when it shares nothing any more."""

    execution_id: str
    parts: tuple[str, ...]


class Estimation(Arguments):
    """Which agent to estimate a run of."""

    agent: str = Field(min_length=1, max_length=64, description="The agent's id or name.")


class Sharing(Arguments):
    """What to share of which run."""

    execution_id: str = ID
    parts: tuple[sharing.Part, ...] = Field(
        ("text", "structured"), description="What others may be shown; an empty list ends the sharing."
    )


@plugin.tool("execution_estimate", title="Estimate a run", arguments=Estimation, result=Estimate, hints=READS)
async def execution_estimate(call: Call, args: Estimation) -> Estimate:
    """Says what a run of an agent is likely to cost and how long it takes, by the agent's last completed runs, and
    whether that fits into what the budgets have left."""
    agent = (await call.services.agents.get(call.space, args.agent)).value
    past = await call.services.archive.history(call.space, agent.id)
    costs, tokens = [run.cost_micro_usd for run in past], [run.tokens for run in past]
    times = [run.total_ms for run in past]
    budgets = await call.services.budgets.left(call.space, Payers(user=call.principal.subject, agent=agent.id))
    dear, much = history.percentile(costs, 90), history.percentile(tokens, 90)
    fits = all(state.left.admits(Spend(dear, much)) for state in budgets)
    return Estimate(
        agent_id=agent.id,
        runs=len(past),
        cost_micro_usd_p50=history.percentile(costs, 50),
        cost_micro_usd_p90=dear,
        tokens_p50=history.percentile(tokens, 50),
        tokens_p90=much,
        total_ms_p50=history.percentile(times, 50),
        total_ms_p90=history.percentile(times, 90),
        budgets=tuple(budget_view(state) for state in budgets),
        fits=fits,
        advice=_advice(len(past), fits=fits),
    )


def _advice(runs: int, *, fits: bool) -> str:
    if not runs:
        return "The agent has no completed runs to go by; set limits.max_cost_micro_usd for the first ones."
    return "" if fits else "A run may be refused: raise the budget with budget_set, or wait for its window to end."


@plugin.tool(
    "execution_share", title="Share a run's result", arguments=Sharing, result=Shared, hints=Hints(idempotent=True)
)
async def execution_share(call: Call, args: Sharing) -> Shared:
    """Makes parts of a finished run available as context of others: pass its id in `shared` of agent_execute."""
    run = await call.services.dispatcher.run(call.space, args.execution_id)
    share = await sharing.share(call.space, call.principal, run, args.parts)
    return Shared(execution_id=share.execution_id, parts=share.parts)
