"""For which calls a person is asked, and what their approval holds for: tables over pure functions."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcp_agents.agents.spec import Agent, AgentApproval, ApprovalRule
from mcp_agents.execution.approving import asking_rule, binding
from mcp_agents.execution.asking import FIELDS, Unfit, form, shown
from mcp_agents.kernel.events import Caller
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.toolset import Tool

RECORD = Path(__file__).parents[1] / "agents" / "records" / "agent.json"


def tool(origin: str = "bank/transfer", **more: Any) -> Tool:
    return Tool(name=origin.replace("/", "__"), description="", parameters={}, origin=origin, **more)


READER = tool("bank/balance", read_only=True, destructive=False, open_world=False)
WRITER = tool("bank/note", destructive=False, open_world=False)


@pytest.mark.parametrize(
    ("rule", "of", "arguments", "asked"),
    [
        ({}, tool(), {}, True),
        ({"approve": "never"}, tool(), {}, False),
        ({"tool": "bank/transfer"}, tool(), {}, True),
        ({"tool": "bank/*"}, tool(), {}, True),
        ({"tool": "*/transfer"}, tool(), {}, True),
        ({"tool": "shop/*"}, tool(), {}, False),
        ({"tool": "agent:*"}, tool("agent:buyer"), {}, True),
        ({"label": "money"}, tool("agent:buyer", labels=("money",)), {}, True),
        ({"label": "money"}, tool("agent:buyer", labels=("mail",)), {}, False),
        ({"label": "money"}, tool(), {}, False),
        ({"annotation": "destructive"}, tool(), {}, True),
        ({"annotation": "destructive"}, WRITER, {}, False),
        ({"annotation": "destructive"}, tool(read_only=True), {}, False),
        ({"annotation": "not_read_only"}, WRITER, {}, True),
        ({"annotation": "not_read_only"}, READER, {}, False),
        ({"annotation": "open_world"}, tool(), {}, True),
        ({"annotation": "open_world"}, WRITER, {}, False),
        ({"argument": "amount", "above": 100}, tool(), {"amount": 100}, False),
        ({"argument": "amount", "above": 100}, tool(), {"amount": 100.01}, True),
        ({"argument": "amount", "above": 100}, tool(), {}, False),
        ({"argument": "amount", "above": 100}, tool(), {"amount": "99"}, False),
        ({"argument": "amount", "above": 100}, tool(), {"amount": "101"}, True),
        ({"argument": "amount", "above": 100}, tool(), {"amount": "a lot"}, True),
        ({"argument": "amount", "above": 100}, tool(), {"amount": "nan"}, True),
        ({"argument": "amount", "above": 100}, tool(), {"amount": None}, True),
        ({"argument": "amount", "above": 100}, tool(), {"amount": True}, True),
        ({"argument": "amount", "above": 100}, tool(), {"amount": {"value": 1}}, True),
        ({"argument": "amount", "above": 100}, tool(), {"amount": 10**400}, True),
        ({"argument": "order.total", "above": 5}, tool(), {"order": {"total": 6}}, True),
        ({"argument": "order.total", "above": 5}, tool(), {"order": 6}, False),
        ({"argument": "lines.*.price", "above": 5}, tool(), {"lines": [{"price": 1}, {"price": 6}]}, True),
        ({"argument": "lines.0.price", "above": 5}, tool(), {"lines": [{"price": 1}, {"price": 6}]}, False),
        ({"argument": "lines.7", "above": 5}, tool(), {"lines": [9]}, False),
        ({"argument": "prices.*", "above": 5}, tool(), {"prices": {"a": 1, "b": 9}}, True),
        ({"tool": "bank/*", "argument": "amount", "above": 5}, tool("shop/buy"), {"amount": 9}, False),
    ],
)
def test_a_rule_fits_or_does_not(rule: dict[str, Any], of: Tool, arguments: dict[str, Any], asked: bool) -> None:
    """Every condition of a rule has to hold; what cannot be judged counts as too much."""
    stored = msgspec.convert(AgentApproval.model_validate(rule).model_dump(), ApprovalRule)
    assert (asking_rule((stored,), of, arguments) is not None) is asked


def test_the_first_rule_that_fits_counts() -> None:
    """What comes behind it is not looked at; what no rule fits is sent."""
    free, paid = ApprovalRule(tool="bank/balance", approve="never"), ApprovalRule(tool="bank/*", by="other")
    assert asking_rule((free, paid), READER, {}) is None
    assert asking_rule((paid, free), READER, {}) == paid
    assert asking_rule((free, paid), tool("shop/buy"), {}) is None


@pytest.mark.parametrize(
    "rule", [{"argument": "amount"}, {"above": 1}, {"argument": "a..b", "above": 1}, {"argument": "a", "above": "inf"}]
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any]) -> None:
    """An argument without an amount, an amount of nothing, a path that leads nowhere."""
    with pytest.raises(ValidationError):
        AgentApproval.model_validate(rule)


def test_an_approval_holds_for_one_caller_call_agent_and_policy_only() -> None:
    """Each of them changes the digest; the order of members does not."""
    agent = msgspec.json.decode(RECORD.read_bytes(), type=Agent)
    call = ToolCall(call_id="c1", tool="bank__transfer", arguments={"amount": 1, "to": "x"})
    caller = Caller(subject="ann", client="ide", scopes="executions:run")
    bound = binding(caller, call, agent)
    others = [
        binding(msgspec.structs.replace(caller, subject="bob"), call, agent),
        binding(msgspec.structs.replace(caller, client="other"), call, agent),
        binding(caller, msgspec.structs.replace(call, tool="bank__note"), agent),
        binding(caller, msgspec.structs.replace(call, arguments={"amount": 2, "to": "x"}), agent),
        binding(caller, call, msgspec.structs.replace(agent, version=agent.version + 1)),
        binding(
            caller,
            call,
            msgspec.structs.replace(agent, policy=msgspec.structs.replace(agent.policy, approval_seconds=5)),
        ),
        binding(caller, call, None),
    ]
    assert len({bound, *others}) == 1 + len(others)
    swapped = msgspec.structs.replace(call, call_id="c9", arguments={"to": "x", "amount": 1})
    assert binding(caller, swapped, agent) == bound


def ask(**arguments: Any) -> ToolCall:
    return ToolCall(call_id="c1", tool="builtin__ask_user", arguments=arguments)


def fields(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    "schema",
    [
        fields(when={"type": "string", "format": "date", "title": "When"}),
        fields(size={"type": "string", "enum": ["S", "M"], "default": "M"}),
        fields(count={"type": "integer", "minimum": 1, "maximum": 9, "default": 3}, sure={"type": "boolean"}),
        fields(price={"type": "number", "default": 1.5}) | {"required": ["price"]},
    ],
)
def test_a_flat_form_can_be_asked_for(schema: dict[str, Any]) -> None:
    """It comes back as it was, whole."""
    message, kept = form(ask(message="What?", schema=schema))
    assert message == "What?"
    assert kept == {"required": [], **schema}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"message": " "},
        {"message": "x" * 2001},
        {"message": "x", "more": 1},
        {"message": "x", "schema": []},
        {"message": "x", "schema": fields()},
        {"message": "x", "schema": fields(a={"type": "object", "properties": {}})},
        {"message": "x", "schema": fields(a={"type": "array", "items": {"type": "string"}})},
        {"message": "x", "schema": fields(a={"type": "string", "pattern": "(a+)+"})},
        {"message": "x", "schema": fields(a={"type": "string", "format": "password"})},
        {"message": "x", "schema": fields(a={"type": "string", "enum": [1]})},
        {"message": "x", "schema": fields(a={"type": "integer", "default": "three"})},
        {"message": "x", "schema": fields(a={"type": "string", "minLength": "three"})},
        {"message": "x", "schema": fields(a={"type": "string"}) | {"required": ["b"]}},
        {"message": "x", "schema": fields(a={"type": "string"}) | {"$defs": {}}},
        {"message": "x", "schema": fields(**{"a b": {"type": "string"}})},
        {"message": "x", "schema": fields(**{f"f{number}": {"type": "string"} for number in range(FIELDS + 1)})},
        {"message": "x", "schema": fields(api_key={"type": "string"})},
        {"message": "x", "schema": fields(a={"type": "string", "title": "Your password"})},
        {"message": "x", "schema": fields(a={"type": "string", "description": "The PIN of your card"})},
    ],
)
def test_anything_else_is_refused_with_a_reason(arguments: dict[str, Any]) -> None:
    """Nested, unbounded, ill-formed, or a secret."""
    with pytest.raises(Unfit, match=r"\w"):
        form(ask(**arguments))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_no_schema_breaks_the_check(schema: Any) -> None:
    """Whatever a model writes is either a form or refused."""
    try:
        form(ask(message="x", schema={"type": "object", "properties": {"a": schema}}))
        form(ask(message="x", schema=schema))
    except Unfit:
        return


def test_what_cannot_be_seen_is_written_out() -> None:
    """Arguments read as they are, also where they would turn the line around."""
    assert shown({"to": "a\u202eb\u200bc"}, 100) == '{"to":"a\\u202eb\\u200bc"}'
    assert shown({"to": "x" * 50}, 10) == '{"to":"xxx… (59 characters)'
