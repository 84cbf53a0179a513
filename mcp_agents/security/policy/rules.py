"""What a rule is, and the Cedar policy that it comes to. Pure.

A rule says for which acts it is (`actions`, `when`, `unless`) and what becomes of them (`effect`). Texts of a rule
are only ever values of string literals in Cedar, escaped by `_text`; names and shapes are checked before.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.policy import ACTIONS, Action

Effect = Literal["allow", "deny", "ask", "close"]
LIMIT: Final = 200
"""Rules a tenant may have: what is decided for the first time takes time in proportion."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f]")
_VALUES: Final = 64
_LENGTH: Final = 256


class PathRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text argument of a tool that is a path or a URL lies `under` one of these. See `paths`."""

    argument: str
    under: tuple[str, ...]


class Match(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which acts a rule is about. What is given must all hold; of each list one entry is enough.

    `*` in a text stands for anything. `agents` are names of acting agents, or of the agent that is run; `resources`
    are what is acted on as the action names it: `server/tool`, a model, an agent, a tool of ours, a host.
    """

    agents: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    paths: tuple[PathRule, ...] = ()


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule.

    `deny` forbids what it is about, and wins over everything. `ask` lets it through when a person approves, `by`
    anybody with the right or somebody other than who asked for the run. `close`: such acts need an `allow`.
    `cedar` is a policy in Cedar's own language instead of all the rest but `reason`.
    """

    effect: Effect = "deny"
    actions: tuple[Action, ...] = ()
    when: Match = Match()
    unless: Match | None = None
    by: Literal["any", "other"] = "any"
    reason: str = ""
    cedar: str = ""


def check(name: str, rule: Rule) -> None:
    """Raises `Invalid` (`POLICY_INVALID`) for a rule that says nothing, too much, or cannot be said."""
    if not NAME.fullmatch(name):
        raise invalid("A policy's name is 1 to 64 of a-z, 0-9, _ and -, and begins with a letter or a digit.")
    if len(rule.reason) > _LENGTH or _UNSAFE.search(rule.reason):
        raise invalid(f"A reason is a line of at most {_LENGTH} characters.")
    if rule.cedar:
        if rule != Rule(cedar=rule.cedar, reason=rule.reason):
            raise invalid("A rule is written in Cedar or in fields, not in both.")
        if len(rule.cedar) > 8192:
            raise invalid("A Cedar text has at most 8,192 characters.")
        return
    if rule.effect == "ask" and set(rule.actions) != {"call_tool"}:
        raise invalid('Only for calls of tools a person can be asked: give actions ["call_tool"].')
    if not rule.actions and rule.effect != "deny":
        raise invalid(f"Name the actions: {', '.join(ACTIONS)}.")
    for match in (rule.when, rule.unless or Match()):
        _check_match(match)
    if rule.unless == Match():
        raise invalid("An empty unless would take everything out of the rule.")
    if rule.effect == "deny" and rule.when == Match() and not rule.unless and not rule.actions:
        raise invalid("This rule forbids everything. Name actions, or say when.")


def policy(name: str, rule: Rule) -> str:
    """The rule as text of Cedar policies, each annotated with the rule's name."""
    if rule.cedar:
        return rule.cedar
    actions = ", ".join(f"Action::{_text(action)}" for action in rule.actions)
    scope = f"(principal, action in [{actions}], resource)" if actions else "(principal, action, resource)"
    when = " && ".join([*_conditions(rule.when, name, "when")] or ["true"])
    unless = [" && ".join(_conditions(rule.unless, name, "unless"))] if rule.unless else []
    head = f"@id({_text(name)})\n"
    match rule.effect:
        case "allow":
            kind = "permit"
        case "ask":
            kind, unless = "forbid", ["context.approved", *unless]
        case _:
            kind = "forbid"
    left_out = f" unless {{ {' || '.join(f'({each})' for each in unless)} }}" if unless else ""
    return f"{head}{kind} {scope} when {{ {when} }}{left_out};"


def closing(rule: Rule, name: str) -> str:
    """The condition under which a `close` rule takes away what is allowed without it."""
    actions = " || ".join(f"action == Action::{_text(each)}" for each in rule.actions)
    parts = [f"({actions})", *_conditions(rule.when, name, "when")]
    if rule.unless:
        parts.append(f"!({' && '.join(_conditions(rule.unless, name, 'unless'))})")
    return " && ".join(parts)


def flag(name: str, side: str, number: int) -> str:
    """What stands in an act's context for a path condition that holds."""
    return f"{name}/{side}/{number}"


def _conditions(match: Match, name: str, side: str) -> list[str]:
    likes = {
        "context.agent": match.agents,
        "resource.name": match.resources,
        "principal.subject": match.users,
        "principal.client": match.clients,
        "context.network": match.networks,
        "context.region": match.regions,
    }
    found = [_any(f"{what} like {_pattern(each)}" for each in given) for what, given in likes.items() if given]
    for what, given in (("principal.roles", match.roles), ("context.labels", match.labels)):
        if given:
            found.append(f"{what}.containsAny([{', '.join(map(_text, given))}])")
    found += [f"context.paths.contains({_text(flag(name, side, number))})" for number in range(len(match.paths))]
    return found


def _any(alternatives: Iterable[str]) -> str:
    return f"({' || '.join(alternatives)})"


def _check_match(match: Match) -> None:
    for field in match.__struct_fields__:
        values = getattr(match, field)
        if len(values) > _VALUES:
            raise invalid(f"{field} has at most {_VALUES} entries.")
        texts = [text for each in values for text in ((each.argument, *each.under) if field == "paths" else (each,))]
        if any(not text or len(text) > _LENGTH or _UNSAFE.search(text) for text in texts):
            raise invalid(f"An entry of {field} has 1 to {_LENGTH} characters, none of them a control character.")
    if any(not each.under for each in match.paths):
        raise invalid("A path is under something: give under.")


def _text(text: str) -> str:
    """A Cedar string literal: whatever is not plain is written as its code point."""
    return (
        '"'
        + "".join(c if c.isascii() and (c.isalnum() or c in " _-./:@+,") else f"\\u{{{ord(c):x}}}" for c in text)
        + '"'
    )


def _pattern(text: str) -> str:
    """A Cedar pattern: `*` stands for anything, all the rest for itself."""
    return '"' + "*".join(_text(part)[1:-1] for part in text.split("*")) + '"'


def invalid(says: str) -> Invalid:
    """A rule that is none."""
    return Invalid("POLICY_INVALID", says, "See docs/policies.md for examples, correct it and call again.")
