"""A tenant's rules as they are stored, and every version of each.

All rules in force are one record, so that whoever decides learns from its revision alone whether anything changed;
it is kept in memory and told of changes. A version is written before the rule that it is of. Below: `kernel.tenancy`.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, NotFound, Unavailable, WrongRevision
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.security.policy.rules import LIMIT, Rule, invalid

_RULES = "rules"
_VERSION = "version"
_TRIES = 16


class Policy(Struct, frozen=True, kw_only=True):
    """A rule under its name; `version` counts its changes from 1, over deletions too."""

    name: str
    rule: Rule
    version: int
    updated_at: datetime
    updated_by: str


class Rules(Struct, frozen=True, kw_only=True):
    """Every rule of a tenant that is in force, by name."""

    v: int = 1
    policies: dict[str, Policy] = {}


class _Past(Struct, frozen=True, kw_only=True):
    """One version of a rule; `policy` is None for the version that deleted it."""

    v: int = 1
    policy: Policy | None


Judge = Callable[[Rules], object]


class PolicyBook:
    """Reads and changes rules; whether one may be in force is judged by whoever changes it (`engine`)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        """The time by which changes are dated."""
        return self._clock.now()

    async def revision(self, space: TenantSpace) -> int:
        """Grows with every change of a rule."""
        return await self._rules(space).revision(_RULES)

    async def rules(self, space: TenantSpace) -> Versioned[Rules]:
        """The rules in force."""
        return await self._rules(space).get(_RULES) or Versioned(Rules(), 0)

    async def get(self, space: TenantSpace, name: str) -> Policy:
        """One rule in force. Raises `NotFound` (`POLICY_UNKNOWN`)."""
        found = (await self.rules(space)).value.policies.get(name)
        if found is None:
            raise unknown()
        return found

    async def version(self, space: TenantSpace, name: str, version: int) -> Policy:
        """A version of a rule, in force or not. Raises `NotFound` (`POLICY_UNKNOWN`)."""
        found = await self._past(space).get(_VERSION, name, str(version)) if 0 < version < 10**6 else None
        if found is None or found.value.policy is None:
            raise unknown()
        return found.value.policy

    async def set(
        self, space: TenantSpace, name: str, rule: Rule, *, by: str, expected: int | None, judge: Judge
    ) -> Policy:
        """Puts a rule in force and returns it as it stands.

        `expected` is the version that is to be replaced, 0 for none; `judge` raises for rules that must not be in
        force together. Raises `Conflict` (`REVISION_CONFLICT`), `Invalid`.
        """
        made = await self._change(space, name, rule, by=by, expected=expected, judge=judge)
        return made or await self.get(space, name)

    async def remove(self, space: TenantSpace, name: str, *, by: str, expected: int | None, judge: Judge) -> None:
        """Takes a rule out of force. Raises `NotFound` (`POLICY_UNKNOWN`), and as `set` does."""
        await self._change(space, name, None, by=by, expected=expected, judge=judge)

    async def _change(
        self, space: TenantSpace, name: str, rule: Rule | None, *, by: str, expected: int | None, judge: Judge
    ) -> Policy | None:
        for _ in range(_TRIES):
            found = await self.rules(space)
            held = found.value.policies.get(name)
            if expected is not None and expected != (held.version if held else 0):
                raise _moved_on()
            if rule is None and held is None:
                raise unknown()
            if held is not None and held.rule == rule:
                return held
            last = held.version if held else await self._last(space, name)
            made = _made(name, rule, last + 1, self._clock.now(), by)
            others = {key: each for key, each in found.value.policies.items() if key != name}
            fresh = Rules(policies=dict(sorted((others | ({name: made} if made else {})).items())))
            if len(fresh.policies) > LIMIT:
                raise invalid(f"A tenant has at most {LIMIT} rules.")
            judge(fresh)
            with suppress(WrongRevision):  # somebody else got this far: the rules themselves decide who was first
                await self._past(space).create(_VERSION, name, str(last + 1), value=_Past(policy=made))
            try:
                await self._rules(space).update(_RULES, value=fresh, revision=found.revision)
            except WrongRevision:
                continue
            if made:  # what is kept of the version is what came into force
                await self._keep(space, name, _Past(policy=made))
            return made
        raise Unavailable("BUSY", "Too many changes at once.", "Try again.")

    async def _keep(self, space: TenantSpace, name: str, past: _Past) -> None:
        number = str(past.policy.version) if past.policy else ""
        there = await self._past(space).get(_VERSION, name, number)
        if there is not None and there.value != past:
            await self._past(space).update(_VERSION, name, number, value=past, revision=there.revision)

    async def _last(self, space: TenantSpace, name: str) -> int:
        return max(map(int, await self._past(space).names(_VERSION, name)), default=0)

    def _rules(self, space: TenantSpace) -> Records[Rules]:
        return space.records("cb_policies", Rules)

    def _past(self, space: TenantSpace) -> Records[_Past]:
        return space.records("cb_policies", _Past)


def unknown() -> NotFound:
    """There is no such policy."""
    return NotFound("POLICY_UNKNOWN", "There is no such policy.", "List them with policy_list.")


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")


def _made(name: str, rule: Rule | None, version: int, now: datetime, by: str) -> Policy | None:
    return Policy(name=name, rule=rule, version=version, updated_at=now, updated_by=by) if rule else None
