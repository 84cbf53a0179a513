"""One crowd of runs in a process of its own, so that its memory is its own, too; prints its figures as JSON.

`python -m mcp_agents.server.bench.burst FOLDER PROVIDER MODEL SYNC CROWD`, started by `concurrent`.
"""

import os
from functools import partial
from pathlib import Path

import click
import msgspec

from mcp_agents.server.bench.inside import Sync, inside
from mcp_agents.server.bench.load import drive
from mcp_agents.server.bench.machine import cpu_seconds, growth, many_files, run
from mcp_agents.server.bench.report import Figures

_WARM = 8


async def _burst(folder: Path, provider: str, model: str, sync: Sync, crowd: int) -> None:
    """So many runs at once, from nothing to the last one's end."""
    pid = os.getpid()
    async with inside(folder, provider, sync=sync, width=crowd) as house:
        await drive(_WARM, _WARM, lambda: house.run(model))
        used = cpu_seconds(pid)
        async with growth(pid) as grown:
            sample = await drive(crowd, crowd, lambda: house.run(model))
        figures = Figures(
            name=f"{crowd:,} in flight, {model}, {sync}",
            runs_per_second=sample.rate,
            cpu_ms=(cpu_seconds(pid) - used) / crowd * 1000,
            p50_ms=sample.percentile(50),
            p99_ms=sample.percentile(99),
            kb_in_flight=grown.kb / crowd,
        )
    click.echo(msgspec.json.encode(figures).decode())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("provider")
@click.argument("model")
@click.argument("sync", type=click.Choice(["always", "interval"]))
@click.argument("crowd", type=int)
def main(folder: Path, provider: str, model: str, sync: Sync, crowd: int) -> None:
    """Run CROWD runs at once."""
    many_files()
    run(partial(_burst, folder, provider, model, sync, crowd))


if __name__ == "__main__":
    main()
