"""`bench`: the benchmarks, as tables or as JSON."""

import sys

import click
import msgspec
from rich.console import Console

from mcp_agents.server.bench import concurrent as at_once
from mcp_agents.server.bench import execute as whole_runs
from mcp_agents.server.bench.report import Report, tables
from mcp_agents.server.cli.common import err, json_option, out, runs_async

_WIDTH = 130
"""Columns of a table, also where the output is no terminal."""

quick_option = click.option("--quick", is_flag=True, help="See that everything runs, in little time; quote nothing.")
check_option = click.option("--check", is_flag=True, help="Fail when a target is missed.")
litellm_option = click.option("--no-litellm", is_flag=True, help="Leave out what goes through litellm.")


@click.group()
def bench() -> None:
    """Measure, beside a floor in the same run."""


@bench.command(epilog="Example: mcp-agents bench execute --check")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each way has its turn.")
@click.option("--seconds", type=click.FloatRange(0.1), default=4.0, show_default=True, help="How long a turn takes.")
@click.option("--width", type=click.IntRange(1, 1000), default=32, show_default=True, help="Runs at once.")
@litellm_option
@quick_option
@check_option
@json_option
@runs_async
async def execute(
    rounds: int, seconds: float, width: int, no_litellm: bool, quick: bool, check: bool, as_json: bool
) -> None:
    """Whole runs, in process and over HTTP, MCP and OAuth, beside an echo on the bare SDK and bare model loops."""
    plan = whole_runs.Plan(rounds=rounds, seconds=seconds, width=width, litellm=not no_litellm)
    if quick:
        plan = whole_runs.Plan.quick(litellm=not no_litellm)
    _told(await whole_runs.measure(plan), check=check, as_json=as_json)


@bench.command(epilog="Example: mcp-agents bench concurrent --latency 1.0")
@click.option("--latency", type=click.FloatRange(0), default=1.0, show_default=True, help="Seconds of each answer.")
@litellm_option
@quick_option
@check_option
@json_option
@runs_async
async def concurrent(latency: float, no_litellm: bool, quick: bool, check: bool, as_json: bool) -> None:
    """Up to 10,000 runs in flight at once in one process, against a provider that takes its time."""
    plan = at_once.Plan(latency=latency, litellm=not no_litellm)
    if quick:
        plan = at_once.Plan.quick(litellm=not no_litellm)
    _told(await at_once.measure(plan), check=check, as_json=as_json)


def _told(report: Report, *, check: bool, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        wide = Console(highlight=False, width=max(out.width, _WIDTH))
        for table in tables(report):
            wide.print(table)
    if check and report.missed:
        err.print("missed: " + "; ".join(target.figure for target in report.missed))
        sys.exit(1)
