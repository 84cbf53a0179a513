"""The two pages of a sign-in at a tool server: the one that says where it leads, and the one a browser comes back to;
and what we say of ourselves there.

Whoever began the sign-in, and nobody else, can go through with it: both pages ask who is signed in to us in this
browser. Otherwise one person could have another's account tied to their own agents. What a sign-in is stands in the
toolsets' `sign_ins`; the look and the headers are those of the authorization server's pages.
"""

import re
from typing import Final

from mcp_agents_auth import pages
from mcp_agents_auth.forms import FormError, query_of
from mcp_agents_auth.http import cookie_name, sign_in_for
from mcp_agents_auth.users import User
from mcp_agents_tools.toolsets import oauth
from mcp_agents_tools.toolsets.sign_ins import CALLBACK, DOCUMENT, START, Flow, SignIns, at_authority
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_agents.kernel.errors import AgentsError, Denied, NotFound
from mcp_agents.kernel.policy import require_reach
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES, of_roles
from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.server import rendering
from mcp_agents.server.compose import House

_CLIENT: Final = "sign-in-page"
_AUTHORITY: Final = re.compile(r"[0-9a-f]{32}")


def routes(house: House) -> list[Route]:
    """Both pages, and the documents in which we describe ourselves as a client, one for each authorization server."""
    desk = _Desk(house)
    return [
        Route(START, desk.start, methods=["GET"]),
        Route(CALLBACK, desk.callback, methods=["GET"]),
        Route(DOCUMENT, desk.document, methods=["GET"]),
    ]


class _Desk:
    def __init__(self, house: House) -> None:
        self._house, self._auth = house, house.auth
        self._sign_ins: SignIns = house.sign_ins
        self._cookie = cookie_name(house.auth.issuer)

    async def document(self, request: Request) -> Response:
        """A client ID metadata document: its own address is our client id."""
        authority = request.path_params["authority"]
        if not _AUTHORITY.fullmatch(authority):
            return Response(status_code=404)
        here = {"authority": authority}
        described = oauth.described(self._house.public_url + CALLBACK.format(**here))
        return JSONResponse({"client_id": self._house.public_url + DOCUMENT.format(**here), **described})

    async def start(self, request: Request) -> Response:
        """Where it leads, and for whom; a link goes on."""
        try:
            named = query_of(request).once().get("flow", "")
            user = await self._user(request)
            if user is None:
                back = sign_in_for(self._auth.issuer, {"flow": named})
                return RedirectResponse(back, 303, pages.security_headers())
            principal, space, flow = await self._found(user, named)
            server = (await self._house.tool_servers.stored(space, flow.server)).value
            href = await self._sign_ins.leads_to(space, _handle(named), flow)
        except (AgentsError, FormError) as error:
            return _said(error)
        facts = [
            ("Tool server", f"{server.name} at {server.url}"),
            ("You sign in at", flow.issuer),
            ("Used for", flow.for_whom),
            ("In the tenant", principal.tenant),
        ]
        return pages.leading_page("Sign in at a tool server", href, "Go on to sign in", user=user, facts=facts)

    async def callback(self, request: Request) -> Response:
        """Takes the code, keeps what it gives, and lists the server's tools if that could not be done before."""
        try:
            query = query_of(request).once()
            state = query.get("state", "")
            user = await self._user(request)
            if user is None:
                raise _gone()
            principal, space, flow = await self._found(user, state)
            if request.path_params["authority"] != at_authority("{authority}", flow.issuer):
                raise _gone()
            if "code" not in query:
                await self._sign_ins.give_up(space, _handle(state))
                return pages.message_page("Not signed in", f"The sign-in at {flow.server} was refused.", status=400)
            await self._sign_ins.finish(space, _handle(state), flow, query["code"], query.get("iss", ""))
            tools = await self._listed(space, principal, flow)
        except (AgentsError, FormError) as error:
            return _said(error)
        return pages.message_page(
            "Signed in", f"{flow.server} can now be used for {flow.for_whom}. {tools} You can close this page."
        )

    async def _listed(self, space: TenantSpace, principal: Principal, flow: Flow) -> str:
        servers = self._house.tool_servers
        known = await servers.get(space, flow.server)
        if known.tools:
            return ""
        try:
            await require_reach(self._house.services.policies, space, principal, known.target)
            found = await servers.refresh(space, principal, flow.server)
        except AgentsError:
            return "Its tools could not be listed yet; tool_server_refresh does that."
        return f"It has {len(found.tools)} tools."

    async def _user(self, request: Request) -> User | None:
        return await self._auth.sessions.user_of(request.cookies.get(self._cookie, ""))

    async def _found(self, user: User, named: str) -> tuple[Principal, TenantSpace, Flow]:
        """The sign-in that this person began in a tenant that they are still in. Raises `NotFound`."""
        tenant = named.partition(".")[0]
        roles = user.roles(tenant)
        if not roles:
            raise _gone()
        try:
            await self._auth.tenants.require_active(tenant)
        except (NotFound, Denied):
            raise _gone() from None
        scopes = of_roles(roles) & TENANT_SCOPES
        principal = Principal(tenant=tenant, subject=user.id, client=_CLIENT, scopes=scopes, roles=roles)
        space = self._house.tenancy.of(principal)
        flow = await self._sign_ins.find(space, _handle(named), user.id)
        if flow is None:
            raise _gone()
        try:
            server = (await self._house.tool_servers.stored(space, flow.server)).value
        except NotFound:
            raise _gone() from None
        if server.key != flow.key:
            raise _gone()  # another one by now, to which nothing of this may go
        if not self._sign_ins.is_own(flow, user.id):
            principal.require("toolservers:write")  # it was held when this began
        return principal, space, flow


def _handle(named: str) -> str:
    return named.partition(".")[2]


def _gone() -> NotFound:
    return NotFound(
        "SIGN_IN_UNKNOWN",
        "This sign-in was finished, is too old, or is somebody else's.",
        "Call tool_server_authorize again and open its link in the browser where you are signed in here.",
    )


def _said(error: Exception) -> Response:
    if isinstance(error, FormError):
        return pages.message_page("This request cannot be read", error.description, status=error.status)
    if not isinstance(error, AgentsError):
        raise error
    status = rendering.HTTP_STATUS[error.kind]
    return pages.message_page("Not signed in", f"{error.public} {error.next_step}", status=status)
