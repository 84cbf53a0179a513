"""A run and the budgets it counts against: reserve before a model call, settle after, and leave nothing behind.

The log is the truth, the budgets follow it: a call is settled after its answer is recorded, and whoever takes
a run over, or ends it, settles what another worker left reserved. A reservation whose answer never came counts
as spent, because it may have been paid. Without a budget none of this asks anybody. Above: the loop, the
worker and the archive. Below: `scaling.budgets`.
"""

from dataclasses import dataclass

from mcp_agents.execution.limits import Worst
from mcp_agents.execution.run import Run
from mcp_agents.kernel.events import AnyEvent, BudgetReserved, BudgetSettled, BudgetWarning
from mcp_agents.kernel.messages import Spend
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.scaling.budgets import Budgets, Payers

PATIENCE_SECONDS = 20.0
"""How long a call waits for others to settle before it is refused."""


@dataclass(frozen=True, slots=True)
class Spending:
    """Budgets, asked by run and call."""

    budgets: Budgets

    async def reserve(
        self, space: TenantSpace, run: Run, worst: Worst, *, priced: bool, patience: float
    ) -> list[AnyEvent]:
        """Sets the worst case of the next turn aside; what to record of it with the turn, [] where no budget applies.

        Raises `Exhausted` (`BUDGET_EXHAUSTED`).
        """
        spend = worst.spend
        held = await self.budgets.reserve(
            space,
            payers(run),
            run.execution_id,
            run.next_purchase,
            spend,
            priced=priced,
            patience=min(PATIENCE_SECONDS, patience),
        )
        if held is None:
            return []
        return [BudgetReserved(call=run.next_purchase, micro_usd=spend.micro_usd, tokens=spend.tokens)]

    async def release(self, space: TenantSpace, run: Run) -> None:
        """The call was not answered and is not paid."""
        await self.budgets.release(space, payers(run), run.execution_id, run.next_purchase)

    async def settle(self, space: TenantSpace, run: Run) -> list[AnyEvent]:
        """Puts what the call just recorded cost in the place of its reservation; the warnings to record."""
        number = len(run.purchases)
        passed = await self.budgets.settle(space, payers(run), run.execution_id, number, run.purchases[-1])
        return [
            BudgetWarning(scope=each.scope, subject=each.subject, period=each.period, threshold=each.threshold)
            for each in passed
        ]

    async def lost(self, space: TenantSpace, run: Run) -> list[BudgetSettled]:
        """What stays reserved for calls whose answer was lost: to be recorded before it is booked (`settle_up`)."""
        return [
            BudgetSettled(call=number, micro_usd=held.micro_usd, tokens=held.tokens, lost=True)
            for number, held in (await self._open(space, run)).items()
            if number > len(run.purchases)
        ]

    async def settle_up(self, space: TenantSpace, run: Run) -> None:
        """Settles whatever is still reserved: recorded calls at their cost, lost ones in full."""
        for number, held in (await self._open(space, run)).items():
            spent = run.purchases[number - 1] if number <= len(run.purchases) else held
            await self.budgets.settle(space, payers(run), run.execution_id, number, spent)

    async def _open(self, space: TenantSpace, run: Run) -> dict[int, Spend]:
        return await self.budgets.open_turns(space, payers(run), run.execution_id)


def payers(run: Run) -> Payers:
    """Whose budgets a run counts against, besides its tenant's. What a turn started is paid by its session too."""
    requested = run.requested
    session = requested.session.id if requested.session else ""
    if requested.parent:
        session = requested.parent.session
    return Payers(user=requested.caller.subject, agent=requested.agent_id, session=session)
