"""What rules come to, decided by the real Cedar: deny wins, nothing widens, whatever fails is a denial."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.policy import ACTIONS, Act
from mcp_agents.kernel.principal import Principal
from mcp_agents.security.policy.book import Policy, Rules
from mcp_agents.security.policy.engine import Compiled, compiled
from mcp_agents.security.policy.paths import lies_under
from mcp_agents.security.policy.rules import Match, PathRule, Rule, check

ANN = Principal(tenant="a", subject="ann", scopes=frozenset(), client="cl_1", roles=frozenset({"operator"}))
CALL = Act(
    action="call_tool",
    resource="github/push",
    agent="ops",
    labels=frozenset({"secret"}),
    network="api.github.example",
    arguments={"path": "/srv/data/x"},
)


def ready(**rules: Rule) -> Compiled:
    """These rules, in force."""
    for name, rule in rules.items():
        check(name, rule)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return compiled(
        Rules(policies={n: Policy(name=n, rule=r, version=1, updated_at=now, updated_by="t") for n, r in rules.items()})
    )


def effect(act: Act = CALL, principal: Principal = ANN, **rules: Rule) -> str:
    """What becomes of an act."""
    return ready(**rules).decide(principal, act).effect


DIMENSIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "agents": ({"agents": ("op*",)}, {"agents": ("other",)}),
    "resources": ({"resources": ("github/*",)}, {"resources": ("gitlab/*",)}),
    "users": ({"users": ("ann",)}, {"users": ("bob",)}),
    "clients": ({"clients": ("cl_1",)}, {"clients": ("cl_2",)}),
    "roles": ({"roles": ("operator", "admin")}, {"roles": ("admin",)}),
    "labels": ({"labels": ("public", "secret")}, {"labels": ("public",)}),
    "networks": ({"networks": ("*.github.example",)}, {"networks": ("github.example",)}),
    "paths": (
        {"paths": (PathRule(argument="path", under=("/srv",)),)},
        {"paths": (PathRule(argument="path", under=("/etc",)),)},
    ),
}


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("side", ["when", "unless"])
def test_a_rule_is_about_what_it_says(dimension: str, side: str) -> None:
    """In each dimension one rule fits and one does not; `unless` is the other way round."""
    fits, misses = (Match(**each) for each in DIMENSIONS[dimension])
    for match, denies in ((fits, side == "when"), (misses, side == "unless")):
        rule = Rule(actions=("call_tool",), **{side: match})
        assert effect(rule=rule) == ("deny" if denies else "allow"), match


def test_a_models_region_is_a_dimension_too() -> None:
    """Models outside a region are forbidden."""
    rule = Rule(actions=("use_model",), unless=Match(regions=("eu-*",)))
    assert effect(Act(action="use_model", resource="m", region="eu-west"), rule=rule) == "allow"
    assert effect(Act(action="use_model", resource="m", region="us"), rule=rule) == "deny"
    assert effect(Act(action="use_model", resource="m"), rule=rule) == "deny"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_rule_is_for_its_actions_alone(action: str) -> None:
    """And without any for all of them."""
    for each in ACTIONS:
        act = Act(action=each, resource="x")
        assert effect(act, rule=Rule(actions=(action,))) == ("deny" if each == action else "allow")  # type: ignore[arg-type]
        assert effect(act, rule=Rule(when=Match(resources=("x",)))) == "deny"


def test_deny_wins_over_allow_and_ask() -> None:
    """Whatever else says yes."""
    act = ("call_tool",)
    rules: dict[str, Rule] = {
        "a": Rule(effect="allow", actions=act),
        "b": Rule(effect="deny", actions=act, reason="not now"),
        "c": Rule(effect="ask", actions=act),
    }
    found = ready(**rules).decide(ANN, CALL)  # type: ignore[arg-type]
    assert (found.effect, "b" in found.rules, "not now" in found.why) == ("deny", True, True)


def test_what_is_closed_needs_an_allow() -> None:
    """Default deny for what a tenant closes; other acts are as before."""
    closed = Rule(effect="close", actions=("call_tool",), when=Match(labels=("secret",)))
    opened = Rule(effect="allow", actions=("call_tool",), when=Match(resources=("github/push",)))
    assert effect(closed=closed) == "deny"
    assert effect(closed=closed, opened=opened) == "allow"
    other = Act(action="call_tool", resource="github/delete", labels=frozenset({"secret"}))
    assert effect(other, closed=closed, opened=opened) == "deny"
    assert effect(Act(action="call_tool", resource="github/delete"), closed=closed) == "allow"
    assert effect(Act(action="use_model", resource="m", labels=frozenset({"secret"})), closed=closed) == "allow"


def test_an_approval_opens_what_asks_and_nothing_else() -> None:
    """`by` is the stricter of two rules; with a denial beside it no approval helps."""
    ask = Rule(effect="ask", actions=("call_tool",), when=Match(resources=("github/*",)), reason="it is public")
    strict = Rule(effect="ask", actions=("call_tool",), by="other")
    found = ready(ask=ask, strict=strict).decide(ANN, CALL)
    assert (found.effect, found.by, found.rules) == ("ask", "other", ("ask", "strict"))
    approved = Act(action="call_tool", resource="github/push", approved=True)
    assert effect(approved, ask=ask, strict=strict) == "allow"
    assert effect(approved, ask=ask, no=Rule(actions=("call_tool",))) == "deny"


def test_a_condition_that_fails_is_a_denial() -> None:
    """Cedar would skip a rule whose condition has an error; here the act is refused."""
    overflow = "forbid(principal, action, resource) when { 9223372036854775807 + 1 == 0 };"
    assert effect(broken=Rule(cedar=overflow)) == "deny"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "forbid(principal, action, resource) when { context.nothing };",
        'forbid(principal, action == Action::"unknown", resource);',
        "permit(principal, action, resource); permit(principal, action, resource);",
        '@id("base") forbid(principal, action, resource);',
        "permit(principal == ?principal, action, resource);",
        "",
    ],
)
def test_a_cedar_text_that_does_not_fit_is_refused(text: str) -> None:
    """Unreadable, unknown to the schema, several, renamed, a template, or none: with a reason."""
    rule = Rule(cedar=text) if text else Rule()
    with pytest.raises(Invalid) as refused:
        ready(rule=rule)
    assert refused.value.code == "POLICY_INVALID"


def test_a_cedar_text_decides_under_its_policys_name() -> None:
    """And a permit in it gives nothing that a denial takes."""
    no = Rule(cedar='forbid(principal, action == Action::"call_tool", resource) when { context.agent == "ops" };')
    found = ready(mine=no, yes=Rule(cedar="permit(principal, action, resource);")).decide(ANN, CALL)
    assert (found.effect, found.rules) == ("deny", ("mine",))


@given(st.text(min_size=1, max_size=40).filter(lambda text: "*" not in text))
def test_a_text_is_only_ever_itself(text: str) -> None:
    """Quotes, braces, comments and code points of any kind stay inside the literal, or are refused."""
    rule = Rule(actions=("call_tool",), when=Match(resources=(text,), agents=(text,), labels=(text,)))
    try:
        check("r", rule)
    except Invalid:
        return
    act = Act(action="call_tool", resource=text, agent=text, labels=frozenset({text}))
    assert effect(act, r=rule) == "deny"
    assert effect(Act(action="call_tool", resource=f"{text}x", agent=text, labels=act.labels), r=rule) == "allow"


@pytest.mark.parametrize(
    "text", ['" || true || "', '") };\npermit(principal, action, resource); //', "\\", '\\"', "${x}"]
)
def test_an_injection_denies_only_its_own_text(text: str) -> None:
    """What tries to end the literal is compared like any other text."""
    if "\n" in text:
        with pytest.raises(Invalid):
            check("r", Rule(when=Match(resources=(text,))))
        return
    assert effect(r=Rule(when=Match(resources=(text,)))) == "allow"
    assert effect(r=Rule(effect="close", actions=("call_tool",), when=Match(resources=(text,)))) == "allow"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(),
        Rule(effect="allow"),
        Rule(effect="close"),
        Rule(effect="ask", actions=("use_model",)),
        Rule(actions=("call_tool",), unless=Match()),
        Rule(actions=("call_tool",), reason="x" * 257),
        Rule(actions=("call_tool",), when=Match(agents=("",))),
        Rule(actions=("call_tool",), when=Match(agents=("x",) * 65)),
        Rule(actions=("call_tool",), when=Match(paths=(PathRule(argument="p", under=()),))),
        Rule(actions=("call_tool",), cedar="permit(principal, action, resource);"),
    ],
)
def test_a_rule_that_says_nothing_or_too_much_is_refused(rule: Rule) -> None:
    """Each with what is wrong."""
    with pytest.raises(Invalid) as refused:
        check("r", rule)
    assert refused.value.code == "POLICY_INVALID"


UNDER = ["/srv/data", "/srv/data/", "/srv/data/x", "/srv/data/a/../b", "/srv//data/x", "/srv/data/%61", "/srv/data/./x"]
OUTSIDE = [
    "", "/", "/srv", "/srv/database", "/srv/data/..", "/srv/data/../x", "/srv/data/../../etc/passwd", "srv/data/x",
    "./srv/data", "../srv/data", "/srv/data/%2e%2e/x", "/srv/data/%2e%2e%2fx", "/srv/data/%252e%252e/x",
    "/srv/data/%25252e%25252e/x", "/srv/data/%2525252e%2525252e/x", "/srv/data/..%2fx", "/srv/data/..%5cx",
    "/srv/data\\..\\x", "\\srv\\data", "/srv/data/\x00", "/srv/data/\n../x", "/srv/data/%00", "/srv/data/%0a",
    "/srv/data/\u2025/x", "/srv/data/\uff0e\uff0e/x", "/srv/data/\u202e", "/srv/data/%c0%ae%c0%ae/x",
    "/srv/data/%ff", "/SRV/data/x", " /srv/data/x", "/srv/data/x ", "file:///srv/data/x", "file://host/srv/data/x",
    "http://h/srv/data/x", "~/srv/data", "$HOME/srv/data", "C:/srv/data", "/srv/data/x/%2E%2E/%2E%2E/y",
    "//srv/../data",
    "/proc/self/root/srv/data/x",
]  # fmt: skip


@pytest.mark.parametrize("text", UNDER)
def test_a_path_below_is_below(text: str) -> None:
    """Repeated slashes, dots and harmless escapes."""
    assert lies_under({"path": text}, "path", ("/srv/data",))


@pytest.mark.parametrize("text", OUTSIDE)
def test_no_spelling_gets_out(text: str) -> None:
    """Forty ways out, or ways to be read twice."""
    assert len(OUTSIDE) >= 40
    assert not lies_under({"path": text}, "path", ("/srv/data",))


@pytest.mark.parametrize(
    "value", [None, 7, True, {}, [], ["/srv/data/x", "/etc"], [["/srv/data/x"]], {"a": "/srv/data"}]
)
def test_what_is_no_path_lies_under_nothing(value: Any) -> None:
    """Nor does a list with one entry outside."""
    assert not lies_under({"path": value}, "path", ("/srv/data",))
    assert lies_under({"path": ["/srv/data/x", "/srv/data/y"]}, "path", ("/srv/data",))


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("https://h.example/a/b", True), ("HTTPS://H.example:443/a/", True), ("https://h.example/a/../b", False),
        ("https://h.example.evil/a/b", False), ("https://u@h.example/a/b", False), ("http://h.example/a/b", False),
        ("https://h.example:8443/a/b", False), ("https://h.example/ab", False), ("//h.example/a", False),
        ("https:\\\\h.example\\a", False), ("https://h.example/a%2f..%2f..%2fb", False), ("https://[::1/a", False),
    ],
)  # fmt: skip
def test_an_address_lies_under_an_address(text: str, inside: bool) -> None:
    """Scheme, host and port are the same, and the path is below."""
    assert lies_under({"url": text}, "url", ("https://h.example/a",)) is inside
