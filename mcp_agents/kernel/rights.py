"""Port: what is left of a caller's rights at this moment.

A run outlives the request that asked for it, so its gates (model, tool, message, delegation) ask again. The
expiry of the caller's token takes nothing away from a run that was accepted; the revocation of the grant, the
suspension of the tenant, the person or the client, and a role that was taken away do.
"""

from typing import Protocol

from mcp_agents.kernel.principal import Principal


class Rights(Protocol):
    """Asked at every gate; answers from memory for at most five seconds."""

    async def now(self, principal: Principal) -> Principal:
        """The same caller with what is left of its scopes and the roles it has now.

        Raises `Denied` (`CALLER_REVOKED`, `TENANT_SUSPENDED`) when nothing may be done in its name any more, and
        `Unavailable` when nobody can tell.
        """
        ...
