"""A house whose runs ask people, on a scripted provider and a tool server that counts; no HTTP between.

For tests that bring several people, clocks that jump, and houses that are closed and opened again.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from mcp_agents_tools.surface.plugin import Services

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.execution.questions import Answer, Question
from mcp_agents.execution.run import ExecutionView, Run
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.events import event_name
from mcp_agents.kernel.faults import Faults
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolserver import ToolServerSpec
from mcp_agents.server.compose import House, open_house
from mcp_agents.server.config import Settings
from tests.support.counted_tools import CountedTools
from tests.support.provider import Call, ScriptedProvider, Step

URL = "http://127.0.0.1:1"
TENANT = "acme"
ALWAYS = {"approvals": [{"tool": "counted/*"}]}
YES, NO = Answer(content={"approve": True}), Answer(content={"approve": False, "reason": "too dear"})


def person(name: str, *scopes: str) -> Principal:
    """Somebody of the tenant; with every right unless some are named."""
    return Principal(tenant=TENANT, subject=name, scopes=frozenset(scopes) or TENANT_SCOPES)


ANN, BOB = person("ann"), person("bob")


class Jumping:
    """The machine's clock, some time ahead."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = timedelta(seconds=ahead)

    def jump(self, seconds: float) -> None:
        """Lets so much time pass."""
        self.ahead += timedelta(seconds=seconds)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def monotonic(self) -> float:
        return anyio.current_time()


@dataclass(frozen=True)
class Desk:
    """The open house, for one tenant."""

    house: House
    provider: ScriptedProvider
    tools: CountedTools
    folder: Path

    @property
    def space(self) -> TenantSpace:
        """The tenant's own space."""
        return self.house.tenancy.of(ANN)

    @property
    def services(self) -> Services:
        """The rooms."""
        return self.house.services

    async def agent(self, name: str = "worker", **more: Any) -> None:
        """An agent of the scripted model, bound to the counting tools; and their server, once."""
        spec = ToolServerSpec(name="counted", transport="http", url=self.tools.url)
        if not await self.services.tool_servers.all(self.space):
            await self.services.tool_servers.add(self.space, ANN, spec)
        fields = {"name": name, "virtual_model": "scripted", "tools": ["counted/record"], **more}
        await self.services.agents.create(self.space, AgentDraft.model_validate(fields))

    async def submit(self, prompt: str = "<q>", agent: str = "worker") -> str:
        """A run for Ann."""
        return await self.services.dispatcher.submit(self.space, ANN, Order(agent=agent, prompt=prompt, submitted=True))

    async def run(self, execution_id: str) -> Run:
        """As it stands."""
        return await self.services.dispatcher.run(self.space, execution_id)

    async def until(self, execution_id: str, fits: Callable[[Run], bool]) -> Run:
        """The run as soon as it fits."""
        with anyio.fail_after(30):
            async with self.space.log(execution_id).follow() as batches:
                async for _ in batches:
                    run = await self.run(execution_id)
                    if fits(run):
                        return run
        raise AssertionError("the log ended")

    async def asked(self, execution_id: str) -> Question:
        """The only question of the run, once it waits."""
        run = await self.until(execution_id, lambda run: run.status == "waiting" or run.finished)
        (question,) = run.view().questions
        return question

    async def ended(self, execution_id: str) -> ExecutionView:
        """The run, when it has ended."""
        return (await self.until(execution_id, lambda run: run.finished)).view()

    async def answer(self, who: Principal, execution_id: str, answer: Answer, question_id: str = "") -> ExecutionView:
        """What a person says."""
        return await self.services.questions.answer(self.space, who, execution_id, question_id, answer)

    async def events(self, execution_id: str) -> list[str]:
        """The names of the run's events."""
        _, entries = await self.space.log(execution_id).read()
        return [event_name(entry.event) for entry in entries]


def recording(place: str = "q", text: str = "Done.") -> list[Step]:
    """The model calls the counting tool, then answers."""
    call = Call(name="counted__record", arguments=f'{{"place": "{place}"}}')
    return [
        Step(when="<q>", turn=0, times=0, calls=[call]),
        Step(when="<q>", turn=1, times=0, text=text),
    ]


@asynccontextmanager
async def house_on(
    folder: Path,
    provider: ScriptedProvider,
    tools: CountedTools,
    *,
    workers: int = 1,
    clock: Clock | None = None,
    faults: Faults | None = None,
) -> AsyncIterator[Desk]:
    """The house on a folder, which may have been used before; it carries out runs while it is open."""
    model = {"name": "scripted", "litellm_model": "openai/scripted", "api_base": provider.api_base, "wire": "openai"}
    settings = Settings.model_validate({"server": {"data_dir": str(folder), "workers": workers}, "models": [model]})
    async with open_house(settings, URL, clock=clock, faults=faults) as house, background() as tasks:
        if workers:
            tasks.start_soon(house.crew.work, workers)
        yield Desk(house, provider, tools, folder)


@asynccontextmanager
async def desk(folder: Path, *steps: Step, **more: Any) -> AsyncIterator[Desk]:
    """One house, from an empty folder."""
    async with (
        ScriptedProvider(list(steps)) as provider,
        CountedTools() as tools,
        house_on(folder, provider, tools, **more) as opened,
    ):
        yield opened
