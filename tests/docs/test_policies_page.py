"""The examples of the page of policies are rules that can be in force, and do what the page says of them."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from mcp_agents_tools.surface.governance.policies import PolicySetting

from mcp_agents.kernel.policy import ACTIONS, Act
from mcp_agents.kernel.principal import Principal
from mcp_agents.security.policy.book import Policy, Rules
from mcp_agents.security.policy.engine import compiled
from mcp_agents.security.policy.rules import LIMIT, Rule, check
from tests.docs.pages import DOCS, blocks

PAGE = (DOCS / "policies.md").read_text("utf-8")
EXAMPLES: list[dict[str, Any]] = [json.loads(body) for body in blocks(PAGE, "json")]
CALL = {"action": "call_tool"}


def book() -> Rules:
    """All examples, in force."""
    found = {}
    for example in EXAMPLES:
        given = PolicySetting.model_validate(example).model_dump(
            include={"effect", "actions", "when", "unless", "by", "reason", "cedar"}
        )
        rule = msgspec.convert(given, Rule)
        check(example["name"], rule)
        now = datetime(2026, 1, 1, tzinfo=UTC)
        found[example["name"]] = Policy(name=example["name"], rule=rule, version=1, updated_at=now, updated_by="t")
    return Rules(policies=found)


@pytest.mark.parametrize(
    ("act", "effect", "rule"),
    [
        (Act(action="call_tool", resource="mail/get", agent="intern"), "deny", "intern-tools"),
        (Act(action="call_tool", resource="github/get", agent="intern"), "allow", ""),
        (Act(action="call_tool", resource="files/read", arguments={"path": "/srv/data/../x"}), "deny", "one-folder"),
        (Act(action="call_tool", resource="files/read", arguments={"path": "/srv/data/x"}), "allow", ""),
        (Act(action="call_tool", resource="mail/send", labels=frozenset({"sales"})), "ask", "mail-of-sales"),
        (Act(action="use_model", resource="m", labels=frozenset({"personal-data"}), region="us"), "deny", "residency"),
        (Act(action="use_model", resource="m", labels=frozenset({"personal-data"}), region="eu-1"), "allow", ""),
        (Act(action="reach_network", resource="evil.example"), "deny", "hosts"),
        (Act(action="reach_network", resource="a.corp.example"), "allow", ""),
        (Act(action="delegate", resource="worker", agent="worker"), "deny", ""),
        (Act(action="delegate", resource="worker", agent="boss"), "allow", "boss-delegates"),
        (Act(action="call_tool", resource="prod/restart", agent="owl"), "deny", "night"),
    ],
)
def test_an_example_does_what_it_says(act: Act, effect: str, rule: str) -> None:
    """Together with all the others."""
    caller = Principal(tenant="a", subject="s", scopes=frozenset(), roles=frozenset({"operator"}))
    found = compiled(book()).decide(caller, act)
    assert (found.effect, found.rules) == (effect, (rule,) if rule else ())


def test_the_page_names_every_action_and_the_limit() -> None:
    """The table is the port's list."""
    rows = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == ["use_tool", "run_agent", "delegate", "use_model", "call_tool", "reach_network"]
    assert set(rows) == set(ACTIONS)
    assert f"at most {LIMIT} rules" in PAGE
