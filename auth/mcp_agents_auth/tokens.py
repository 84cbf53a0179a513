"""Issues access tokens: the claims of RFC 9068, signed, always under a grant family.

It does not decide whether to: the grants do. Command-line tokens (`issue_direct`) are for whoever holds the
data folder, and stand under a family too, so that they can be revoked.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.scopes import PLATFORM_ADMIN, TENANT_SCOPES
from mcp_agents_auth.families import Families, Family
from mcp_agents_auth.resources import Resources
from mcp_agents_auth.signing import SigningKeys
from mcp_agents_auth.tenants import Tenants

ACCESS_SECONDS: Final = 3600
MAX_DIRECT_SECONDS: Final = 30 * 24 * 3600
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name (RFC 8693)
DIRECT_CLIENT: Final = "mcp-agents-cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """An access token and what it is; `refresh_token` is None where the grant has none."""

    access_token: str
    expires_in: int
    scope: str
    tenant: str
    sid: str
    refresh_token: str | None = None
    exchanged: bool = False
    bound: bool = False

    def as_response(self) -> dict[str, str | int]:
        """The members of a token response (RFC 6749 §5.1) and `tenant`."""
        answer: dict[str, str | int] = {
            "access_token": self.access_token,
            "token_type": "DPoP" if self.bound else "Bearer",
            "expires_in": self.expires_in,
            "scope": self.scope,
            "tenant": self.tenant,
        }
        if self.exchanged:
            answer["issued_token_type"] = ACCESS_TOKEN
        return answer | ({"refresh_token": self.refresh_token} if self.refresh_token else {})


class TokenIssuer:
    """Signs access tokens for `resources` in the name of `issuer`."""

    def __init__(
        self,
        *,
        issuer: str,
        resources: Resources,
        signing: SigningKeys,
        families: Families,
        tenants: Tenants,
        clock: Clock,
    ) -> None:
        self.issuer, self.resources = issuer, resources
        self._signing, self._families, self._tenants, self._clock = signing, families, tenants, clock

    async def issue(
        self,
        family: Family,
        scopes: frozenset[str],
        roles: frozenset[str],
        *,
        ttl: int = ACCESS_SECONDS,
        refresh_token: str | None = None,
        more: dict[str, Any] | None = None,
        exchanged: bool = False,
    ) -> IssuedToken:
        """An access token of this family, valid for `ttl` seconds or as long as the family.

        `more` are claims beside or instead of the usual ones.
        """
        now = int(self._clock.now().timestamp())
        expires = min(now + ttl, int(family.expires_at.timestamp()))
        scope = " ".join(sorted(scopes))
        bound = {"cnf": {"jkt": family.jkt}} if family.jkt else {}
        token = await self._signing.sign(
            {
                "iss": self.issuer,
                "sub": family.subject,
                "aud": family.resource,
                "client_id": family.client_id,
                "scope": scope,
                "tenant": family.tenant,
                "roles": sorted(roles),
                "iat": now,
                "exp": expires,
                "jti": secrets.token_urlsafe(16),
                "sid": family.sid,
                **bound,
                **(more or {}),
            }
        )
        return IssuedToken(
            access_token=token,
            expires_in=expires - now,
            scope=scope,
            tenant=family.tenant,
            sid=family.sid,
            refresh_token=refresh_token,
            exchanged=exchanged,
            bound=bool(family.jkt),
        )

    async def issue_direct(
        self,
        tenant: str,
        scopes: frozenset[str] | None = None,
        *,
        ttl: int = ACCESS_SECONDS,
        subject: str = "operator",
    ) -> IssuedToken:
        """A token for scripts, issued by whoever holds the data folder.

        Without `scopes` it carries all of the tenant's own; `platform:admin` only when named. Raises `Invalid`
        for unknown scopes or a ttl outside 1 s to 30 days, `NotFound` or `Denied` for the tenant.
        """
        scopes = TENANT_SCOPES if scopes is None else scopes
        if not scopes or scopes - TENANT_SCOPES - {PLATFORM_ADMIN}:
            raise Invalid("SCOPE_UNKNOWN", "There is no such scope.", "Use {area}:{verb}, such as agents:read.")
        if not 1 <= ttl <= MAX_DIRECT_SECONDS:
            raise Invalid("TTL_INVALID", "A token lives 1 second to 30 days.", "Use --ttl with 1 to 2592000.")
        await self._tenants.require_active(tenant)
        now = self._clock.now()
        family = Family(
            sid=self._families.new_sid(),
            kind="direct",
            tenant=tenant,
            subject=subject,
            client_id=DIRECT_CLIENT,
            scopes=sorted(scopes),
            resource=self.resources.default,
            created_at=now,
            expires_at=now + timedelta(seconds=ttl),
        )
        await self._families.open(family)
        return await self.issue(family, scopes, frozenset(), ttl=ttl)
