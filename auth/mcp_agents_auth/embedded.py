"""Puts the embedded authorization server together. The server's composer calls it once the port is known.

It starts nothing and owns nothing that has to be closed: all state is in the store behind the `PlatformSpace`,
so that any number of processes can hold one each.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Conflict, NotFound, WrongRevision
from mcp_agents.kernel.fetch import Fetch
from mcp_agents.kernel.rates import Rates, Unlimited
from mcp_agents.kernel.tenancy import PlatformSpace, Records
from mcp_agents.security.audit import AuditTrail
from mcp_agents.security.keys import Vault
from mcp_agents_auth.administration import TenantAdministration
from mcp_agents_auth.authorize import Authorization
from mcp_agents_auth.client_auth import ClientAuthentication
from mcp_agents_auth.client_credentials import ClientCredentials
from mcp_agents_auth.clients import JWT_BEARER, TOKEN_EXCHANGE, Clients
from mcp_agents_auth.codes import Codes
from mcp_agents_auth.documents import Documents
from mcp_agents_auth.dpop import Proofs
from mcp_agents_auth.exchange import Exchange
from mcp_agents_auth.families import Families
from mcp_agents_auth.identity_assertion import IdentityAssertion, IdentityProvider
from mcp_agents_auth.invitations import Invitations
from mcp_agents_auth.passwords import Passwords
from mcp_agents_auth.registration import Registration
from mcp_agents_auth.resources import Resources
from mcp_agents_auth.rights import CallerRights
from mcp_agents_auth.run_tokens import RunTokens
from mcp_agents_auth.service import Grant, Grants
from mcp_agents_auth.sessions import BrowserSessions
from mcp_agents_auth.signing import SigningKeys
from mcp_agents_auth.standing import Standings
from mcp_agents_auth.tenants import Tenants
from mcp_agents_auth.tokens import TokenIssuer
from mcp_agents_auth.users import Users
from mcp_agents_auth.verifier import TokenVerifier

FIRST_TENANT: Final = "default"
FIRST_OWNER: Final = "owner@localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomers:
    """Who is let in that is not known from here: clients that describe themselves in a document (`Documents`), or that
    register themselves (`Registration`), and members of a tenant of whom its identity provider says who they are."""

    fetch: Fetch | None
    domains: tuple[str, ...] = ()
    loopback: bool = False
    may_register: bool = False
    providers: tuple[IdentityProvider, ...] = ()


NONE: Final = Newcomers(fetch=None)


class Started(Struct, frozen=True, kw_only=True):
    """That the first start has happened."""

    v: int = 1
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthServer:
    """The rooms of the authorization server. `issuer` is the public URL, `resource` the MCP URL under it."""

    issuer: str
    resource: str
    tenants: Tenants
    users: Users
    invitations: Invitations
    clients: Clients
    documents: Documents
    registration: Registration
    families: Families
    signing: SigningKeys
    tokens: TokenIssuer
    verifier: TokenVerifier
    rights: CallerRights
    identities: RunTokens
    administration: TenantAdministration
    audit: AuditTrail
    authorization: Authorization
    service: Grants
    providers: tuple[IdentityProvider, ...]
    proofs: Proofs
    sessions: BrowserSessions
    clock: Clock
    started: Records[Started] = field(repr=False)

    async def bootstrap(self) -> str | None:
        """On the very first start: tenant `default`, its owner, and the path of the owner's one-time link.

        None on every later start. Of several processes that start at once, one gets a path. A start that died
        in the middle is made up for by the next one.
        """
        if await self.started.get("first") is not None:
            return None
        try:
            await self.tenants.get(FIRST_TENANT)
        except NotFound:
            await _unless_taken(self.tenants.create(FIRST_TENANT, "Default"))
        if await self.users.find(FIRST_OWNER) is None:
            await _unless_taken(self.users.create(FIRST_OWNER, None, FIRST_TENANT, frozenset({"admin"})))
        owner = await self.users.find(FIRST_OWNER)
        if owner is None:
            return None  # another process took the address this instant, and will hand out the link
        ticket = await self.users.create_ticket(owner)
        try:
            await self.started.create("first", value=Started(at=self.clock.now()))
        except WrongRevision:
            return None
        return f"/oauth/sign-in?ticket={ticket}"


def build_auth(
    platform: PlatformSpace,
    vault: Vault,
    clock: Clock,
    issuer: str,
    resource: str,
    *,
    passwords: Passwords | None = None,
    newcomers: Newcomers = NONE,
    rates: Rates | None = None,
) -> AuthServer:
    """The authorization server for one public address.

    Args:
        platform: where all of its records are.
        vault: seals the private signing keys.
        clock: what time is; every expiry goes by it.
        issuer: the public URL; a trailing slash is dropped.
        resource: the MCP URL (`{issuer}/mcp`), the default audience of every token.
        passwords: how passwords are hashed; the default costs what RFC 9106 advises.
        newcomers: which clients that nobody registered are let in, and whose word is taken; by default none.
        rates: how often a client may ask for tokens; by default as often as it likes.
    """
    issuer, resource = issuer.rstrip("/"), resource.rstrip("/")
    resources = Resources(resource)
    documents = Documents(platform, clock, newcomers.fetch, domains=newcomers.domains, loopback=newcomers.loopback)
    tenants, clients = Tenants(platform, clock), Clients(platform, clock, documents)
    audit = AuditTrail(platform, vault.derive("audit"), clock)
    users = Users(platform, clock, audit, passwords)
    families = Families(platform, clock, vault.derive("refresh-tokens"), audit)
    invitations = Invitations(platform, tenants, users, clients, clock)
    signing, codes = SigningKeys(platform, vault, clock), Codes(platform, families, clock)
    standings = Standings(tenants=tenants, users=users, clients=clients, families=families, clock=clock)
    tokens = TokenIssuer(
        issuer=issuer, resources=resources, signing=signing, families=families, tenants=tenants, clock=clock
    )
    verifier = TokenVerifier(issuer=issuer, resources=resources, signing=signing, standings=standings, clock=clock)
    rights = CallerRights(tenants=tenants, users=users, clients=clients, families=families, clock=clock)
    authorization = Authorization(
        issuer=issuer,
        resources=resources,
        tenants=tenants,
        clients=clients,
        families=families,
        codes=codes,
        clock=clock,
    )
    others: dict[str, Grant] = {
        "client_credentials": ClientCredentials(tenants, families, tokens, clock),
        TOKEN_EXCHANGE: Exchange(verifier, families, tokens, clock),
    }
    if newcomers.providers:
        others[JWT_BEARER] = IdentityAssertion(
            platform,
            newcomers.providers,
            tenants=tenants,
            users=users,
            families=families,
            tokens=tokens,
            clock=clock,
        )
    service = Grants(
        authentication=ClientAuthentication(platform, clients, clock, issuer, rates or Unlimited()),
        families=families,
        codes=codes,
        standings=standings,
        tokens=tokens,
        verifier=verifier,
        clock=clock,
        others=others,
    )
    return AuthServer(
        issuer=issuer,
        resource=resource,
        tenants=tenants,
        users=users,
        invitations=invitations,
        clients=clients,
        documents=documents,
        registration=Registration(clients, on=newcomers.may_register),
        families=families,
        signing=signing,
        tokens=tokens,
        verifier=verifier,
        rights=rights,
        identities=RunTokens(issuer, signing, rights, clock),
        authorization=authorization,
        service=service,
        providers=newcomers.providers,
        proofs=Proofs(platform, clock),
        administration=TenantAdministration(
            platform,
            tenants=tenants,
            users=users,
            clients=clients,
            families=families,
            invitations=invitations,
            standings=standings,
            issuer=issuer,
        ),
        audit=audit,
        sessions=BrowserSessions(platform, users, clock),
        clock=clock,
        started=platform.records("cb_auth", "started", kind=Started),
    )


async def _unless_taken(creation: Awaitable[object]) -> None:
    try:
        await creation
    except Conflict:
        return
