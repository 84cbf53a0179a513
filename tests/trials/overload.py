"""A noisy tenant asks for ten times what the workers can do; a quiet one asks now and then, as it does when alone.

One front end that works too, two workers, a bounded queue. The two ways take turns, round by round, so that
whatever else the machine does disturbs both. Nothing is lost, and the quiet tenant is to wait at most half as long
again as alone.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

import anyio
import msgspec

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import Run
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.soak.process import Ask, Said, lines
from tests.soak.trial import URL, comes_true
from tests.soak.work import caller
from tests.support.nursery import nursery
from tests.support.provider import ScriptedProvider, Step

NOISY, QUIET = "noisy", "quiet"
ROOM: Final = 100
"""Runs that may wait for one agent."""
TIMES: Final = 10
_WORKERS: Final = 3
_PLACES: Final = 8
"""Runs that one process carries out at once."""
_ANSWER_SECONDS: Final = 0.8
"""What an answer takes, give or take half: were all alike, all places would fall free at once, again and again."""
_EVENTS: Final = 4
"""A text in one piece, its end, its usage, and the end of the stream."""
CAPACITY: Final = _WORKERS * _PLACES / _ANSWER_SECONDS
"""Runs a second that they can do together, since all that a run does is wait for its answer."""
_QUIET_EVERY: Final = 0.25
_REST_SECONDS: Final = 60.0


@dataclass
class Found:
    """What was seen. Seconds; `alone` and `beside` are the quiet tenant's waits, round by round."""

    alone: list[list[float]] = field(default_factory=list)
    beside: list[list[float]] = field(default_factory=list)
    accepted: int = 0
    refused: int = 0
    untold: int = 0
    """Refusals that did not say when to come back."""
    deepest: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    asked: float = 0.0
    """Runs a second that the noisy tenant asked for, refused ones included."""

    @property
    def ratio(self) -> float:
        """The quiet tenant's 95th percentile beside the noisy one against alone: the median of the rounds'."""
        return median(p95(beside) / p95(alone) for alone, beside in zip(self.alone, self.beside, strict=True))

    def faults(self) -> list[str]:
        """What must not be, times apart."""
        wrong = {
            f"{self.accepted} were accepted, {self.ends}": self.ends["completed"] != self.accepted,
            f"{self.deepest} waited where {ROOM} may": self.deepest > ROOM + _WORKERS * _PLACES,
            f"{self.untold} were not told when to come back": self.untold > 0,
            "nobody was refused": self.refused == 0,
        }
        return [said for said, holds in wrong.items() if holds]


def p95(waits: list[float]) -> float:
    """Seconds within which 95 of 100 were done."""
    return quantiles(waits, n=20, method="inclusive")[-1]


async def trial(folder: Path, *, rounds: int, seconds: float) -> Found:
    """So many rounds of so many seconds alone and so many beside the noisy tenant."""
    answer = Step(times=0, text="Done.", chunks=["Done."], pause=_ANSWER_SECONDS / _EVENTS, spread=0.5)
    async with ScriptedProvider([answer]) as provider, nursery("tests.soak.process") as births:
        settings = _settings(folder, provider.api_base)
        async with open_house(Settings.model_validate(settings), URL) as house:
            for tenant in (NOISY, QUIET):
                draft = AgentDraft.model_validate({"name": "worker", "virtual_model": "scripted"})
                await house.services.agents.create(house.tenancy.of(caller(tenant)), draft)
            front = {"run": "tests.soak.process:live", "url": URL, "settings": settings, "socket": str(folder / "s")}
            for role in ("front", "worker", "worker"):
                await births.bear(front | {"role": role})
            await comes_true(lambda: _there(front["socket"]), _REST_SECONDS)
            found = Found()
            await _quiet(front["socket"], 2 * seconds)  # until everybody knows the way
            for _ in range(rounds):
                found.alone.append(await _quiet(front["socket"], seconds))
                async with _noise(house, front["socket"], found):
                    found.beside.append(await _quiet(front["socket"], seconds))
            found.ends = await _ends(house.tenancy.of(caller(NOISY)), house)
            return found


async def _quiet(socket: str, seconds: float) -> list[float]:
    """The quiet tenant's waits, from asking to the end: a run every quarter of a second, whether others ended."""
    waits: list[float] = []

    async def one() -> None:
        began = perf_counter()
        said = [each async for each in _asked(socket, QUIET, submit=False)]
        assert said[-1].status == "completed", said
        waits.append(perf_counter() - began)

    async with anyio.create_task_group() as tasks:
        until = perf_counter() + seconds
        while perf_counter() < until:
            tasks.start_soon(one)
            await anyio.sleep(_QUIET_EVERY)
    return waits


@asynccontextmanager
async def _noise(house: House, socket: str, found: Found) -> AsyncIterator[None]:
    """The noisy tenant, while the block runs; then its queue is emptied."""
    space = house.tenancy.of(caller(NOISY))
    before, began = found.accepted + found.refused, perf_counter()
    async with background() as tasks:
        for _ in range(ROOM):
            tasks.start_soon(_shout, socket, found)
        tasks.start_soon(_measure, space, found)
        await comes_true(lambda: _full(found), _REST_SECONDS)
        yield
    found.asked = max(found.asked, (found.accepted + found.refused - before) / (perf_counter() - began))
    await comes_true(lambda: _empty(space), _REST_SECONDS)


async def _shout(socket: str, found: Found) -> None:
    """One of many callers: asks again at once, or when it was told to, so that ten times too much is asked for."""
    while True:
        began = perf_counter()
        with anyio.CancelScope(shield=True):
            async for said in _asked(socket, NOISY, submit=True):
                found.accepted += bool(said.execution_id)
                found.refused += said.error == "QUEUE_FULL"
                found.untold += said.error == "QUEUE_FULL" and not said.retry_after_ms
        await anyio.sleep(max(0.0, ROOM / (TIMES * CAPACITY) - (perf_counter() - began)))


async def _measure(space: TenantSpace, found: Found) -> None:
    while True:
        found.deepest = max(found.deepest, await space.queued())
        await anyio.sleep(0.05)


async def _full(found: Found) -> bool:
    return found.refused > 0


async def _empty(space: TenantSpace) -> bool:
    return not await space.queued()


async def _there(socket: str) -> bool:
    return await anyio.Path(socket).exists()


async def _asked(socket: str, tenant: str, *, submit: bool) -> AsyncIterator[Said]:
    order = Order(agent="worker", prompt="Work.", stream=False, submitted=True)
    async with await anyio.connect_unix(socket) as stream:
        await stream.send(
            msgspec.json.encode(Ask(tenant=tenant, order=msgspec.to_builtins(order), submit=submit)) + b"\n"
        )
        async for line in lines(stream):
            said = msgspec.json.decode(line, type=Said)
            yield said
            if said.status or said.error or (submit and said.execution_id):
                return


async def _ends(space: TenantSpace, house: House) -> Counter[str]:
    """How the noisy tenant's accepted runs ended; a refused one left a failed log, which is no accepted run."""
    ends = Counter[str]()
    listed = {line.execution_id async for line in house.services.archive.newest(space)}
    for execution_id in listed | set(await space.execution_ids()):
        run = Run.folded(execution_id, (await space.log(execution_id).read())[1])
        if not (run.problem and run.problem.code == "QUEUE_FULL"):
            ends[run.status] += 1
    return ends


def _settings(folder: Path, api_base: str) -> dict[str, Any]:
    free = {"input_micro_usd_per_mtok": 0, "output_micro_usd_per_mtok": 0}
    return {
        "server": {"data_dir": str(folder), "workers": 0, "concurrency": _PLACES},
        "nats": {"max_queued_per_agent": ROOM},
        "models": [{"name": "scripted", "litellm_model": "openai/scripted", "api_base": api_base, **free}],
    }
