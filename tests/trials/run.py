"""The trials at full size, or those that are named: `python -m tests.trials.run [NAMES]`, or `make trials ARGS=NAMES`.

Prints what was found and exits 1 when something must not be; docs/trials.md says what the figures mean.
"""

import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Final

import anyio
import click

from tests.trials import budget, facts, faults, guesses, overload, price, talks

_KILLS: Final = (0, 1, 1, 2, 3)
_RUNS: Final = 10_000
_SUCCEED: Final = 0.995
_ROUNDS: Final = 5
_SECONDS: Final = 15.0
_RATIO: Final = 1.5
_GUESSES: Final = 100
_CALLS: Final = 1_000
_LENGTHS: Final = (100, 1_000, 10_000)
_TURNS: Final = 1_000
_FACTS: Final = 40


async def _budget(folder: Path) -> list[str]:
    wrong: list[str] = []
    for number, kills in enumerate(_KILLS):
        books = await budget.trial(folder / str(number), calls=100, kills=kills, seed=number)
        click.echo(f"  {kills} kills: {dict(books.ends)}; {books.asked} model calls of {budget.PRICE} each")
        click.echo(f"    at most {books.most} of {budget.LIMIT} spent or reserved, in {books.looks} looks")
        click.echo(
            f"    settled {books.settled}, of it {books.lost} for lost answers; ledger {books.ledger}, "
            f"logs {books.logs}; still reserved {books.reserved}"
        )
        wrong += books.faults()
    return wrong


async def _faults(folder: Path) -> list[str]:
    tally = await faults.trial(folder, runs=_RUNS, seed=1)
    click.echo(f"  {tally.runs} runs in {tally.seconds:.0f} s, {tally.runs / tally.seconds:.0f}/s: {dict(tally.ends)}")
    click.echo(f"  {tally.requests} requests, faults {dict(tally.met)}")
    click.echo(f"  succeeded {tally.succeeded:.4%}, Wilson lower bound (95 %) {tally.at_least:.4%}")
    return [] if tally.at_least >= _SUCCEED else [f"fewer than {_SUCCEED:.1%} succeed"]


async def _overload(folder: Path) -> list[str]:
    found = await overload.trial(folder, rounds=_ROUNDS, seconds=_SECONDS)
    for alone, beside in zip(found.alone, found.beside, strict=True):
        before, under = overload.p95(alone), overload.p95(beside)
        click.echo(f"  p95 alone {before * 1000:.0f} ms, beside {under * 1000:.0f} ms: {under / before:.2f}")
    click.echo(
        f"  {found.asked:.0f} asked for a second where {overload.CAPACITY:.0f} can be done; accepted {found.accepted}, "
        f"refused {found.refused}; ended {dict(found.ends)}; {found.deepest} in the queue at most; "
        f"ratio {found.ratio:.2f}"
    )
    return found.faults() + (
        [f"the quiet tenant waits {found.ratio:.2f} times as long"] if found.ratio > _RATIO else []
    )


async def _guesses(folder: Path) -> list[str]:
    found = await guesses.trial(folder, times=_GUESSES, seed=1)
    rows = list(found.pairs)
    ratios = sorted(found.ratio(row) for row in rows)
    share, chance = found.slower(rows)
    click.echo(f"  {len(rows)} rows, {len(rows) * _GUESSES} pairs; ratio of medians by row {ratios[0]:.2f} to")
    click.echo(
        f"  {ratios[-1]:.2f}, median {median(ratios):.3f}; the foreign one was slower in {share:.3f} of the pairs"
    )
    click.echo(f"  (by chance 0.5 give or take {chance:.3f})")
    return found.faults()


async def _price(folder: Path) -> list[str]:
    found = await price.trial(folder, times=_CALLS, seed=1)
    for way, took in found.calls.items():
        click.echo(f"  {way}: {median(took) * 1000:.2f} ms a call, {found.ratio(way):.3f} of off")
    for rules, (first, again) in found.decisions.items():
        click.echo(f"  a decision by {rules} rules: {first * 1e6:.1f} us at first, {again * 1e6:.1f} us remembered")
    return []


async def _talks(folder: Path) -> list[str]:
    found = await talks.trial(folder, lengths=_LENGTHS, times=_GUESSES, ran=_TURNS, seed=1)
    for turns, took in found.opened.items():
        click.echo(
            f"  {turns} turns: {median(took) * 1000:.2f} ms to begin the next one and read its window of "
            f"{talks.WINDOW} tokens, {found.ratio(turns):.3f} of the shortest"
        )
    click.echo(f"  {found.log_bytes:.0f} bytes stored for each turn, {found.head_bytes} in the head")
    click.echo(f"  {found.kept / 1024 / 1024:.2f} MiB of memory kept for 1,000 turns run")
    return []


async def _facts(folder: Path) -> list[str]:
    wrong: list[str] = []
    for policy in facts.POLICIES:
        kept = await facts.trial(folder / policy, policy, turns=_FACTS * 10, facts=_FACTS, seed=1)
        click.echo(f"  {policy}: {kept.answered} of {_FACTS} facts answered after {_FACTS * 10} turns")
        if kept.summaries:
            ratio = kept.left_tokens / kept.summary_tokens
            click.echo(
                f"    {kept.summaries} summaries; the last one stands for {kept.left_tokens} tokens with "
                f"{kept.summary_tokens}, {ratio:.0f} to one"
            )
        if policy == "compacted" and kept.answered < _FACTS:
            wrong.append("a summary lost what the model wrote into it")
    return wrong


_TRIALS: Final[dict[str, Callable[[Path], Awaitable[list[str]]]]] = {
    "budget": _budget,
    "faults": _faults,
    "overload": _overload,
    "guesses": _guesses,
    "price": _price,
    "talks": _talks,
    "facts": _facts,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(_TRIALS)))
def main(names: tuple[str, ...]) -> None:
    """Play the trials NAMES, or all of them."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import_module("litellm")  # before a trial begins, since it takes seconds
    wrong: list[str] = []
    for name in names or _TRIALS:
        click.echo(name)
        with tempfile.TemporaryDirectory(prefix="trial-") as folder:
            found = anyio.run(_TRIALS[name], Path(folder))
        wrong += [f"{name}: {each}" for each in found]
    for each in wrong:
        click.echo(f"FAULT {each}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
