"""The plugin `analytics`: what was used and what it cost, from the one ledger of runs."""

from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import AwareDatetime, Field

from mcp_agents.execution.ledger import Grouping, Ledger, report
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.agents import complete_agent
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Plugin

plugin = Plugin("analytics", title="Analytics", scopes=scopes.ANALYTICS)

_ALL: Final = "all"


class Reporting(Arguments):
    """Which runs to sum up, and by what."""

    since: AwareDatetime | None = Field(None, description="Runs accepted from then on; default: 30 days ago.")
    until: AwareDatetime | None = Field(None, description="Runs accepted before then; default: now.")
    by: Grouping = Field("agent", description="What the lines stand for.")
    agent: str = Field("", max_length=64, description="Only runs of this agent, by id or name.")


@plugin.tool("usage_report", title="Report usage", arguments=Reporting, result=Ledger, hints=READS)
async def usage_report(call: Call, args: Reporting) -> Ledger:
    """Sums up runs, tokens, tool calls, time and cost of a period, by agent, model, subject, day or status. Each run
    counts once, with its own cost; runs it started as tools have lines of their own."""
    now = call.services.clock.now()
    agent_id = (await call.services.agents.get(call.space, args.agent)).value.id if args.agent else ""
    return await report(
        call.services.archive,
        call.space,
        since=(args.since or now - timedelta(days=30)).astimezone(UTC),
        until=(args.until or now + timedelta(seconds=1)).astimezone(UTC),
        by=args.by,
        agent_id=agent_id,
    )


def _month(now: datetime) -> datetime:
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@plugin.tool("cost_report", title="Report cost", arguments=Reporting, result=Ledger, hints=READS)
async def cost_report(call: Call, args: Reporting) -> Ledger:
    """Sums up what the runs of this calendar month (UTC), or of the given period, cost, the dearest first."""
    since = args.since or _month(call.services.clock.now())
    return await usage_report(call, args.model_copy(update={"since": since}))


async def _complete(call: Call, typed: str) -> list[str]:
    return [name for name in (_ALL, *await complete_agent(call, typed)) if name.startswith(typed)]


@plugin.prompt(
    "review_costs",
    title="Review costs",
    arguments={"agent": f"The agent, by id or name; `{_ALL}` for every one."},
    complete={"agent": _complete},
)
async def review_costs(call: Call, arguments: dict[str, str]) -> str:
    """Leads through finding out what runs cost this month and how the same could be had for less."""
    if arguments["agent"] == _ALL:
        whose, narrowed = "all agents", ""
    else:
        agent = (await call.services.agents.get(call.space, arguments["agent"])).value
        whose, narrowed = f"the agent {agent.name}", f" with agent {agent.id}"
    return (
        f"Review what {whose} cost this month. Call cost_report{narrowed}, once by agent, once by model and once by "
        "day; look at what is dear and not what is frequent. For the dearest agent list its runs with execution_list, "
        "and read execution_events of two of them: which turns and tools made them long? Then propose at most "
        "three changes (a cheaper virtual_model with model_resolve, lower limits, a budget with budget_set), each "
        "with what it would have saved, and change nothing before you are told to."
    )
