"""The HTTP face of the authorization server: routes, cookies, status codes. No rule of OAuth is decided here.

Paths are answered under the issuer's own path and at the root, for proxies that strip it. URLs are built from
the issuer, never from the request's Host.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import AgentsError, Denied, Exhausted, Fault, Invalid, Unavailable
from mcp_agents_auth import pages, registration
from mcp_agents_auth.authorize import AuthorizeRequest
from mcp_agents_auth.embedded import AuthServer
from mcp_agents_auth.forms import Form, FormError, body_of, json_of, parse, query_of
from mcp_agents_auth.handles import new_handle
from mcp_agents_auth.invitation_pages import InvitationPages
from mcp_agents_auth.metadata import openid_configuration, server_metadata
from mcp_agents_auth.oauth import OAuthError, RedirectError
from mcp_agents_auth.sessions import form_token, form_token_fits

_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
_PUBLIC: Final = {"Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
_SIGN_IN: Final = "sign-in"
_SIGN_OUT: Final = "sign-out"
_FLOW: Final = re.compile(r"[a-z0-9-]{1,40}\.[A-Za-z0-9_-]{43}")

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(auth: AuthServer) -> list[Route]:
    """Every route of the authorization server. Raises `Invalid` for an issuer that clients would refuse."""
    machine, browser = _MachineEndpoints(auth), _BrowserEndpoints(auth)
    invited = InvitationPages(auth.issuer, cookie_name(auth.issuer), auth.invitations, auth.tenants, auth.sessions)
    path = urlsplit(auth.issuer).path
    server = f"/.well-known/oauth-authorization-server{path}"
    openid = {f"/.well-known/openid-configuration{path}", f"{path}/.well-known/openid-configuration"}
    documents, visitors, grants = auth.documents.on, auth.registration.on, auth.service.grant_types
    metadata = server_metadata(auth.issuer, grants, documents=documents, registration=visitors)
    table: list[tuple[str, Endpoint, str]] = [(server, _document(metadata), "GET")]
    metadata = openid_configuration(auth.issuer, grants, documents=documents, registration=visitors)
    table += [(place, _document(metadata), "GET") for place in sorted(openid)]
    for prefix in sorted({"", path}):
        table += [
            (f"{prefix}/oauth/jwks", machine.jwks, "GET"),
            (f"{prefix}/oauth/token", machine.token, "POST"),
            (f"{prefix}/oauth/revoke", machine.revoke, "POST"),
            (f"{prefix}/oauth/introspect", machine.introspect, "POST"),
            (f"{prefix}/oauth/authorize", browser.authorize, "GET"),
            (f"{prefix}/oauth/sign-in", browser.show_sign_in, "GET"),
            (f"{prefix}/oauth/sign-in", browser.sign_in, "POST"),
            (f"{prefix}/oauth/sign-out", browser.show_sign_out, "GET"),
            (f"{prefix}/oauth/sign-out", browser.sign_out, "POST"),
            (f"{prefix}/oauth/consent", browser.consent, "POST"),
            (f"{prefix}/oauth/invitation", invited.show, "GET"),
            (f"{prefix}/oauth/invitation", invited.accept, "POST"),
        ]
        if visitors:
            table.append((f"{prefix}/oauth/register", machine.register, "POST"))
    return [Route(place, endpoint, methods=[method]) for place, endpoint, method in table]


def key_routes(auth: AuthServer) -> list[Route]:
    """Only the keys, for who verifies tokens of our runs: where people sign in somewhere else."""
    machine = _MachineEndpoints(auth)
    return [Route(f"{prefix}/oauth/jwks", machine.jwks) for prefix in sorted({"", urlsplit(auth.issuer).path})]


def cookie_name(issuer: str) -> str:
    """The cookie of a signed-in browser; `__Host-` needs https."""
    if issuer.startswith("https:"):
        return "__Host-mcp-agents"
    # Cookies do not know ports: two servers on one machine would sign each other's people out.
    return f"mcp-agents-sign-in-{urlsplit(issuer).port or 80}"


def sign_in_for(issuer: str, back: dict[str, str]) -> str:
    """Where a browser signs in to come back to the page of an `approval` or of a `flow` at a tool server."""
    return f"{issuer}/oauth/sign-in?{urlencode({'next': urlencode(back)})}"


def _led_back(parameters: dict[str, str]) -> str:
    """The path of the page that a form leads back to; "" when it carries an authorization request, or nothing."""
    if ids.is_id(parameters.get("approval", ""), "apr"):
        return f"/approvals/{parameters['approval']}"
    if _FLOW.fullmatch(parameters.get("flow", "")):
        return f"/oauth/upstream/start?{urlencode({'flow': parameters['flow']})}"
    return ""


class _MachineEndpoints:
    """What programs call: JSON in answer, no cookies."""

    def __init__(self, auth: AuthServer) -> None:
        self._auth = auth

    async def jwks(self, _request: Request) -> Response:
        return JSONResponse(await self._auth.signing.jwks(), headers=_PUBLIC)

    async def token(self, request: Request) -> Response:
        async def answer(parameters: dict[str, str], authorization: str | None) -> Response:
            issued = await self._auth.service.token(parameters, authorization, await self._key_of(request))
            return JSONResponse(issued.as_response(), headers=_NO_STORE)

        return await self._answered(request, answer)

    async def _key_of(self, request: Request) -> str:
        """The key that the sender proves to hold; "" for a request that proves nothing."""
        proofs = request.headers.getlist("dpop")
        if not proofs:
            return ""
        try:
            return await self._auth.proofs.key_of(proofs, "POST", f"{self._auth.issuer}/oauth/token")
        except Denied as bad:
            raise OAuthError("invalid_dpop_proof", bad.public) from bad

    async def revoke(self, request: Request) -> Response:
        async def answer(parameters: dict[str, str], authorization: str | None) -> Response:
            await self._auth.service.revoke(parameters, authorization)
            return Response(headers=_NO_STORE)

        return await self._answered(request, answer)

    async def introspect(self, request: Request) -> Response:
        async def answer(parameters: dict[str, str], authorization: str | None) -> Response:
            return JSONResponse(await self._auth.service.introspect(parameters, authorization), headers=_NO_STORE)

        return await self._answered(request, answer)

    async def register(self, request: Request) -> Response:
        try:
            body = await json_of(request, registration.MAX_BYTES)
            return JSONResponse(await self._auth.registration.register(body), 201, headers=_NO_STORE)
        except FormError as error:
            return _refusal(error.status, "invalid_client_metadata", error.description)
        except OAuthError as error:
            return _refusal(400, error.code, error.description)
        except (Unavailable, Fault) as error:
            return _refusal(503, "temporarily_unavailable", error.public)

    async def _answered(
        self, request: Request, answer: Callable[[dict[str, str], str | None], Awaitable[Response]]
    ) -> Response:
        authorization = request.headers.get("authorization")
        try:
            form = await body_of(request)
            return await answer(form.once(), authorization)
        except FormError as error:
            return _refusal(error.status, "invalid_request", error.description)
        except OAuthError as error:
            if error.code != "invalid_client":
                return _refusal(400, error.code, error.description)
            challenge = {"WWW-Authenticate": 'Basic realm="mcp-agents"'} if authorization is not None else {}
            return _refusal(401, error.code, error.description, challenge)
        except Exhausted as error:
            wait = {"Retry-After": str(-(-(error.retry_after_ms or 1000) // 1000))}
            return _refusal(429, "temporarily_unavailable", error.public, wait)
        except (Unavailable, Fault) as error:
            return _refusal(503, "temporarily_unavailable", error.public)


class _BrowserEndpoints:
    """What a person's browser visits: pages, redirects and one cookie."""

    def __init__(self, auth: AuthServer) -> None:
        self._auth = auth
        self._secure = auth.issuer.startswith("https:")
        self._cookie = cookie_name(auth.issuer)
        self._sign_in_url = f"{auth.issuer}/oauth/sign-in"
        self._sign_out_url = f"{auth.issuer}/oauth/sign-out"
        self._consent_url = f"{auth.issuer}/oauth/consent"

    async def authorize(self, request: Request) -> Response:
        try:
            form = query_of(request)
            asked = await self._auth.authorization.validate(form.parameters, form.repeated)
            cookie = request.cookies.get(self._cookie, "")
            user = await self._auth.sessions.user_of(cookie)
            switch = f"{self._sign_in_url}?{urlencode({'next': form.encoded()})}"
            if user is None:
                return _redirect(switch)
            offers = await self._auth.authorization.offers(asked, user)
            if not offers:
                raise self._auth.authorization.refusal(asked)
        except (OAuthError, FormError, AgentsError) as error:
            return self._refused(error)
        return pages.consent_page(
            self._consent_url,
            switch,
            form_token=form_token(cookie, _consent_to(form.encoded())),
            request=asked,
            user=user,
            offers=offers,
            query=form.encoded(),
        )

    async def consent(self, request: Request) -> Response:
        try:
            form = (await body_of(request)).once()
            query, cookie = form.get("request", ""), request.cookies.get(self._cookie, "")
            user = await self._auth.sessions.user_of(cookie)
            if user is None or not form_token_fits(cookie, _consent_to(query), form.get("csrf", "")):
                return pages.message_page("Not accepted", "This form is too old. Start again.", status=403)
            _, asked = await self._asked(query)
            if asked is None:
                raise OAuthError("invalid_request", "The request is missing.")
            if form.get("decision") != "approve":
                raise self._auth.authorization.refusal(asked)
            return _redirect(await self._auth.authorization.approve(asked, user, form.get("tenant", "")))
        except (OAuthError, FormError, AgentsError) as error:
            return self._refused(error)

    async def show_sign_in(self, request: Request) -> Response:
        try:
            form = query_of(request).once()
            cookie = request.cookies.get(self._cookie, "") or new_handle()
            response = await self._sign_in_page(form, cookie)
        except (OAuthError, FormError, AgentsError) as error:
            # Whoever wrote this link is unknown: it may not send the browser anywhere, not even to a client.
            return self._refused(error, may_redirect=False)
        self._set_cookie(response, cookie)
        return response

    async def sign_in(self, request: Request) -> Response:
        try:
            form = (await body_of(request)).once()
            cookie = request.cookies.get(self._cookie, "")
            if not form_token_fits(cookie, _SIGN_IN, form.get("csrf", "")):
                return pages.message_page("Not accepted", "This form is too old. Start again.", status=403)
            next_form, _ = await self._asked(form.get("next", ""))
            try:
                if "ticket" in form:
                    user = await self._auth.users.redeem_ticket(form["ticket"], form.get("password", ""))
                else:
                    user = await self._auth.users.verify(form.get("email", ""), form.get("password", ""))
            except (Denied, Invalid, Exhausted) as error:
                status = 429 if isinstance(error, Exhausted) else 400 if isinstance(error, Invalid) else 401
                return await self._sign_in_page(form, cookie, f"{error.public} {error.next_step}", status)
            fresh = await self._auth.sessions.start(user)
        except (OAuthError, FormError, AgentsError) as error:
            return self._refused(error, may_redirect=False)
        response: Response
        if next_form is None:
            response = pages.signed_in_page(self._sign_out_url)
        else:
            response = _redirect(self._after_sign_in(next_form))
        self._set_cookie(response, fresh)
        return response

    async def show_sign_out(self, request: Request) -> Response:
        cookie = request.cookies.get(self._cookie, "")
        try:
            user = await self._auth.sessions.user_of(cookie)
        except AgentsError as error:
            return self._refused(error, may_redirect=False)
        if user is None:
            return pages.message_page("Signed out", "Nobody is signed in here.")
        return pages.sign_out_page(self._sign_out_url, form_token=form_token(cookie, _SIGN_OUT), user=user)

    async def sign_out(self, request: Request) -> Response:
        cookie = request.cookies.get(self._cookie, "")
        try:
            form = (await body_of(request)).once()
            if not form_token_fits(cookie, _SIGN_OUT, form.get("csrf", "")):
                return pages.message_page("Not accepted", "This form is too old. Start again.", status=403)
            await self._auth.sessions.end(cookie)
        except (FormError, AgentsError) as error:
            return self._refused(error, may_redirect=False)
        response = pages.message_page("Signed out", "Nobody is signed in here any more.")
        response.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        return response

    def _after_sign_in(self, form: Form) -> str:
        if path := _led_back(form.parameters):
            return self._auth.issuer + path
        return f"{self._auth.issuer}/oauth/authorize?{form.encoded()}"

    async def _sign_in_page(self, form: dict[str, str], cookie: str, error: str = "", status: int = 200) -> Response:
        token = form_token(cookie, _SIGN_IN)
        ticket = form.get("ticket")
        if ticket is not None:
            user = await self._auth.users.ticket_user(ticket)
            if user is None:
                return pages.message_page(
                    "Link not valid", "This sign-in link was used already or is too old.", status=401
                )
            return pages.first_password_page(
                self._sign_in_url, form_token=token, user=user, ticket=ticket, error=error, status=status
            )
        next_form, asked = await self._asked(form.get("next", ""))
        return pages.sign_in_page(
            self._sign_in_url,
            form_token=token,
            request=asked,
            next_query=next_form.encoded() if next_form else "",
            error=error,
            status=status,
        )

    async def _asked(self, query: str) -> tuple[Form | None, AuthorizeRequest | None]:
        """The authorization request that a form carries along, validated again; nothing when it carries none, and
        no request when it leads back to a page of our own."""
        if not query:
            return None, None
        form = parse(query.encode("utf-8", "surrogatepass"))
        if _led_back(form.once()):
            kept: dict[str, str] = {
                name: form.parameters[name] for name in ("approval", "flow") if name in form.parameters
            }
            return Form(kept, frozenset()), None
        return form, await self._auth.authorization.validate(form.parameters, form.repeated)

    def _refused(self, error: Exception, *, may_redirect: bool = True) -> Response:
        match error:
            case RedirectError() if may_redirect:
                return _redirect(self._auth.authorization.error_address(error))
            case OAuthError():
                return pages.message_page("This request cannot be answered", error.description, status=400)
            case FormError():
                return pages.message_page("This request cannot be read", error.description, status=error.status)
            case Unavailable() | Exhausted() | Fault():
                return pages.message_page("Try again in a moment", error.public, status=503)
            case _:
                raise error

    def _set_cookie(self, response: Response, value: str) -> None:
        # `__Host-` needs https; on a loopback http issuer the cookie is plain.
        response.set_cookie(self._cookie, value, httponly=True, samesite="lax", secure=self._secure, path="/")


def _document(document: dict[str, str | bool | list[str]]) -> Endpoint:
    async def serve(_request: Request) -> Response:
        return JSONResponse(document, headers=_PUBLIC)

    return serve


def _consent_to(query: str) -> str:
    return f"consent|{query}"


def _redirect(url: str) -> Response:
    return RedirectResponse(url, 303, pages.security_headers())


def _refusal(status: int, code: str, description: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": code, "error_description": description}
    return JSONResponse(body, status, headers=_NO_STORE | (headers or {}))
