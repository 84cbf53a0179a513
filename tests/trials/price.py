"""What authentication, rates and policies cost a call: the same call with each of them on and off, in turns.

Off means that the gate is given a verifier which knows the answer, that nothing is counted, and that the tenant has no
rules. One client, one call at a time; the ways take turns by lot, call by call, so that whatever else the machine does
disturbs all of them alike. `decisions` is the engine alone.
"""

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from mcp_agents_auth.verifier import VerifiedToken
from starlette.applications import Starlette

from mcp_agents.kernel.policy import Act
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents.security.policy.rules import Match, Rule
from mcp_agents.server.compose import House
from mcp_agents.server.config import LimitSettings
from mcp_agents.server.http import app
from tests.hostile.wire import Wire, browserless
from tests.support.served import Served, served

RULES: Final = (0, 10, 200)
_FREE: Final = dict.fromkeys(LimitSettings.model_fields, 0)
_WAYS: Final = ("off", "authentication", "and rates", *(f"and {rules} rules" for rules in RULES[1:]))


class _Known:
    """A verifier that asks nobody."""

    def __init__(self, token: VerifiedToken) -> None:
        self._token = token

    issuer = ""

    async def verify(self, _: str) -> VerifiedToken:
        """Always the same caller."""
        return self._token

    async def again(self, token: VerifiedToken) -> VerifiedToken:
        """As good as before."""
        return token


@dataclass
class Found:
    """Seconds of each call, by way; and of decisions by number of rules, the first of its kind and remembered."""

    calls: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in _WAYS})
    decisions: dict[int, tuple[float, float]] = field(default_factory=dict)

    def ratio(self, way: str) -> float:
        """Its median against the median with everything off."""
        return median(self.calls[way]) / median(self.calls["off"])


async def trial(folder: Path, *, times: int, seed: int) -> Found:
    """Every way so many times, and as many decisions."""
    lot, found = random.Random(seed), Found()
    async with AsyncExitStack() as stack:
        open_ = await stack.enter_async_context(served(folder, workers=0))
        off = await stack.enter_async_context(_unguarded(folder / "off"))
        http = await stack.enter_async_context(browserless())
        uncounted = await stack.enter_async_context(served(folder / "uncounted", workers=0, limits=_FREE))
        wires = {
            "off": Wire(http, off.url, await off.token("plain")),
            "authentication": Wire(http, uncounted.url, await uncounted.token("plain")),
        }
        for rules in RULES:
            tenant = f"t{rules}"
            way = f"and {rules} rules" if rules else "and rates"
            wires[way] = Wire(http, open_.url, await open_.token(tenant))
            await _ruled(open_.house, tenant, rules)
            found.decisions[rules] = await _decisions(open_.house, tenant, times)
        for number in range(times + 10):
            for way in lot.sample(_WAYS, len(_WAYS)):
                began = perf_counter()
                answer = await wires[way].call("agent_list", {})
                took = perf_counter() - began
                assert answer.value["agents"] == []
                if number >= 10:
                    found.calls[way].append(took)
    return found


@asynccontextmanager
async def _unguarded(folder: Path) -> AsyncIterator[Served]:
    """A house whose gate knows its caller without looking."""

    def build(house: House) -> Starlette:
        principal = Principal(tenant="plain", subject="s", client="c", scopes=TENANT_SCOPES)
        token = VerifiedToken(
            principal=principal, expires_at=2**40, issued_at=0, client_id="c", resource="", jti="j", sid="s"
        )
        verifier: Any = _Known(token)
        return app(replace(house, verifier=verifier))

    async with served(folder, workers=0, build=build, limits=_FREE) as opened:
        yield opened


async def _ruled(house: House, tenant: str, rules: int) -> None:
    """Gives a tenant so many rules, none of which is about the call."""
    space = house.tenancy.of(Principal(tenant=tenant, subject="s", scopes=frozenset()))
    for number in range(rules):
        rule = Rule(actions=("call_tool",), when=Match(agents=(f"agent-{number}",), resources=(f"server-{number}/*",)))
        await house.services.policies.set(space, f"rule-{number}", rule, by="s")


async def _decisions(house: House, tenant: str, times: int) -> tuple[float, float]:
    """The median of first and of remembered decisions."""
    caller = Principal(tenant=tenant, subject="s", scopes=frozenset())
    judge = await house.services.policies.judge(house.tenancy.of(caller), caller)
    first: list[float] = []
    again: list[float] = []
    for number in range(times):
        act = Act(action="call_tool", resource=f"server/tool-{number}", agent="worker")
        for took in (first, again):
            began = perf_counter()
            judge(act)
            took.append(perf_counter() - began)
    return median(first), median(again)
