"""Decides acts by a tenant's rules with Cedar; fills the kernel's `Policies`.

Deny wins, and whatever goes wrong is a denial: a rule whose condition fails, a set that Cedar does not accept, a
caller of another tenant. What was decided once is remembered until the rules change, since Cedar takes a tenth of a
millisecond and more, and the same question comes with every call.
"""

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, cast

import cedarpy

from mcp_agents.kernel.policy import ACTIONS, OPEN, Act, Decision, Judge
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.security.policy import rules
from mcp_agents.security.policy.book import Policy, PolicyBook, Rules
from mcp_agents.security.policy.paths import lies_under
from mcp_agents.security.policy.rules import PathRule, Rule, invalid

log = logging.getLogger("mcp_agents.policy")

_BASE: Final = "base"
_REMEMBERED: Final = 4096
_TENANTS: Final = 1024
_SCHEMA: Final = f"""
entity Caller {{ subject: String, client: String, roles: Set<String> }};
entity Thing {{ name: String }};
action {", ".join(ACTIONS)} appliesTo {{
  principal: [Caller], resource: [Thing],
  context: {{
    agent: String, labels: Set<String>, network: String, region: String, paths: Set<String>, approved: Bool
  }}
}};
"""
_FOREIGN: Final = Decision(effect="deny", reasons=("The caller is of another tenant.",))
_schema: Final = cedarpy.Schema.from_str(_SCHEMA)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A tenant's rules, ready to decide. `paths` are the conditions that are judged before Cedar is asked."""

    revision: int
    rules: dict[str, Rule]
    policies: cedarpy.PolicySet
    paths: tuple[tuple[str, PathRule], ...]
    remembered: OrderedDict[object, Decision] = field(default_factory=OrderedDict)

    def decide(self, principal: Principal, act: Act) -> Decision:
        """What the rules say, remembered or asked anew."""
        held = frozenset(flag for flag, rule in self.paths if lies_under(act.arguments, rule.argument, rule.under))
        question = (
            principal.subject, principal.client, principal.roles, act.action, act.resource, act.agent, act.labels,
            act.network, act.region, act.approved, held,
        )  # fmt: skip
        known = self.remembered.get(question)
        if known is not None:
            self.remembered.move_to_end(question)
            return known
        decision = self._decided(principal, act, held)
        self.remembered[question] = decision
        if len(self.remembered) > _REMEMBERED:
            self.remembered.popitem(last=False)
        return decision

    def _decided(self, principal: Principal, act: Act, held: frozenset[str]) -> Decision:
        allowed, names = self._asked(principal, act, held, approved=act.approved)
        if allowed:
            return self._because("allow", names)
        if not act.approved and self._asked(principal, act, held, approved=True)[0]:
            return self._because("ask", names)
        return self._because("deny", names)

    def _because(self, effect: Literal["allow", "deny", "ask"], names: tuple[str, ...]) -> Decision:
        found = [self.rules[name] for name in names if name in self.rules]
        return Decision(
            effect=effect,
            rules=tuple(name for name in names if name in self.rules),
            reasons=tuple(rule.reason for rule in found if rule.reason),
            by="other" if any(rule.by == "other" for rule in found) else "any",
        )

    def _asked(
        self, principal: Principal, act: Act, held: frozenset[str], *, approved: bool
    ) -> tuple[bool, tuple[str, ...]]:
        caller, thing = {"type": "Caller", "id": "caller"}, {"type": "Thing", "id": "thing"}
        request = {
            "principal": caller,
            "action": {"type": "Action", "id": act.action},
            "resource": thing,
            "context": {
                "agent": act.agent,
                "labels": sorted(act.labels),
                "network": act.network,
                "region": act.region,
                "paths": sorted(held),
                "approved": approved,
            },
        }
        who = {"subject": principal.subject, "client": principal.client, "roles": sorted(principal.roles)}
        entities = [
            {"uid": caller, "attrs": who, "parents": []},
            {"uid": thing, "attrs": {"name": act.resource}, "parents": []},
        ]
        try:
            result = cedarpy.is_authorized(request, self.policies, json.dumps(entities), _schema)
        except Exception:
            log.exception("a policy decision failed and counts as a denial")
            return False, ()
        if result.diagnostics.errors:
            log.error("a policy decision had errors and counts as a denial: %s", result.diagnostics.errors[:3])
            return False, ()
        named = cast(dict[str, str | None], result.diagnostics.id_annotations_by_reason)
        names = tuple(sorted({named.get(reason) or reason for reason in result.diagnostics.reasons}))
        return result.decision == cedarpy.Decision.Allow, names


def compiled(book: Rules, revision: int = 0) -> Compiled:
    """The rules, ready to decide. Raises `Invalid` (`POLICY_INVALID`) with what Cedar has against them."""
    known = {name: policy.rule for name, policy in book.policies.items()}
    closed = [rules.closing(rule, name) for name, rule in known.items() if rule.effect == "close" and not rule.cedar]
    base = f'@id("{_BASE}")\npermit (principal, action, resource)'
    texts = [f"{base} unless {{ {' || '.join(f'({each})' for each in closed)} }};" if closed else f"{base};"]
    for name, rule in known.items():
        if rule.cedar:
            texts.append(_own(name, rule.cedar))
        elif rule.effect != "close":
            texts.append(rules.policy(name, rule))
    text = "\n".join(texts)
    found = cedarpy.validate_policies(text, _schema)
    if not found.validation_passed:
        raise invalid(f"Cedar does not accept it: {'; '.join(str(error.error) for error in found.errors[:3])}"[:500])
    paths = tuple(
        (rules.flag(name, side, number), path)
        for name, rule in known.items()
        for side, match in (("when", rule.when), ("unless", rule.unless))
        if match
        for number, path in enumerate(match.paths)
    )
    return Compiled(revision, known, cedarpy.PolicySet.from_str(text), paths)


def _own(name: str, text: str) -> str:
    """A rule's own Cedar text: one policy, which is given the rule's name."""
    try:
        found = json.loads(cedarpy.policies_to_json_str(text))
    except Exception as cause:
        raise invalid(f"Cedar cannot read it: {cause}"[:500]) from cause
    policies = found.get("staticPolicies", {})
    if len(policies) != 1 or found.get("templates"):
        raise invalid("A Cedar text is one policy, without templates.")
    if next(iter(policies.values())).get("annotations"):
        raise invalid("A Cedar text has no annotations: its name is the policy's.")
    return f'@id("{name}")\n{text}'


class PolicyEngine:
    """Decides for any tenant."""

    def __init__(self, book: PolicyBook) -> None:
        self.book = book
        self._compiled: dict[str, Compiled] = {}

    async def decide(self, space: TenantSpace, principal: Principal, act: Act) -> Decision:
        """See the port."""
        return (await self.judge(space, principal))(act)

    async def judge(self, space: TenantSpace, principal: Principal) -> Judge:
        """See the port."""
        if principal.tenant != space.tenant:
            return lambda _: _FOREIGN
        ready = await self.ready(space)
        return partial(ready.decide, principal) if ready else lambda _: OPEN

    async def set(self, space: TenantSpace, name: str, rule: Rule, *, by: str, expected: int | None = None) -> Policy:
        """Puts a rule in force; every process decides by it from its next question on.

        `expected` is the version it replaces, 0 for none. Raises `Invalid` (`POLICY_INVALID`), `Conflict`.
        """
        rules.check(name, rule)
        return await self.book.set(space, name, rule, by=by, expected=expected, judge=compiled)

    async def remove(self, space: TenantSpace, name: str, *, by: str, expected: int | None = None) -> None:
        """Takes a rule out of force; its versions stay. Raises `NotFound` (`POLICY_UNKNOWN`), `Conflict`."""
        await self.book.remove(space, name, by=by, expected=expected, judge=compiled)

    async def trial(self, space: TenantSpace, name: str, rule: Rule) -> tuple[Compiled, Compiled]:
        """The rules in force, and as they would be with this one; nothing is stored. Raises as `set` does."""
        rules.check(name, rule)
        found = (await self.book.rules(space)).value
        changed = Policy(name=name, rule=rule, version=1, updated_at=self.book.now(), updated_by="")
        return compiled(found), compiled(Rules(policies=found.policies | {name: changed}))

    async def ready(self, space: TenantSpace) -> Compiled | None:
        """The tenant's rules as they stand now; None where it has none."""
        revision = await self.book.revision(space)
        known = self._compiled.get(space.tenant)
        if known is None or known.revision != revision:
            if not revision:
                return None
            found = await self.book.rules(space)
            known = compiled(found.value, found.revision)
            if len(self._compiled) >= _TENANTS:
                self._compiled.clear()
            self._compiled[space.tenant] = known
        return known if known.rules else None
