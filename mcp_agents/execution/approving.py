"""For which calls a person is asked first, and what their approval holds for.

The first rule of the agent's policy that fits a call decides; a call that no rule fits is sent. Where a rule cannot
judge, a person can: what should be an amount and is none counts as too much. Pure functions over the policy, the
tool and the call. Above: `approvals`.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from hashlib import sha256
from math import isfinite
from typing import Any

import msgspec

from mcp_agents.agents.spec import Agent, ApprovalRule
from mcp_agents.kernel.events import Caller
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.toolset import Tool

_encode = msgspec.json.Encoder(order="deterministic").encode


def asking_rule(rules: tuple[ApprovalRule, ...], tool: Tool, arguments: dict[str, Any]) -> ApprovalRule | None:
    """The rule by which a person is asked about this call; None when nobody is."""
    first = next((rule for rule in rules if _fits(rule, tool, arguments)), None)
    return first if first and first.approve == "always" else None


def binding(caller: Caller, call: ToolCall, agent: Agent | None) -> str:
    """A digest of what an approval holds for: who asked for the run, the exact call, the agent as it stands.

    Empty, which nothing is bound to, for an agent that is gone.
    """
    if agent is None:
        return ""
    what = [caller.subject, caller.client, call.tool, call.arguments, agent.id, agent.version, agent.policy]
    return sha256(_encode(what)).hexdigest()


def _fits(rule: ApprovalRule, tool: Tool, arguments: dict[str, Any]) -> bool:
    return (
        (not rule.tool or fnmatchcase(tool.origin, rule.tool))
        and (not rule.label or rule.label in tool.labels)
        and (rule.annotation is None or _annotated(rule.annotation, tool))
        and (rule.above is None or any(_exceeds(found, rule.above) for found in _at(arguments, rule.argument)))
    )


def _annotated(annotation: str, tool: Tool) -> bool:
    match annotation:
        case "destructive":
            return tool.destructive and not tool.read_only
        case "not_read_only":
            return not tool.read_only
        case _:
            return tool.open_world


def _at(value: Any, path: str) -> Iterator[Any]:
    """What stands at a path: member by member, a list's elements by their number, `*` for all of either."""
    first, _, rest = path.partition(".")
    if isinstance(value, dict):
        inner = list(value.values()) if first == "*" else [value[first]] if first in value else []
    elif isinstance(value, list):
        inner = value if first == "*" else value[int(first) :][:1] if first.isdecimal() else []
    else:
        inner = []
    for each in inner:
        if rest:
            yield from _at(each, rest)
        else:
            yield each


def _exceeds(value: Any, above: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return True
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return True
    return not isfinite(amount) or amount > above
