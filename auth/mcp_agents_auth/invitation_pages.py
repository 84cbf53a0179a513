"""The page behind an invitation's link: it says who invites, and takes the password that makes a member.

What an invitation is stands in `invitations`; how pages look, in `pages`; the other pages are `http`'s.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from mcp_agents.kernel.errors import AgentsError, Denied, Exhausted, Fault, Invalid, Unavailable
from mcp_agents_auth import pages
from mcp_agents_auth.forms import FormError, body_of, query_of
from mcp_agents_auth.handles import new_handle
from mcp_agents_auth.invitations import Invitations
from mcp_agents_auth.sessions import BrowserSessions, form_token, form_token_fits
from mcp_agents_auth.tenants import Tenants

PURPOSE: Final = "invitation"


class InvitationPages:
    """Shows an invitation and accepts it."""

    def __init__(
        self, issuer: str, cookie: str, invitations: Invitations, tenants: Tenants, sessions: BrowserSessions
    ) -> None:
        self._cookie, self._secure = cookie, issuer.startswith("https:")
        self._action, self._sign_out = f"{issuer}/oauth/invitation", f"{issuer}/oauth/sign-out"
        self._invitations, self._tenants, self._sessions = invitations, tenants, sessions

    async def show(self, request: Request) -> Response:
        """The page, whoever sits in front of the browser."""
        cookie = request.cookies.get(self._cookie, "") or new_handle()
        try:
            response = await self._page(query_of(request).once().get("token", ""), cookie)
        except (AgentsError, FormError) as error:
            return _refused(error)
        return self._with_cookie(response, cookie)

    async def accept(self, request: Request) -> Response:
        """Makes the person a member and signs them in."""
        cookie = request.cookies.get(self._cookie, "")
        try:
            form = (await body_of(request)).once()
            if not form_token_fits(cookie, PURPOSE, form.get("csrf", "")):
                return pages.message_page("Not accepted", "This form is too old. Start again.", status=403)
            token = form.get("token", "")
            try:
                user = await self._invitations.accept(token, form.get("password", ""))
            except (Denied, Invalid, Exhausted) as error:
                status = 429 if isinstance(error, Exhausted) else 400 if isinstance(error, Invalid) else 401
                return await self._page(token, cookie, f"{error.public} {error.next_step}", status)
            fresh = await self._sessions.start(user)
        except (AgentsError, FormError) as error:
            return _refused(error)
        return self._with_cookie(pages.signed_in_page(self._sign_out), fresh)

    async def _page(self, token: str, cookie: str, error: str = "", status: int = 200) -> Response:
        invitation, user = await self._invitations.find(token)
        tenant = await self._tenants.get(invitation.tenant)
        return pages.invitation_page(
            self._action,
            form_token=form_token(cookie, PURPOSE),
            token=token,
            facts=[("To", f"{tenant.title} ({tenant.name})"), ("As", ", ".join(invitation.roles))],
            email=invitation.email,
            known=user is not None,
            error=error,
            status=status,
        )

    def _with_cookie(self, response: Response, value: str) -> Response:
        response.set_cookie(self._cookie, value, httponly=True, samesite="lax", secure=self._secure, path="/")
        return response


def _refused(error: Exception) -> Response:
    match error:
        case FormError():
            return pages.message_page("This request cannot be read", error.description, status=error.status)
        case Unavailable() | Exhausted() | Fault():
            return pages.message_page("Try again in a moment", error.public, status=503)
        case Denied():
            return pages.message_page("Invitation not valid", error.public, status=404)
        case _:
            raise error
