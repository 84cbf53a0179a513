"""What a session has come to, and what could be done about it. Pure: a head and its turns in, figures out.

Above: the surface, which shows it as JSON or, by `markdown`, as text. Every hint names what it saw.
"""

from collections import Counter
from statistics import median
from typing import Final

from msgspec import Struct

from mcp_agents.sessions.record import Session, Turn
from mcp_agents.sessions.window import stretch, summary

_SLOW: Final = 3.0
"""A turn that took so many times the median is slow."""
_FEW: Final = 4
"""With fewer turns nothing is unusual."""
_SHOWN: Final = 5


class Part(Struct, frozen=True, kw_only=True):
    """One model's or tool's part."""

    name: str
    calls: int
    cost_micro_usd: int = 0


class Slow(Struct, frozen=True, kw_only=True):
    """A turn that took long."""

    number: int
    execution_id: str
    total_ms: int


class Report(Struct, frozen=True, kw_only=True):
    """Figures of all turns; money in micro-USD. `hints` are sentences, the most costly first."""

    session_id: str
    turns: int
    failed: int
    cost_micro_usd: int
    total_tokens: int
    median_ms: int
    slowest: tuple[Slow, ...]
    models: tuple[Part, ...]
    tools: tuple[Part, ...]
    window_tokens: int
    window_size: int
    shown_turns: int
    summarized_turns: int
    summaries_refused: int
    hints: tuple[str, ...] = ()


def report(session: Session, turns: list[Turn]) -> Report:
    """The report of a session with all its turns."""
    took = [turn.total_ms for turn in turns]
    middle = round(median(took)) if took else 0
    slow = sorted((turn for turn in turns if turn.total_ms > _SLOW * max(1, middle)), key=lambda turn: -turn.total_ms)
    shown = stretch(session)
    models, money, tools = Counter[str](), Counter[str](), Counter[str]()
    for turn in turns:
        models[turn.model or "none"] += 1
        money[turn.model or "none"] += turn.cost_micro_usd
        tools.update(call.tool for message in turn.messages for call in message.tool_calls)
    made = Report(
        session_id=session.id,
        turns=len(turns),
        failed=sum(1 for turn in turns if turn.status not in ("completed", "compacted")),
        cost_micro_usd=session.cost_micro_usd,
        total_tokens=session.usage.total,
        median_ms=middle,
        slowest=tuple(
            Slow(number=turn.number, execution_id=turn.execution_id, total_ms=turn.total_ms) for turn in slow[:_SHOWN]
        ),
        models=tuple(Part(name=name, calls=calls, cost_micro_usd=money[name]) for name, calls in models.most_common()),
        tools=tuple(Part(name=name, calls=calls) for name, calls in tools.most_common()),
        window_tokens=shown.tokens,
        window_size=session.window.max_tokens,
        shown_turns=sum(
            1
            for mark in session.marks
            if mark.whole and mark.sequence > shown.after and mark.sequence not in shown.without
        ),
        summarized_turns=made_of.through if (made_of := summary(session)) else 0,
        summaries_refused=sum(1 for turn in turns if turn.compaction and turn.compaction.missing),
    )
    return Report(
        **{name: getattr(made, name) for name in made.__struct_fields__ if name != "hints"}, hints=_hints(made)
    )


def markdown(found: Report) -> str:
    """The same for people."""
    behind = f" and a summary of the first {found.summarized_turns}" if found.summarized_turns else ""
    lines = [
        f"# Session {found.session_id}",
        "",
        f"{found.turns} turns, {found.failed} of them not completed; {found.total_tokens} tokens, "
        f"{found.cost_micro_usd} micro-USD; a turn takes {found.median_ms} ms at the median.",
        f"The next prompt goes with {found.shown_turns} turns{behind}: {found.window_tokens} of {found.window_size} "
        "tokens.",
    ]
    for title, shares in (("Models", found.models), ("Tools", found.tools)):
        if shares:
            lines += ["", f"## {title}", ""]
            lines += [f"- {each.name}: {each.calls} times, {each.cost_micro_usd} micro-USD" for each in shares]
    if found.slowest:
        lines += ["", "## Slow turns", ""]
        lines += [f"- turn {each.number} ({each.execution_id}): {each.total_ms} ms" for each in found.slowest]
    lines += ["", "## What to do", "", *(f"- {hint}" for hint in found.hints or ("Nothing stands out.",))]
    return "\n".join(lines) + "\n"


def _hints(found: Report) -> tuple[str, ...]:
    hints: list[str] = []
    if found.failed * 4 > found.turns:
        hints.append(f"{found.failed} of {found.turns} turns did not complete: see their runs with execution_get.")
    unseen = found.turns - found.failed - found.shown_turns - found.summarized_turns
    if unseen > found.shown_turns:
        hints.append(
            f"The model is shown {found.shown_turns} turns and not the {unseen} before: pin what has to stay known, "
            "bind builtin/search_session, or let session_compact summarize them."
        )
    if found.summaries_refused:
        hints.append(
            f"{found.summaries_refused} summaries lacked what they must hold and were not taken: choose another "
            "policy.summary_model of the agent, or a larger window."
        )
    if found.window_tokens * 10 > found.window_size * 9 and found.shown_turns <= _FEW:
        hints.append(f"{found.shown_turns} turns fill the window: they are long, or it is small.")
    if found.slowest and found.turns > _FEW:
        numbers = ", ".join(str(each.number) for each in found.slowest)
        hints.append(f"The turns {numbers} took more than {_SLOW:g} times the median of {found.median_ms} ms.")
    return tuple(hints)
