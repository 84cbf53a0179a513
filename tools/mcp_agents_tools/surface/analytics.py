"""The plugin `analytics`: what was used and what it cost, from the one ledger of runs."""

from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, Field

from mcp_agents.execution.ledger import Grouping, Ledger, report
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Plugin

plugin = Plugin("analytics", title="Analytics", scopes=scopes.ANALYTICS)


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
