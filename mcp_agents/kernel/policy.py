"""Port: may this be done? One question for every gate: surface tools, runs, models, tools, agents, networks.

The engine behind it is `security.policy`. Whoever asks has fixed the tenant and the caller's scope before: a policy
can only take away what those leave, never give more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, get_args
from urllib.parse import urlsplit

from mcp_agents.kernel.errors import Denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace

Action = Literal["use_tool", "run_agent", "delegate", "use_model", "call_tool", "reach_network"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One thing that is about to be done.

    `resource` by action: the name of a tool we offer (`use_tool`), of an agent (`run_agent`, `delegate`), of a model
    (`use_model`), `server/tool` (`call_tool`), a host name (`reach_network`). `agent` is the name of the agent that
    acts, "" for a person. `labels` are the tags of the agents involved. `network` is the host that a tool server is
    at, `region` where a model computes. `arguments` are a tool call's. `approved`: a person said yes to exactly this.
    """

    action: Action
    resource: str
    agent: str = ""
    labels: frozenset[str] = frozenset()
    network: str = ""
    region: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    approved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`ask`: only when a person approves, `by` anybody with the right or another than who asked for the run.

    `rules` are the names of the rules that decided, `reasons` what they say of themselves. Nothing decided an act
    that is allowed because nothing speaks against it.
    """

    effect: Literal["allow", "deny", "ask"]
    rules: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    by: Literal["any", "other"] = "any"

    @property
    def why(self) -> str:
        """The decision in a sentence that may be shown to whoever asked."""
        if not self.rules:
            return "Nothing allows it." if self.effect == "deny" else "Nothing speaks against it."
        said = "; ".join(dict.fromkeys(filter(None, self.reasons)))
        return f"Decided by {', '.join(self.rules)}{f': {said}' if said else ''}.".replace("..", ".")


OPEN: Final = Decision(effect="allow")
"""Nothing speaks against it."""


class Policies(Protocol):
    """Decides acts by a tenant's rules."""

    async def decide(self, space: TenantSpace, principal: Principal, act: Act) -> Decision:
        """What the rules say. Raises `Unavailable` when they cannot be read; what fails otherwise is a denial."""
        ...

    async def judge(self, space: TenantSpace, principal: Principal) -> "Judge":
        """The same for many acts of one caller at one moment, such as a list that is shown."""
        ...


Judge = Callable[[Act], Decision]


def denied(decision: Decision) -> Denied:
    """The refusal of an act that is not allowed."""
    return Denied(
        "POLICY_DENIED",
        f"A policy does not allow this. {decision.why}",
        "Do something else, or ask an administrator to change the policy.",
        details={"policies": list(decision.rules)},
    )


async def require_reach(policies: Policies, space: TenantSpace, principal: Principal, url: str) -> None:
    """Raises `Denied` (`POLICY_DENIED`) where the tenant's rules keep the host of an address off limits."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return  # it is no address at all, which whoever connects says better
    if not host:
        return
    decision = await policies.decide(space, principal, Act(action="reach_network", resource=host, network=host))
    if decision.effect != "allow":
        raise denied(decision)
