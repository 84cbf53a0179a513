"""What of a long conversation is still known at its end, by each policy of the window, and what it took.

A fixed corpus: turns that say nothing, and among them, in an order by lot, turns that each state one fact. Then each
fact is asked for once, in forks of the session as it then stands. The model answers from the text of its request alone
and writes down every fact it is asked to summarize: so what is lost here is lost by the window, and not by a model.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from mcp_agents.sessions.book import read
from mcp_agents.sessions.record import Policy, Window
from tests.sessions.recaller import recaller

WINDOW: Final = 1_500
POLICIES: Final[tuple[Policy, ...]] = ("recent", "compacted")
_ME: Final = Principal(tenant="acme", subject="me", scopes=TENANT_SCOPES)
_FILLER: Final = "Water everywhere, and the boards did shrink. " * 5
_PLACES: Final = ("harbour", "mast", "anchor", "galley", "wheel", "cabin", "lantern", "compass")
_KINDS: Final = ("colour", "maker", "price", "owner", "age")


@dataclass(frozen=True, slots=True)
class Kept:
    """How many facts were answered; how many summaries were made, of how many tokens, and the tokens of the last."""

    answered: int
    summaries: int
    left_tokens: int
    summary_tokens: int


async def trial(folder: Path, policy: Policy, *, turns: int, facts: int, seed: int) -> Kept:
    """A conversation of so many turns, among them so many facts (40 at most)."""
    lot = random.Random(seed)
    stated = [f"{kind} of the {place}" for place in _PLACES for kind in _KINDS][:facts]
    values = {name: f"V{lot.randrange(10_000):04d}" for name in stated}
    said: list[str] = [f"The {name} is {value}." for name, value in values.items()]
    said += [f"Line {number}. {_FILLER}" for number in range(turns - facts)]
    lot.shuffle(said)
    async with recaller() as model:
        sections = {"server": {"data_dir": str(folder), "workers": 0}, "models": [model.settings]}
        async with (
            open_house(Settings.model_validate(sections), "http://127.0.0.1:1") as house,
            background() as working,
        ):
            space = house.tenancy.of(_ME)
            draft = AgentDraft.model_validate({"name": "talker", "virtual_model": "recaller"})
            agent = (await house.services.agents.create(space, draft)).value
            working.start_soon(house.crew.work, 1)
            shape = Window(policy=policy, max_tokens=WINDOW)
            session = (await house.services.sessions.create(space, _ME, agent.id, window=shape, metadata={})).value.id
            for text in said:
                await _turn(house, space, session, text)
            head = (await house.services.conversations.caught_up(space, _ME, session)).value
            past = await read(space.session_log(session))
            answered = 0
            for name, value in values.items():
                copy = (await house.services.copies.fork(space, _ME, head, None)).value.id
                answered += (await _turn(house, space, copy, f"What is the {name}?")).text == value
    made = head.summary
    through = made.through if made else 0
    return Kept(
        answered=answered,
        summaries=sum(1 for turn in past if turn.compaction and not turn.compaction.missing),
        left_tokens=sum(turn.tokens for turn in past if turn.number <= through),
        summary_tokens=made.tokens if made else 0,
    )


async def _turn(house: House, space: TenantSpace, session: str, prompt: str) -> ExecutionView:
    dispatcher, order = house.services.dispatcher, Order(agent="talker", prompt=prompt, session_id=session)
    async with dispatcher.execute(space, _ME, order, deltas=False) as (execution_id, updates):
        async for _ in updates:
            pass
    return await dispatcher.view(space, execution_id)
