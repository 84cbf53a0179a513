"""The random-kill trial as a program: `python -m tests.soak.run --kills 1000`, or `make soak`.

Prints what was killed, what became of the runs, and how long those that were hit waited; exits 1 when anything was
lost, doubled silently, or left behind. docs/soak.md says what the figures mean.
"""

import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from random import randrange

import anyio
import click

from tests.soak.cluster import WEIGHTS
from tests.soak.trial import STDERR, Outcome, Plan, trial
from tests.soak.verdict import Verdict, judge, quantile

_SHOWN = 50


@click.command()
@click.option("--kills", default=1000, show_default=True, help="How often to kill.")
@click.option("--seconds", default=0.0, help="How long to kill for; by default as long as the kills need.")
@click.option("--every", default=0.8, show_default=True, help="Seconds between two kills, on average.")
@click.option("--seed", type=int, help="Who is killed when; by default a new one.")
@click.option("--clients", default=10, show_default=True, help="Clients that ask for runs at once.")
@click.option("--starting", is_flag=True, help="Kill NATS also while it starts.")
@click.option("--keep", is_flag=True, help="Keep the data folder.")
def main(kills: int, seconds: float, every: float, seed: int | None, clients: int, starting: bool, keep: bool) -> None:
    """Kill processes of a small cluster at random while it works, and look at what is left."""
    plan = Plan(
        kills=kills,
        seconds=seconds / kills if seconds else every,
        seed=randrange(1 << 31) if seed is None else seed,
        clients=clients,
        starting=starting,
    )
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")  # before the trial begins, since it takes seconds
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    click.echo(f"seed {plan.seed}, {plan.kills} kills, one every {plan.seconds:.2f} s, in {folder}")
    outcome = anyio.run(trial, plan, folder, lambda said: click.echo(said, err=True))
    verdict = judge(outcome.evidence)
    click.echo(table(outcome, verdict))
    verdict.faults += defects(folder)
    for fault in verdict.faults[:_SHOWN]:
        click.echo(f"FAULT {fault}")
    if verdict.faults:
        click.echo(f"{len(verdict.faults)} faults; repeat with --seed {plan.seed}; the folder is kept: {folder}")
        sys.exit(1)
    if not keep:
        shutil.rmtree(folder)
    click.echo(f"no faults; seed {plan.seed}")


def defects(folder: Path) -> list[str]:
    """Lines of the processes' logs that say the server met a defect of its own."""
    path = folder / STDERR
    lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    return [f"logged: {line}" for line in lines if "met a defect" in line or "LOG_DAMAGED" in line]


def table(outcome: Outcome, verdict: Verdict) -> str:
    """The figures, line by line."""
    cluster, clients = outcome.cluster, outcome.clients
    kills = {kind: sum(kill.kind == kind for kill in cluster.kills) for kind in WEIGHTS}
    rows = [
        ("kills", f"{len(cluster.kills)} in {outcome.took:.0f} s"),
        *((f"  {kind}", f"{count}, hit {verdict.hits[kind]} runs") for kind, count in kills.items()),
        ("processes started again", str(sum(each.births - 1 for each in (*cluster.workers, *cluster.fronts)))),
        ("  that ended by themselves", str(cluster.own_ends)),
        ("runs", f"{verdict.runs}, {verdict.called} of them called by agents"),
        *((f"  {status}", str(count)) for status, count in sorted(verdict.statuses.items())),
        ("  given up after 5 lost workers", str(verdict.given_up)),
        ("runs lost", str(sum(fault.startswith("lost:") for fault in verdict.faults))),
        ("calls repeated by clients", str(clients.repeats)),
        ("  after a minute of silence", str(len(clients.impatient))),
        ("  refused for good", str(dict(clients.refusals) or 0)),
        ("answers recorded", str(verdict.answers)),
        ("  bought again, said by a retry", str(verdict.bought_again)),
        ("effects", str(verdict.effects)),
        ("  repeated, said by a retry", str(verdict.repeated)),
        ("  doubled silently", str(sum(fault.startswith("the effect") for fault in verdict.faults))),
        ("calls whose end is unknown", str(verdict.unknown)),
        ("recovery of a hit run", _quantiles(verdict.recovery)),
        ("NATS stores again", _quantiles(sorted(cluster.outages))),
    ]
    return "\n".join(f"{name:<34} {value}" for name, value in rows)


def _quantiles(seconds: list[float]) -> str:
    parts = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    return ", ".join(f"{name} {quantile(seconds, part):.1f} s" for name, part in parts) + f" ({len(seconds)})"


if __name__ == "__main__":
    main()
