"""Clients that ask for runs, and ask again with the same key until they are told the end of each.

A client goes to any front end, and to another one when its connection breaks. Some runs are submitted first and
followed by a second call under the same key; some are asked for by two clients at once.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

import anyio
import msgspec

from mcp_agents.kernel.tasks import together
from tests.soak.cluster import Place
from tests.soak.process import GONE, Ask, Said, lines
from tests.soak.work import CALLS, TENANTS, order

_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.1


@dataclass
class Clients:
    """What was asked for, and what clients were told; `told` and `ends` by key (`tenant` in `tenants`)."""

    fronts: list[Place]
    seed: int
    tenants: dict[str, str] = field(default_factory=dict)
    told: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: defaultdict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    refusals: Counter[str] = field(default_factory=Counter)
    """Codes of errors that were said not to be worth another try."""
    repeats: int = 0
    """Calls that were made again, since the front end died or asked for it."""
    impatient: list[str] = field(default_factory=list)
    """Keys whose client gave up a connection on which it had heard nothing for long."""
    _number: int = 0
    _asking: int = 0
    _closed: bool = False

    async def ask(self, together_at_once: int, pause: float) -> None:
        """Asks for one run after another, so many at once, until `close`."""
        async with together() as tasks:
            for number in range(together_at_once):
                tasks.start_soon(self._one, Random(f"{self.seed}-{number}"), pause)

    def close(self) -> None:
        """No further runs; those under way are followed to their ends."""
        self._closed = True

    @property
    def idle(self) -> bool:
        """Whether nobody asks for anything any more."""
        return self._closed and not self._asking

    async def _one(self, random: Random, pause: float) -> None:
        self._asking += 1
        while not self._closed:
            await anyio.sleep(random.uniform(0, 2 * pause))
            self._number += 1
            key = f"k{self._number}"
            self.tenants[key] = random.choice(TENANTS)
            kind = random.choice(list(CALLS))
            async with together() as tasks:
                for _ in range(2 if random.random() < 0.15 else 1):
                    tasks.start_soon(self._run, kind, key, Random(random.random()))
        self._asking -= 1

    async def _run(self, kind: str, key: str, random: Random) -> None:
        """One run, from its acceptance to its end."""
        if random.random() < 0.5:
            await self._call(kind, key, random, submit=True)
        await self._call(kind, key, random, submit=False)

    async def _call(self, kind: str, key: str, random: Random, *, submit: bool) -> None:
        wanted = order(kind, key, submitted=submit)
        ask = Ask(tenant=self.tenants[key], order=msgspec.to_builtins(wanted), submit=submit)
        while True:
            try:
                with anyio.fail_after(_PATIENCE_SECONDS):
                    async for said in _asked(random.choice(self.fronts).socket, ask):
                        if said.retryable:
                            break
                        if self._heard(key, said, submit=submit):
                            return
            except TimeoutError:
                self.impatient.append(key)
            except GONE:
                pass
            self.repeats += 1
            await anyio.sleep(_PAUSE_SECONDS)

    def _heard(self, key: str, said: Said, *, submit: bool) -> bool:
        """Whether this was all the client waits for."""
        if said.error:
            self.refusals[said.error] += 1
            return True
        if said.execution_id:
            self.told[key].add(said.execution_id)
            return submit
        self.ends[key].add((said.status, said.text))
        return True


async def _asked(socket: str, ask: Ask) -> AsyncIterator[Said]:
    async with await anyio.connect_unix(socket) as stream:
        await stream.send(msgspec.json.encode(ask) + b"\n")
        async for line in lines(stream):
            yield msgspec.json.decode(line, type=Said)
