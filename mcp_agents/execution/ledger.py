"""What was used and what it cost, as sums over the lines of the ledger: one line per run, whatever its end.

Nothing is kept twice: a report is a fold of the summaries, exact to the micro-USD. Above: the surface. Below:
the archive.
"""

from contextlib import aclosing
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from mcp_agents.execution.archive import Archive, Summary
from mcp_agents.kernel.tenancy import TenantSpace

Grouping = Literal["agent", "model", "subject", "day", "status"]
SCAN: Final = 100_000
"""Runs that one report looks at, at most."""


class Line(Struct, frozen=True, kw_only=True):
    """The sum of a group of runs. Money in micro-USD, time in milliseconds."""

    group: str
    runs: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    lost_tokens: int = 0
    cost_micro_usd: int = 0
    tool_calls: int = 0
    total_ms: int = 0


class Ledger(Struct, frozen=True, kw_only=True):
    """Lines by group, the dearest first, and their total; `complete` is false when there were too many runs."""

    lines: tuple[Line, ...]
    total: Line
    since: datetime
    until: datetime
    complete: bool


async def report(
    archive: Archive, space: TenantSpace, *, since: datetime, until: datetime, by: Grouping, agent_id: str = ""
) -> Ledger:
    """The runs that were accepted in `since` ≤ t < `until`, grouped."""
    lines: dict[str, Line] = {}
    total, seen, complete = Line(group="total"), 0, True
    async with aclosing(archive.newest(space)) as runs:
        async for run in runs:
            if run.created_at < since:
                break
            seen += 1
            if seen > SCAN:
                complete = False
                break
            if run.created_at >= until or (agent_id and run.agent_id != agent_id):
                continue
            group = _group(run, by)
            lines[group] = _added(lines.get(group, Line(group=group)), run)
            total = _added(total, run)
    ordered = sorted(lines.values(), key=lambda line: (-line.cost_micro_usd, line.group))
    return Ledger(lines=tuple(ordered), total=total, since=since, until=until, complete=complete)


def _group(run: Summary, by: Grouping) -> str:
    match by:
        case "agent":
            return run.agent_id
        case "model":
            return run.model or "none"
        case "subject":
            return run.subject
        case "day":
            return run.created_at.date().isoformat()
        case "status":
            return run.status


def _added(line: Line, run: Summary) -> Line:
    return msgspec.structs.replace(
        line,
        runs=line.runs + 1,
        completed=line.completed + (run.status == "completed"),
        failed=line.failed + (run.status in ("failed", "timeout")),
        input_tokens=line.input_tokens + run.usage.input_tokens,
        output_tokens=line.output_tokens + run.usage.output_tokens,
        cached_tokens=line.cached_tokens + run.usage.cached_tokens,
        lost_tokens=line.lost_tokens + run.usage.lost_tokens,
        cost_micro_usd=line.cost_micro_usd + run.cost_micro_usd,
        tool_calls=line.tool_calls + run.tool_calls,
        total_ms=line.total_ms + run.total_ms,
    )
