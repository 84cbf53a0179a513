"""What sessions cost: beginning the next turn of short and of long ones, what a turn stores, and what memory it keeps.

Real NATS, one process. The long sessions are written as turns are, without running a model; then the next turn of each
is begun and its window read, over and over, in an order by lot. Memory and bytes are those of turns that were really
run, by the rule-based model.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import msgspec

from mcp_agents.adapters.nats_topology import SESSIONS
from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.kernel.messages import Message, Usage
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from mcp_agents.sessions.book import heads
from mcp_agents.sessions.record import Turn, Window

WINDOW: Final = 4_000
_TOKENS: Final = 60
_ME: Final = Principal(tenant="acme", subject="me", scopes=TENANT_SCOPES)
_PROMPT: Final = "say " + "The tide comes in and the tide goes out. " * 5
_SAID: Final = (Message(role="user", text=_PROMPT), Message(role="assistant", text=_PROMPT[4:]))


@dataclass
class Found:
    """Seconds to begin the next turn, by turns so far; bytes a turn stored; bytes of memory a thousand turns kept."""

    opened: dict[int, list[float]] = field(default_factory=dict)
    log_bytes: float = 0.0
    head_bytes: int = 0
    kept: float = 0.0

    def ratio(self, turns: int) -> float:
        """The median of a session of so many turns against that of the shortest."""
        return median(self.opened[turns]) / median(self.opened[min(self.opened)])


async def trial(folder: Path, *, lengths: tuple[int, ...], times: int, ran: int, seed: int) -> Found:
    """Sessions of these lengths, each begun so many times; and so many turns that are run."""
    found, lot = Found({turns: [] for turns in lengths}), random.Random(seed)
    settings = Settings.model_validate({"server": {"data_dir": str(folder), "workers": 0}})
    async with open_house(settings, "http://127.0.0.1:1") as house:
        space = house.tenancy.of(_ME)
        agent = (await house.services.agents.create(space, AgentDraft.model_validate({"name": "talker"}))).value
        sessions = {turns: await _written(house, space, agent.id, turns) for turns in lengths}
        for _ in range(times):
            for turns in lot.sample(lengths, len(lengths)):
                found.opened[turns].append(await _opened(house, space, sessions[turns], agent.id))
        await _ran(house, space, ran, found)
    return found


async def _written(house: House, space: TenantSpace, agent_id: str, turns: int) -> str:
    made = await house.services.sessions.create(space, _ME, agent_id, window=Window(max_tokens=WINDOW), metadata={})
    session, log, tip = made.value, space.session_log(made.value.id), 0
    for number in range(1, turns + 1):
        turn = Turn(
            number=number,
            execution_id=f"ex_{number}",
            status="completed",
            messages=_SAID,
            tokens=_TOKENS,
            usage=Usage(input_tokens=_TOKENS),
            cost_micro_usd=1,
            total_ms=1,
            model="rule-based",
            by="me",
            at=house.tenancy.clock.now(),
        )
        tip = await log.append(msgspec.json.encode(turn), expected=tip)
        session = session.after(turn, tip)
    await heads(space).update(session.id, value=session, revision=made.revision)
    return session.id


async def _opened(house: House, space: TenantSpace, session: str, agent_id: str) -> float:
    conversations = house.services.conversations
    began = perf_counter()
    shown = await conversations.begin(space, _ME, session, agent_id, "ex_next")
    messages = await conversations.earlier(space, shown)
    took = perf_counter() - began
    assert len(messages) == 2 * (WINDOW // _TOKENS)
    await conversations.give_up(space, session, "ex_next")
    return took


async def _ran(house: House, space: TenantSpace, turns: int, found: Found) -> None:
    session = await house.services.sessions.create(space, _ME, await _id(house, space), window=Window(), metadata={})
    dispatcher, order = house.services.dispatcher, Order(agent="talker", prompt=_PROMPT, session_id=session.value.id)
    async with background() as working:
        working.start_soon(house.crew.work, 1)
        stored, memory = 0, 0
        for number in range(turns + turns // 5):
            if number == turns // 5:  # what is made once is there by now
                stored, memory = await _bytes(house, SESSIONS), _rss()
            async with dispatcher.execute(space, _ME, order, deltas=False) as (_, updates):
                async for _ in updates:
                    pass
        await house.services.conversations.caught_up(space, _ME, session.value.id)
        found.kept = (_rss() - memory) / turns * 1000
        found.log_bytes = (await _bytes(house, SESSIONS) - stored) / turns
        head = await heads(space).get(session.value.id)
        assert head is not None
        assert head.value.turns == turns + turns // 5
        found.head_bytes = len(msgspec.json.encode(head.value))


async def _id(house: House, space: TenantSpace) -> str:
    return (await house.services.agents.get(space, "talker")).value.id


async def _bytes(house: House, stream: str) -> int:
    info: dict[str, Any] = await house.link.api(f"STREAM.INFO.{stream}")
    return int(info["state"]["bytes"])


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096
