"""A stranger asks for another tenant's things and for things that never were, in turns by lot: which takes longer?

That both read alike, byte for byte, is the tenant matrix's business (`tests.tenancy`), whose rows these are. Here it
is only time: were one of the two slower, guessing ids would tell which of them exist.
"""

import random
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from tests.tenancy.test_matrix import FORMS, POINTED, Row, ask, the_agent
from tests.tenancy.world import world

_UNDER_WAY: Final = "run under way"
"""It would have to be held under way for as long as the trial lasts."""
_Z: Final = 3.3
"""One row in a thousand is that far from the middle by chance."""


@dataclass
class Found:
    """What was seen. `pairs` are the seconds for a foreign thing and for none, side by side, row by row."""

    pairs: dict[Row, list[tuple[float, float]]] = field(default_factory=dict)

    def ratio(self, row: Row) -> float:
        """The median for a foreign thing against the median for none."""
        foreign, never = zip(*self.pairs[row], strict=True)
        return median(foreign) / median(never)

    def slower(self, rows: list[Row]) -> tuple[float, float]:
        """The share of pairs in which the foreign one took longer, and how far from one half chance may take it."""
        judged = [foreign > never for row in rows for foreign, never in self.pairs[row]]
        return sum(judged) / len(judged), _Z / (2 * sqrt(len(judged)))

    def faults(self) -> list[str]:
        """Where the time tells what the answer does not."""
        share, chance = self.slower(list(self.pairs))
        return [f"foreign things take longer in {share:.3f} of the pairs"] if abs(share - 0.5) > chance else []


async def trial(folder: Path, *, times: int, seed: int) -> Found:
    """Every row so many times, rows and sides in an order by lot."""
    lot = random.Random(seed)
    found = Found()
    async with world(folder) as opened:
        owner, stranger = await opened.tenant(), await opened.tenant()
        await stranger.finished()
        await stranger.spare()
        rows = [row for row in POINTED if row.form != _UNDER_WAY]
        values = {form: await FORMS[form].make(owner) for form in sorted({row.form for row in rows})}
        ghosts = {form: FORMS[form].ghost(value) for form, value in values.items()}
        names = {row: (await the_agent(owner, values[row.form]))["name"] if row.place == "path" else "" for row in rows}

        async def seconds(row: Row, value: str) -> float:
            began = perf_counter()
            await ask(row, stranger, value, names[row])
            return perf_counter() - began

        for number in range(times + 1):
            for row in lot.sample(rows, len(rows)):
                sides = [(values[row.form], 0), (ghosts[row.form], 1)]
                lot.shuffle(sides)
                took = {side: await seconds(row, value) for value, side in sides}
                if number:  # the first round only warms up
                    found.pairs.setdefault(row, []).append((took[0], took[1]))
    return found
