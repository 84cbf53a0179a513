"""What one run may use: turns, tool calls, time, money, tokens, depth, children.

Pure: the run so far and its agent's limits, narrowed by what its caller and its parent allow. Budgets over
many runs are `scaling`; this is the one run. Above: the loop, which asks before every model call and every
tool call.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec

from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import Exhausted
from mcp_agents.kernel.events import Portion
from mcp_agents.kernel.messages import Message, Spend
from mcp_agents.kernel.model import Price
from mcp_agents.models.router import Demand

DEFAULT_OUTPUT: Final = 4096
"""Output tokens that are asked for at most when neither the agent nor the price list says how many."""
_PER_MESSAGE: Final = 16
"""Tokens that a wire adds around one message or tool, at most."""
_MTOK: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for one run; None: no limit. Money in micro-USD."""

    max_turns: int
    max_tool_calls: int
    max_children: int
    max_depth: int
    timeout_seconds: float
    cost_micro_usd: int | None
    tokens: int | None

    @staticmethod
    def of(run: Run) -> "Limits":
        """The agent's limits, as its caller overrides them, within what the parent run allows."""
        given, overrides, allowed = run.agent.limits, run.requested.overrides, run.requested.portion
        return Limits(
            max_turns=int(overrides.get("max_turns") or given.max_turns),
            max_tool_calls=given.max_tool_calls,
            max_children=given.max_children,
            max_depth=_least(given.max_depth, allowed.max_depth) or 0,
            timeout_seconds=min(
                float(overrides.get("timeout_seconds") or given.timeout_seconds), allowed.seconds or float("inf")
            ),
            cost_micro_usd=_least(
                given.max_cost_micro_usd, overrides.get("max_cost_micro_usd"), allowed.cost_micro_usd
            ),
            tokens=_least(given.max_total_tokens, overrides.get("max_total_tokens"), allowed.tokens),
        )

    @property
    def spending(self) -> bool:
        """Whether money or tokens are limited."""
        return self.cost_micro_usd is not None or self.tokens is not None

    def share(self, run: Run, children: int, now: datetime) -> Portion:
        """What each of so many children may use at most, carved out of what the run has left."""
        spent = run.spent
        cost = None if self.cost_micro_usd is None else max(0, self.cost_micro_usd - spent.micro_usd) // children
        tokens = None if self.tokens is None else max(0, self.tokens - spent.tokens) // children
        seconds = max(0.001, (deadline(run) - now).total_seconds())  # so that the parent hears of its end in time
        return Portion(cost_micro_usd=cost, tokens=tokens, max_depth=self.max_depth, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Worst:
    """The most that one model call can use. `max_tokens` is what the model must be told for that to hold."""

    spend: Spend
    max_tokens: int


def deadline(run: Run) -> datetime:
    """When the run has used its time; time in which a person was asked does not count."""
    return run.created_at + timedelta(seconds=Limits.of(run).timeout_seconds + run.asked_seconds)


def over(run: Run, limits: Limits, asked: int, children: int) -> Exhausted | None:
    """Why the run must end instead of making `asked` more tool calls, `children` of them agents."""
    if len(run.turns) + 1 >= limits.max_turns:
        turns = limits.max_turns
        return Exhausted("TURNS_EXHAUSTED", f"The run used its {turns} model turns.", "Raise limits.max_turns.")
    if run.tool_call_count() + asked > limits.max_tool_calls:
        calls = limits.max_tool_calls
        return Exhausted(
            "TOOL_CALLS_EXHAUSTED", f"The run used its {calls} tool calls.", "Raise limits.max_tool_calls."
        )
    if len(run.children()) + children > limits.max_children:
        return Exhausted(
            "CHILDREN_EXHAUSTED",
            f"The run may call {limits.max_children} agents.",
            "Raise limits.max_children.",
        )
    return None


def worst_case(run: Run, demand: Demand, price: Price | None) -> Worst:
    """The most that the next call can use at this price; an unknown price counts as nothing.

    No tokenizer makes more tokens than there are bytes. What an earlier turn of the same run was counted as is
    taken from its usage, so only what came after it is bounded by its bytes.
    """
    messages, tools = demand.messages, demand.tools
    output = int(demand.max_tokens or (price.max_output_tokens if price else None) or DEFAULT_OUTPUT)
    fresh, known = messages, 0
    if run.turns and run.last_usage.input_tokens:
        known = (run.last_usage.input_tokens + run.last_usage.output_tokens) * 5 // 4  # another tokenizer counts more
        last = max(place for place, message in enumerate(messages) if message.role == "assistant")
        fresh = messages[last + 1 :]
    size = sum(_bytes(message) for message in fresh)
    if not known:
        size += sum(
            len(msgspec.json.encode(tool.parameters)) + len(tool.name) + len(tool.description.encode())
            for tool in tools
        )
        size += _PER_MESSAGE * len(tools)
    tokens_in = known + size
    money = 0
    if price:
        dearest_in = max(price.input_micro_usd_per_mtok, price.cached_micro_usd_per_mtok)
        money = -(-(tokens_in * dearest_in + output * price.output_micro_usd_per_mtok) // _MTOK)
    return Worst(Spend(money, tokens_in + output), output)


def fitted(run: Run, limits: Limits, worst: Worst, price: Price | None) -> Worst:
    """The worst case with its output cut to what the run has left. Raises `Exhausted` when nothing useful fits."""
    spent = run.spent
    output = worst.max_tokens
    if limits.tokens is not None:
        output = min(output, limits.tokens - spent.tokens - (worst.spend.tokens - worst.max_tokens))
    if limits.cost_micro_usd is not None and price and price.output_micro_usd_per_mtok:
        left = limits.cost_micro_usd - spent.micro_usd - worst.spend.micro_usd
        output = min(output, worst.max_tokens + left * _MTOK // price.output_micro_usd_per_mtok)
    elif limits.cost_micro_usd is not None and spent.micro_usd + worst.spend.micro_usd > limits.cost_micro_usd:
        output = 0
    if output >= worst.max_tokens:
        return worst
    if output < min(worst.max_tokens, _USEFUL):
        if limits.tokens is not None and spent.tokens + worst.spend.tokens > limits.tokens:
            raise Exhausted(
                "TOKENS_EXHAUSTED",
                "The run has not enough of its tokens left for another model call.",
                "Raise limits.max_total_tokens, or ask for less.",
            )
        raise Exhausted(
            "COST_EXHAUSTED",
            "The run has not enough of its money left for another model call.",
            "Raise limits.max_cost_micro_usd, or ask for less.",
        )
    saved = worst.max_tokens - output
    money = saved * price.output_micro_usd_per_mtok // _MTOK if price else 0
    spend = Spend(worst.spend.micro_usd - money, worst.spend.tokens - saved)
    return replace(worst, spend=spend, max_tokens=output)


_USEFUL: Final = 64
"""Fewer output tokens than these are not worth a call."""


def _bytes(message: Message) -> int:
    size = _PER_MESSAGE + len(message.text.encode("utf-8", "replace"))
    return size + sum(
        len(call.tool) + len(msgspec.json.encode(call.arguments)) + _PER_MESSAGE for call in message.tool_calls
    )


def _least(*limits: int | None) -> int | None:
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None
