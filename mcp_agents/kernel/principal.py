"""Who asks, as a value. Made at the door from a verified token, carried everywhere, changed nowhere.

A `Principal` is not a credential: it holds no token. `actors` is the chain of agents that act for the
caller; a run never has more rights than who asked for it.
"""

from dataclasses import dataclass, field, replace

from mcp_agents.kernel.errors import Denied


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller: `subject` of `tenant`, with `scopes`, through `client`, for whom `actors` act.

    `grant` names what the rights came from (the `sid` of a token), so that they can be looked at again later.
    """

    tenant: str
    subject: str
    scopes: frozenset[str]
    client: str = ""
    roles: frozenset[str] = field(default_factory=frozenset)
    actors: tuple[str, ...] = ()
    grant: str = ""

    def allows(self, scope: str) -> bool:
        """Whether the caller holds this scope. There is no implied scope."""
        return scope in self.scopes

    def require(self, scope: str) -> None:
        """Raises `Denied` with the scope to step up to, unless the caller holds it."""
        if scope not in self.scopes:
            raise Denied(
                "INSUFFICIENT_SCOPE",
                f"This needs the scope {scope}.",
                "Sign in again and grant it, or ask for a role that holds it.",
                details={"required_scopes": [scope]},
            )

    def acting(self, agent_id: str) -> "Principal":
        """The same caller with `agent_id` acting at the end of the chain."""
        return replace(self, actors=(*self.actors, agent_id))
