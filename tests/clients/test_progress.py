"""How often a waiting caller is told something: not too seldom, not too often, and nothing behind the answer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from mcp_agents_tools.surface import following

from mcp_agents.execution.signals import Delta
from mcp_agents.kernel.tasks import background
from tests.clients.house import workshop
from tests.support.clock import TestClock

pytestmark = pytest.mark.anyio


class Told(list[str]):
    """What a caller was told."""

    async def __call__(self, message: str) -> None:
        self.append(message)


def teller(clock: TestClock, told: Told) -> following._Teller:
    """Whoever tells it, on the test's own clock."""
    return following._Teller(cast("Any", SimpleNamespace(services=SimpleNamespace(clock=clock))), told)


async def test_at_most_ten_a_second_and_the_last_is_not_lost(clock: TestClock) -> None:
    """A hundred pieces of text in one second are ten messages; what came last is said afterwards."""
    told = Told()
    says = teller(clock, told)
    await says.begin()
    for number in range(100):
        clock.advance(0.01)
        await says.tell(Delta(1, number, "x"))
    assert 9 <= len(told) <= 11
    await says.tell(Delta(1, 100, "the end"))
    clock.advance(1)
    async with background() as tasks:
        tasks.start_soon(says.keep_alive)
        with anyio.fail_after(5):
            while "the end" not in told[-1]:
                await anyio.sleep(0.01)


async def test_who_hears_nothing_new_is_told_again(clock: TestClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Well within the fifteen seconds that are promised."""
    assert following._SILENCE_SECONDS <= 14
    monkeypatch.setattr(following, "_SILENCE_SECONDS", 0.01)
    told = Told()
    says = teller(clock, told)
    await says.begin()
    async with background() as tasks:
        tasks.start_soon(says.keep_alive)
        with anyio.fail_after(5):
            while len(told) < 4:
                await anyio.sleep(0.01)
    assert set(told) == {"queued"}


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_nothing_comes_behind_the_answer(tmp_path: Path, era: str) -> None:
    """A message that is told again every hundredth of a second stops with the call."""
    heard: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with workshop(tmp_path) as house:
        run = await house.run("quick")
        async with house.client(era) as client:
            with anyio.fail_after(20):
                await client.call_tool("agent_execute", run.arguments, progress_callback=note)
                count = len(heard)
                for _ in range(3):
                    await client.call_tool("agent_list", {})
    assert count == len(heard) > 0
