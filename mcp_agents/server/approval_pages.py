"""The page on which a person decides an approval in a browser, for clients that can only show a link.

Signing in, the cookie, the form's token and the headers are those of the authorization server's pages; what the
person may do follows from their roles in the tenant that the approval is found in. What a decision is, who may make
it and when it is too late is `execution.answering`'s.
"""

from typing import Final
from urllib.parse import urlsplit

from mcp_agents_auth import pages
from mcp_agents_auth.forms import FormError, body_of
from mcp_agents_auth.http import cookie_name, sign_in_for
from mcp_agents_auth.sessions import form_token, form_token_fits
from mcp_agents_auth.users import User
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mcp_agents.execution.asking import shown
from mcp_agents.execution.questions import Answer
from mcp_agents.execution.register import Asked
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError, Denied, NotFound
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import TENANT_SCOPES, of_roles
from mcp_agents.server import rendering
from mcp_agents.server.compose import House

CLIENT: Final = "approval-page"
"""The client in the principal of somebody who decides here."""
_SHOWN: Final = 20_000


def routes(house: House) -> list[Route]:
    """The page, under the public URL's own path and at the root."""
    desk = _Desk(house)
    return [
        Route(f"{prefix}/approvals/{{id}}", endpoint, methods=[method])
        for prefix in sorted({"", urlsplit(house.public_url).path.rstrip("/")})
        for endpoint, method in ((desk.show, "GET"), (desk.decide, "POST"))
    ]


class _Desk:
    def __init__(self, house: House) -> None:
        self._house = house
        self._cookie = cookie_name(house.auth.issuer)

    async def show(self, request: Request) -> Response:
        """The call, and what it would do."""
        approval_id = request.path_params["id"]
        cookie = request.cookies.get(self._cookie, "")
        user = await self._house.auth.sessions.user_of(cookie)
        if not ids.is_id(approval_id, "apr"):
            return _gone()
        sign_in = sign_in_for(self._house.auth.issuer, {"approval": approval_id})
        if user is None:
            return RedirectResponse(sign_in, 303, pages.security_headers())
        try:
            _, asked = await self._found(user, approval_id)
        except AgentsError as error:
            return _said(error)
        if asked.status != "open":
            return pages.message_page("Nothing to decide", f"This approval is {asked.status}.")
        return pages.approval_page(
            f"{self._house.auth.issuer}/approvals/{approval_id}",
            sign_in,
            form_token=form_token(cookie, _purpose(approval_id)),
            user=user,
            facts=_facts(asked),
        )

    async def decide(self, request: Request) -> Response:
        """Approve or refuse, once."""
        approval_id = request.path_params["id"]
        try:
            form = (await body_of(request)).once()
        except FormError as error:
            return pages.message_page("This request cannot be read", error.description, status=error.status)
        cookie = request.cookies.get(self._cookie, "")
        user = await self._house.auth.sessions.user_of(cookie)
        if user is None or not form_token_fits(cookie, _purpose(approval_id), form.get("csrf", "")):
            return pages.message_page("Not accepted", "This form is too old. Open the link again.", status=403)
        approve = form.get("decision") == "approve"
        answer = Answer(content={"approve": approve, "reason": form.get("reason", "")})
        try:
            principal, asked = await self._found(user, approval_id)
            space = self._house.tenancy.of(principal)
            await self._house.services.questions.answer(space, principal, asked.execution_id, approval_id, answer)
        except AgentsError as error:
            return _said(error)
        said = "The call is made." if approve else "The call is not made, and the agent is told."
        return pages.message_page("Approved" if approve else "Refused", f"{said} You can close this page.")

    async def _found(self, user: User, approval_id: str) -> tuple[Principal, Asked]:
        """The approval, in the one of the person's tenants that has it. Raises `NotFound`, `Denied`."""
        for tenant in sorted(user.memberships):
            try:
                await self._house.auth.tenants.require_active(tenant)
            except (NotFound, Denied):
                continue
            roles = user.roles(tenant)
            scopes = of_roles(roles) & TENANT_SCOPES
            principal = Principal(tenant=tenant, subject=user.id, client=CLIENT, scopes=scopes, roles=roles)
            if asked := await self._house.services.register.find(self._house.tenancy.of(principal), approval_id):
                principal.require("approvals:run")
                return principal, asked
        raise NotFound("APPROVAL_UNKNOWN", "There is no such approval.", "Look at the link again.")


def _purpose(approval_id: str) -> str:
    return f"approval|{approval_id}"


def _facts(asked: Asked) -> list[tuple[str, str]]:
    """What is shown; arguments as they are, every unseen character written out."""
    lines = [asked.message] if asked.arguments is None else []
    if isinstance(asked.arguments, dict):
        lines = [f"{shown(name, 200)}: {shown(value, _SHOWN)}" for name, value in asked.arguments.items()]
    return [
        ("Agent", f"{asked.agent_name}, version {asked.agent_version}"),
        ("Tool", asked.tool),
        ("Arguments", "\n".join(lines) or "none"),
        ("Asked for by", asked.asked_for),
        ("Until", asked.expires_at.strftime("%Y-%m-%d %H:%M UTC") if asked.expires_at else "decided"),
        *([("Note", asked.message)] if asked.arguments is not None else []),
    ]


def _gone() -> Response:
    return pages.message_page("Not found", "There is no such approval.", status=404)


def _said(error: AgentsError) -> Response:
    if isinstance(error, NotFound):
        return _gone()
    text = f"{error.public} {error.next_step}"
    return pages.message_page("Not decided", text, status=rendering.HTTP_STATUS[error.kind])
