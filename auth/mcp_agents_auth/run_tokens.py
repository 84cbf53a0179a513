"""Fills the kernel's `Identities`: access tokens for runs, signed with our keys, narrower than any that people hold.

Not a grant: nobody asks for these at the token endpoint, and nothing refreshes them. They stand under the grant of
whoever asked for the run, so that its revocation ends them too; a local caller without a grant gets one that our own
resources do not take, but others may.
"""

import secrets
from typing import Any, Final

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.rights import Rights
from mcp_agents.kernel.scopes import TENANT_SCOPES
from mcp_agents_auth.signing import SigningKeys
from mcp_agents_auth.verifier import nested

LIFE_SECONDS: Final = 300
FIT_FOR_AGENTS: Final = frozenset(
    scope for scope in TENANT_SCOPES if not scope.endswith(":admin") and scope != "approvals:run"
)
"""All that a run may carry elsewhere: agents neither administer nor decide what people are asked."""
_LOCAL: Final = "local"


class RunTokens:
    """Signs tokens of runs in the name of `issuer`."""

    def __init__(self, issuer: str, signing: SigningKeys, rights: Rights, clock: Clock) -> None:
        self._issuer, self._signing, self._rights, self._clock = issuer, signing, rights, clock

    async def token(self, principal: Principal, *, execution_id: str, audience: str, scope: str = "") -> str:
        """See the port."""
        left = (await self._rights.now(principal)).scopes & FIT_FOR_AGENTS
        scopes = left & frozenset(scope.split()) if scope else left
        now = int(self._clock.now().timestamp())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": principal.subject,
            "aud": audience,
            "client_id": principal.client or _LOCAL,
            "scope": " ".join(sorted(scopes)),
            "tenant": principal.tenant,
            "iat": now,
            "exp": now + LIFE_SECONDS,
            "jti": secrets.token_urlsafe(16),
            "execution_id": execution_id,
        }
        if principal.grant:
            claims["sid"] = principal.grant
        if principal.actors:
            claims["act"] = nested(principal.actors)
        return await self._signing.sign(claims)
