"""What a run's model is shown of its session; and before that, where it is due, a summary of what no longer fits.

The summary is bought as any answer is: within the run's limits and budgets, once, and recorded before it is used. What
it has to hold is looked for in it (`sessions.compaction`); one that does not hold it is recorded and paid, and the run
goes on with what fits without it. Above: the loop. Below: `turns`, which asks models, and `conversing`.
"""

from dataclasses import dataclass
from typing import Final

from mcp_agents.execution import limits
from mcp_agents.execution.conversing import Conversations
from mcp_agents.execution.recorder import STORE_AWAY, Recorder
from mcp_agents.execution.run import Run
from mcp_agents.execution.turns import Asker
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Invalid
from mcp_agents.kernel.events import Compact, Completed, ContextCompacted, Failed, InSession, Problem
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tokens import TokenCounter
from mcp_agents.models.router import Demand
from mcp_agents.sessions import compaction
from mcp_agents.sessions.record import Kept

_SHARE: Final = 1 / 3
"""How much of the time that a run has left its summary may take: the turn itself needs the rest."""


@dataclass(frozen=True, slots=True)
class Compacting:
    """Summaries of any run's session. Holds no state of any."""

    asker: Asker
    conversations: Conversations
    tokens: TokenCounter
    clock: Clock

    async def recall(self, recorder: Recorder, principal: Principal) -> None:
        """Puts what the model is shown of the session into the run; ends a run that was there for the summary alone.

        Raises `Denied` and `NotFound` where the caller has lost the session since.
        """
        run, shown = recorder.run, recorder.run.requested.session
        if shown is None or run.earlier:
            return
        await self.conversations.still_allowed(recorder.space, principal, shown.id)
        compact = shown.compact
        if compact is not None and run.compacted is None:
            await self._compact(recorder, shown, compact)
        if compact is not None and compact.alone:
            made = run.compacted
            text = made.text if made and not made.missing else ""
            await recorder.record([Completed(text=text) if text else Failed(problem=Problem.of(_not_taken(run)))])
            return
        run.earlier = await self.conversations.earlier(recorder.space, shown, run.compacted)

    async def _compact(self, recorder: Recorder, shown: InSession, compact: Compact) -> None:
        run = recorder.run
        turns = await self.conversations.turns(recorder.space, shown.id, after=compact.after, upto=compact.upto)
        before = tuple(Kept(*each) for each in shown.holds)
        holds = compaction.must_hold(before, turns, last=compact.last, room=compact.room)
        left = (limits.deadline(run) - self.clock.now()).total_seconds()
        asked = Demand(
            virtual_model=run.agent.policy.summary_model or run.agent.virtual_model,
            messages=compaction.request(turns, shown.summary, holds, compact.room),
            max_tokens=compact.room,
            cache_key=run.agent.id,
            routing=run.agent.routing,
            seconds=max(0.0, left * _SHARE),
        )
        try:
            bought = await self.asker.buy(recorder, asked, quietly=True)
        except AgentsError as error:
            if error.code == STORE_AWAY:
                raise
            await recorder.record(
                [ContextCompacted(through=compact.through, missing=(f"{error.code}: {error.public}",))]
            )
            return
        answer = bought.priced.answer
        text = answer.text.strip()
        tokens = await self.tokens.count(answer.model, compaction.LEAD + text)
        event = ContextCompacted(
            through=compact.through,
            text=text,
            tokens=tokens,
            missing=compaction.wanting(text, holds, tokens, compact.room),
            holds=tuple((kept.text, kept.about) for kept in holds),
            model=answer.model,
            usage=answer.usage,
            cost_micro_usd=bought.priced.cost_micro_usd,
            model_ms=bought.model_ms,
        )
        await self.asker.book(recorder, bought, event, list)


def _not_taken(run: Run) -> Invalid:
    missing = run.compacted.missing if run.compacted else ()
    return Invalid(
        "SUMMARY_NOT_TAKEN",
        f"The summary was not taken, and nothing was changed; it lacks: {'; '.join(missing)[:500]}",
        "Try again, with another policy.summary_model of the agent, or with a larger window.",
    )
