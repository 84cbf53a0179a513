"""Port: the credential under which a run acts elsewhere: its own, never the one that its caller came with.

Filled by the authorization server, which signs it; asked by whoever calls a tool server that wants to know for whom.
"""

from typing import Protocol

from mcp_agents.kernel.principal import Principal


class Identities(Protocol):
    """Tokens of runs."""

    async def token(self, principal: Principal, *, execution_id: str, audience: str, scope: str = "") -> str:
        """A signed access token for one audience, good for five minutes at most.

        It says for whom the run acts (`sub`, `tenant`) and through whom (`act`, out of `principal.actors`, RFC 8693).
        It carries what is left of the caller's rights now, of them only those in `scope` (separated by spaces; empty:
        all), and never an administrator's or the right to decide approvals. Raises `Denied` when the caller's rights
        were taken away, `Unavailable` when nobody can tell.
        """
        ...
