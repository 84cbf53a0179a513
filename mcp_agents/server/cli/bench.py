"""`bench`: the benchmarks, as a table or as JSON."""

import sys

import click
import msgspec
from rich.table import Table

from mcp_agents.server.bench.execute import Report, measure
from mcp_agents.server.cli.common import err, json_option, out, runs_async

_FLOOR = 0.15


@click.group()
def bench() -> None:
    """Measure, beside a floor in the same run."""


@bench.command(epilog="Example: mcp-agents bench execute --runs 2000 --width 32 --check")
@click.option("--runs", type=click.IntRange(10), default=1000, show_default=True, help="Runs of each kind.")
@click.option("--width", type=click.IntRange(1), default=32, show_default=True, help="Runs at once.")
@click.option("--sync", type=click.Choice(["always", "interval"]), default="always", show_default=True)
@click.option("--no-litellm", is_flag=True, help="Leave out what goes through litellm.")
@click.option("--check", is_flag=True, help=f"Fail below {_FLOOR} of the echo's rate.")
@json_option
@runs_async
async def execute(runs: int, width: int, sync: str, no_litellm: bool, check: bool, as_json: bool) -> None:
    """Whole runs over HTTP, MCP and OAuth, beside an echo on the bare SDK and a bare model loop."""
    report = await measure(runs=runs, width=width, sync=sync, through_litellm=not no_litellm)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        out.print(_table(report))
    served = next(each for each in report.figures if each.name.startswith("served"))
    if check and served.against_echo < _FLOOR:
        err.print(f"below {_FLOOR} of the echo's rate: {served.against_echo:.3f}")
        sys.exit(1)


def _table(report: Report) -> Table:
    table = Table(title=f"{report.runs} runs, {report.width} wide, sync {report.sync}")
    for column in ("", "runs/s", "of echo", "own ms p50", "p99", "writes/run", "KB in flight"):
        table.add_column(column, justify="left" if not column else "right")
    for each in report.figures:
        table.add_row(
            each.name,
            f"{each.runs_per_second:.0f}",
            f"{each.against_echo:.2f}",
            *(
                "" if value is None else f"{value:.1f}"
                for value in (
                    each.own_ms_p50,
                    each.own_ms_p99,
                    each.durable_writes_per_run,
                    each.kb_per_run_in_flight,
                )
            ),
        )
    return table
