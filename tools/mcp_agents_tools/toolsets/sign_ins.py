"""How a call signs in at its tool server: with whose credential, or with which token of the run's own.

And how people get such a credential: a sign-in at the server's authorization server, begun by a tool call and finished
in the browser of the same person. Nobody's credential is used for anybody else. What is kept is `credentials`, what is
sent to authorization servers is `oauth`; the pages in front of people are the server's.
"""

import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import msgspec
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from msgspec import Struct

from mcp_agents.kernel import ids
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import Denied, Unavailable, WrongRevision
from mcp_agents.kernel.identity import Identities
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import RUN_AGENTS
from mcp_agents.kernel.tenancy import Records, TenantSpace
from mcp_agents.kernel.toolserver import Owner
from mcp_agents.security.secrets import TenantSecrets
from mcp_agents_tools.toolsets.credentials import Credentials, Secret, owner_name
from mcp_agents_tools.toolsets.oauth import (
    ACCESS_TOKEN,
    EXCHANGE,
    OauthClient,
    Place,
    RefusedError,
    Registered,
    UnreachableError,
    authorization_url,
)
from mcp_agents_tools.toolsets.records import StoredServer, secret_purpose
from mcp_agents_tools.toolsets.tokens import TokenSource

FLOW_SECONDS: Final = 600
CALLBACK: Final = "/oauth/upstream/callback/{authority}"
DOCUMENT: Final = "/oauth/upstream/client/{authority}.json"
START: Final = "/oauth/upstream/start"
_PURPOSE: Final = "sign-in"
_SHOWN_SECONDS: Final = 200
"""How long a token of a run's own is shown before it is made anew; it lives for 300."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Whose connection it is ("": the whole tenant's), and where its tokens come from, unless from its record."""

    owner: str = ""
    source: TokenSource | None = None
    single_use: bool = False
    """The connection is this run's alone and ends with it."""


class Flow(Struct, frozen=True, kw_only=True):
    """A sign-in that a person has begun; `sealed` is a `_Begun`."""

    v: int = 1
    server: str
    key: str
    owner: str
    for_whom: str
    subject: str
    issuer: str
    scope: str
    sealed: str
    expires_at: datetime


class _Begun(Struct, frozen=True, kw_only=True):
    place: Place
    us: Registered
    verifier: str


class SignIns:
    """Prepares calls, and carries sign-ins from their beginning to their end.

    Args:
        home: our public URL; the browser comes back to it.
        document: where we describe ourselves as a client of an `{authority}`; "" where nobody could read it.
    """

    def __init__(
        self,
        credentials: Credentials,
        client: OauthClient,
        identities: Identities,
        sealer: TenantSecrets,
        clock: Clock,
        home: str,
        document: str = "",
    ) -> None:
        self.credentials = credentials
        self._client, self._identities, self._secrets, self._clock = client, identities, sealer, clock
        self._home, self._document = home, document

    async def prepared(
        self, space: TenantSpace, principal: Principal, server: StoredServer, execution_id: str = ""
    ) -> Prepared:
        """How this caller, or the agent that acts for it, signs in. Raises `Denied`, `Unavailable`."""
        if server.auth_type == "token_exchange":
            own = _RunToken(self, space, principal, server, execution_id)
            await own.token()
            return Prepared(f"run.{execution_id}", own, single_use=True)
        if server.auth_type not in ("bearer", "authorization_code"):
            return Prepared()
        listing = server.credentials == "agent" and not execution_id
        if server.auth_type == "bearer" and (listing or server.credentials == "tenant"):
            return Prepared()
        owner = owner_of("tenant" if listing else server.credentials, principal)
        live = await self.credentials.live(space, server.key, owner)
        return Prepared(f"{owner}.{live.generation}", _Kept(self.credentials, space, server.key, owner))

    async def discover(self, url: str, issuer: str) -> Place:
        """The authorization server of a tool server. Raises `Unavailable`, `Invalid`, `Denied`."""
        try:
            return await self._client.discover(url, issuer)
        except UnreachableError:
            raise Unavailable(
                "SIGN_IN_UNAVAILABLE",
                "The tool server's authorization server cannot be found, or does not do as OAuth 2.1 says.",
                "Check the URL, or name the authorization server in auth.issuer.",
            ) from None

    async def begin(
        self, space: TenantSpace, principal: Principal, server: StoredServer, us: Registered, owner: str, for_whom: str
    ) -> str:
        """Begins a sign-in and returns the page for the person who asked: they, and nobody else, can finish it."""
        if not ids.is_id(principal.subject, "us"):
            raise Denied(
                "SIGN_IN_NEEDS_PERSON",
                "Only a person can sign in at a tool server, and this caller is none that has a page here.",
                "Ask from a client that a person has signed in with.",
            )
        place = await self.discover(server.url, server.issuer)
        if not us.client_id and self._document and place.reads_documents:
            us = Registered(client_id=at_authority(self._document, place.issuer))
        if not us.client_id:
            try:
                us = await self._client.register(place, self._way_back(place))
            except (RefusedError, UnreachableError):
                raise Unavailable(
                    "SIGN_IN_UNREGISTERED",
                    "The authorization server does not let clients register themselves.",
                    f"Register one there with the redirect URI {self._way_back(place)}, and add the tool server "
                    "with its auth.client_id (and auth.client_secret).",
                ) from None
        wanted = await self.credentials.wanted(space, server.key, owner)
        begun = _Begun(place=place, us=us, verifier=secrets.token_urlsafe(48))
        handle = secrets.token_urlsafe(32)
        text = msgspec.json.encode(begun).decode()
        flow = Flow(
            server=server.name,
            key=server.key,
            owner=owner,
            for_whom=for_whom,
            subject=principal.subject,
            issuer=place.issuer,
            scope=" ".join(dict.fromkeys(f"{server.scope or place.scope} {wanted}".split())),
            sealed=await self._secrets.seal(space, _PURPOSE, text),
            expires_at=self._clock.now() + timedelta(seconds=FLOW_SECONDS),
        )
        await _flows(space).create("sign-in", _digest(handle), value=flow, ttl=FLOW_SECONDS)
        return f"{self._home}{START}?flow={space.tenant}.{handle}"

    def is_ours(self, url: str) -> bool:
        """Whether an address is on this server as clients know it."""
        parts, home = urlsplit(url), urlsplit(self._home)
        return (parts.scheme, parts.netloc.lower()) == (home.scheme, home.netloc.lower())

    @staticmethod
    def is_own(flow: Flow, subject: str) -> bool:
        """Whether it is for this person alone."""
        return flow.owner == owner_name("user", subject)

    async def find(self, space: TenantSpace, handle: str, subject: str) -> Flow | None:
        """An open sign-in of this person."""
        found = await _flows(space).get("sign-in", _digest(handle))
        if found is None or found.value.subject != subject or found.value.expires_at <= self._clock.now():
            return None
        return found.value

    async def leads_to(self, space: TenantSpace, handle: str, flow: Flow) -> str:
        """The authorization server's page, with everything it needs to know."""
        begun = await self._begun(space, flow)
        return authorization_url(
            begun.place,
            begun.us.client_id,
            redirect_uri=self._way_back(begun.place),
            state=f"{space.tenant}.{handle}",
            scope=flow.scope,
            code_challenge=create_s256_code_challenge(begun.verifier),
            code_challenge_method="S256",
        )

    async def finish(self, space: TenantSpace, handle: str, flow: Flow, code: str, issuer: str) -> None:
        """Redeems the code, once, and keeps what it gives. Raises `Denied`, `Unavailable`."""
        begun, found = await self._begun(space, flow), await _flows(space).get("sign-in", _digest(handle))
        # RFC 9207: before the code goes anywhere, it must be clear who gave it.
        told = bool(issuer) or begun.place.says_issuer
        if found is None or (told and issuer != begun.place.issuer):
            raise _not_finished()
        try:
            await _flows(space).delete("sign-in", _digest(handle), revision=found.revision)
        except WrongRevision:
            raise _not_finished() from None
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._way_back(begun.place),
            "code_verifier": begun.verifier,
        }
        try:
            answer = await self._client.tokens(begun.place, begun.us, form)
        except (RefusedError, UnreachableError):
            raise _not_finished() from None
        secret = Secret(
            token=answer.access_token, refresh_token=answer.refresh_token or "", place=begun.place, us=begun.us
        )
        await self.credentials.put(space, flow.key, flow.owner, secret, answer.expires_in)

    async def give_up(self, space: TenantSpace, handle: str) -> None:
        """Ends a sign-in that the person refused."""
        with suppress(WrongRevision):
            if found := await _flows(space).get("sign-in", _digest(handle)):
                await _flows(space).delete("sign-in", _digest(handle), revision=found.revision)

    async def exchanged(self, place: Place, us: Registered, subject_token: str, scope: str) -> str:
        """Another server's token for a run's own (RFC 8693). Raises `Denied`, `Unavailable`."""
        form = {
            "grant_type": EXCHANGE,
            "subject_token": subject_token,
            "subject_token_type": ACCESS_TOKEN,
            "requested_token_type": ACCESS_TOKEN,
            **({"scope": scope} if scope else {}),
        }
        try:
            return (await self._client.tokens(place, us, form)).access_token
        except RefusedError as refused:
            raise Denied(
                "EXCHANGE_REFUSED",
                "The tool server's authorization server did not exchange the run's token.",
                "Check that it trusts this server's issuer, and auth.client_id and auth.scope.",
                details={"error": str(refused)[:64]},
            ) from None
        except UnreachableError:
            raise Unavailable(
                "CREDENTIAL_UNAVAILABLE", "The tool server's authorization server does not answer.", "Try again."
            ) from None

    async def token_of_run(
        self, space: TenantSpace, principal: Principal, server: StoredServer, execution_id: str
    ) -> str:
        """What a run shows at a server that wants to know for whom: its own token, exchanged where that is asked."""
        audience = server.issuer or server.url
        # Whoever adds a server to which everybody's agents go gets no more of their rights than running agents, unless
        # the record says so where all can read it.
        scope = server.scope or RUN_AGENTS
        token = await self._identities.token(principal, execution_id=execution_id, audience=audience, scope=scope)
        if not server.issuer:
            return token
        place = await self.discover(server.url, server.issuer)
        sealed = server.sealed_secret
        secret = await self._secrets.unseal(space, secret_purpose(server.name), sealed) if sealed else ""
        return await self.exchanged(place, Registered(client_id=server.client_id, secret=secret), token, scope)

    def monotonic(self) -> float:
        """The clock that tokens of runs are renewed by."""
        return self._clock.monotonic()

    def _way_back(self, place: Place) -> str:
        return self._home + at_authority(CALLBACK, place.issuer)

    async def _begun(self, space: TenantSpace, flow: Flow) -> _Begun:
        return msgspec.json.decode(await self._secrets.unseal(space, _PURPOSE, flow.sealed), type=_Begun)


class _Kept:
    """An owner's credential."""

    def __init__(self, credentials: Credentials, space: TenantSpace, server: str, owner: str) -> None:
        self._credentials, self._space, self._server, self._owner = credentials, space, server, owner

    async def token(self, refused: str = "") -> str:
        return (await self._credentials.live(self._space, self._server, self._owner, refused=refused)).token

    async def falls_short(self, scope: str) -> None:
        await self._credentials.falls_short(self._space, self._server, self._owner, scope)


class _RunToken:
    """A run's own token, made when one is needed and shown for a few minutes."""

    def __init__(
        self, sign_ins: SignIns, space: TenantSpace, principal: Principal, server: StoredServer, execution_id: str
    ) -> None:
        self._sign_ins, self._space, self._principal = sign_ins, space, principal
        self._server, self._execution_id = server, execution_id
        self._token, self._until = "", 0.0

    async def falls_short(self, scope: str) -> None:
        """What a run may do elsewhere is what its caller may do here: there is nothing to note."""

    async def token(self, refused: str = "") -> str:
        now = self._sign_ins.monotonic()
        if not self._token or self._token == refused or self._until <= now:
            self._token = await self._sign_ins.token_of_run(
                self._space, self._principal, self._server, self._execution_id
            )
            self._until = now + _SHOWN_SECONDS
        return self._token


def owner_of(kind: Owner, principal: Principal) -> str:
    """The owner's key part: of the tenant, of the caller, or of the agent that acts now."""
    if kind == "user":
        return owner_name("user", principal.subject)
    if kind == "agent":
        return owner_name("agent", principal.actors[-1] if principal.actors else "nobody")
    return owner_name("tenant")


def at_authority(template: str, issuer: str) -> str:
    """An address of ours for one authorization server alone. A code that comes back to another's was given by another:
    where an authorization server does not name itself (RFC 9207), this is what tells one from the other."""
    return template.replace("{authority}", hashlib.sha256(issuer.encode()).hexdigest()[:32])


def _flows(space: TenantSpace) -> Records[Flow]:
    return space.records("cb_leases", Flow)


def _digest(handle: str) -> str:
    return hashlib.sha256(handle.encode()).hexdigest()


def _not_finished() -> Denied:
    return Denied(
        "SIGN_IN_NOT_FINISHED",
        "The sign-in at the tool server was not finished.",
        "Call tool_server_authorize again and follow its new link.",
    )
