"""One budget, several processes, one of which dies: never over, and nothing is lost or counted twice."""

import json
import sys
import uuid
from dataclasses import asdict

import anyio
import pytest

from mcp_agents.adapters.nats_link import Endpoint, connect
from mcp_agents.kernel.clock import SystemClock
from mcp_agents.kernel.messages import Spend
from mcp_agents.kernel.tasks import together
from mcp_agents.scaling.budgets import Budget, Budgets
from tests.support.spender import PAYERS, WORST, Spender, price_of, space_over

pytestmark = pytest.mark.anyio

ADMITTED = 10
LIMIT = ADMITTED * WORST.micro_usd


async def killed(nats: Endpoint, tenant: str, when: str, nth: int, runs: list[str]) -> list[str]:
    """What a process bought before it died at a write of its own."""
    order = {"endpoint": asdict(nats), "tenant": tenant, "when": when, "nth": nth, "runs": runs}
    done = await anyio.run_process(
        [sys.executable, "-m", "tests.support.spender"], input=json.dumps(order).encode() + b"\n", check=False
    )
    assert done.returncode == -9, done.stderr.decode()
    return done.stdout.decode().split()


@pytest.mark.parametrize(
    ("when", "nth"), [("before", 1), ("after", 1), ("before", 2), ("after", 2), ("before", 3), ("after", 3)]
)
async def test_a_hundred_calls_of_three_processes_one_of_which_dies(nats: Endpoint, when: str, nth: int) -> None:
    """At no time more than the budget is spent or reserved, and in the end the books are right to the micro-USD."""
    tenant = f"t{uuid.uuid4().hex[:12]}"
    runs = [f"ex_{number}" for number in range(100)]
    async with connect(nats, "one") as one, connect(nats, "two") as two:
        space = await space_over(one, tenant)
        spenders = [Spender(space, 0.3), Spender(await space_over(two, tenant), 0.3)]
        budgets = Budgets(SystemClock())
        await budgets.set(space, Budget(scope="tenant", period="total", limit_micro_usd=LIMIT), None)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                (now,) = await budgets.left(space, PAYERS)
                most = max(most, now.settled.micro_usd + now.reserved.micro_usd)

        with anyio.fail_after(60):
            dead = await killed(nats, tenant, when, nth, runs[:4])
            async with together() as watching:
                watching.start_soon(watch)
                async with together() as spending:
                    spending.start_soon(spenders[0].spend_all, runs[4:52])
                    spending.start_soon(spenders[1].spend_all, runs[52:])
                watching.cancel_scope.cancel()
        successor = Budgets(SystemClock())
        left_open: dict[str, Spend] = {}
        for run in runs[:4]:
            for turn, worst in (await successor.open_turns(space, PAYERS, run)).items():
                left_open[run] = worst
                await successor.settle(space, PAYERS, run, turn, worst)
        (end,) = await successor.left(space, PAYERS)
    assert end.reserved == Spend()
    bought = [*dead, *spenders[0].bought, *spenders[1].bought]
    assert len(set(bought)) == len(bought)
    assert len(bought) - len(dead) >= ADMITTED - len(runs[:4])  # whatever the dead one held, the rest was there
    booked = sum(price_of(run).micro_usd for run in set(bought) - set(left_open))
    booked += sum(worst.micro_usd for worst in left_open.values())
    assert end.settled.micro_usd == booked
    assert max(most, booked) <= LIMIT
    if (when, nth) in (("after", 1), ("before", 2)):  # some were reserved, and none was settled
        assert left_open
    if (when, nth) == ("before", 1):
        assert (dead, left_open) == ([], {})
