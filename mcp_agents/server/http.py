"""The HTTP door: who may connect, who asks, and with which right, before anything else is looked at.

Order of the layers: Host and Origin → path → bearer → strict JSON → scope → the MCP session manager. A request without
enough is answered with the challenge that lets a client get it: 401 with the metadata's address, 403 with
the scopes to step up to. The pages of the authorization server are `mcp_agents_auth`'s.
"""

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_agents_auth.client_keys import ALGORITHMS
from mcp_agents_auth.http import key_routes
from mcp_agents_auth.http import routes as authorization_routes
from mcp_agents_auth.verifier import VerifiedToken, invalid_token
from mcp_agents_tools.surface import scopes as table
from mcp_agents_tools.surface.catalogue import Catalogue
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_agents.kernel.errors import AgentsError, Invalid
from mcp_agents.kernel.tasks import background
from mcp_agents.server import rendering, strict_json
from mcp_agents.server.addresses import AddressLimits, refused
from mcp_agents.server.approval_pages import routes as approval_routes
from mcp_agents.server.compose import House
from mcp_agents.server.config import LOOPBACK
from mcp_agents.server.mcp import AGENT_PREFIX, Door, Seat
from mcp_agents.server.streams import Held
from mcp_agents.server.upstream_pages import routes as upstream_routes

log = logging.getLogger("mcp_agents.http")

BODY_LIMIT: Final = 4 * 1024 * 1024
WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_AGENT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What may stand for an agent in a path; the path is repeated in a header."""
_LISTEN: Final = "subscriptions/listen"
_LAST_SECONDS: Final = 1.5
"""What a listener is given to take what is under way to it when its stream ends."""
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"} | dict.fromkeys(
    table.TASKS, "taskId"
)
"""What a request acts on, by its method."""


def app(house: House, door: Door | None = None) -> Starlette:
    """The whole HTTP surface of one house, ready for an ASGI server; behind `door` where it is not the usual one.

    Whoever stops that server calls `state.stop` first, so that what stays open comes to an end of its own.
    """
    door = door or Door(house)
    manager = StreamableHTTPSessionManager(door.server(), max_request_body_size=BODY_LIMIT)
    gate = Gate(manager.handle_request, house, door)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run(), background() as tasks:
            tasks.start_soon(door.streams.work)
            yield

    async def live(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        good = house.ready()
        return PlainTextResponse("ready\n" if good else "not ready\n", status_code=200 if good else 503)

    async def metadata(request: Request) -> Response:
        path = "/" + request.path_params.get("path", "mcp")
        if gate.selection(path) is None:
            return PlainTextResponse("Not Found", status_code=404)
        return JSONResponse(gate.metadata(path), headers={"Access-Control-Allow-Origin": "*"})

    hosts = _hosts(house.public_url)
    application = Starlette(
        routes=[
            Route("/livez", live),
            Route("/readyz", ready),
            Route(WELL_KNOWN, metadata),
            Route(WELL_KNOWN + "/{path:path}", metadata),
            *(key_routes(house.auth) if house.external else [*authorization_routes(house.auth), *_pages(house)]),
            Route("/mcp", gate),
            Route("/mcp/{selection:path}", gate),
        ],
        middleware=[
            Middleware(HostGuard, hosts=hosts, origins=_origins(house.public_url)),
            Middleware(
                AddressLimits,
                rates=house.rates,
                proxies=house.settings.server.proxies,
                prefix=_split(house.public_url).path.rstrip("/"),
            ),
        ],
        exception_handlers={AgentsError: _render},
        lifespan=lifespan,
    )
    application.state.stop = door.streams.stop
    return application


def _pages(house: House) -> list[Route]:
    """For people who are signed in to us in a browser."""
    return [*approval_routes(house), *upstream_routes(house)]


async def _render(_: Request, error: Exception) -> Response:
    known = error if isinstance(error, AgentsError) else rendering.defect()
    return JSONResponse({"error": rendering.public(known)}, status_code=rendering.HTTP_STATUS[known.kind])


class HostGuard:
    """Refuses requests meant for another name (DNS rebinding) or sent by another site's page."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: Callable[[str], bool]) -> None:
        self._app, self._hosts, self._origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # RFC 9110, 5.5: white space around a value is not part of it; httptools leaves what trails.
            scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
            hosts, origins = (
                [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
                for wanted in (b"host", b"origin")
            )
            if len(hosts) != 1 or _split(f"//{hosts[0]}").hostname not in self._hosts:
                await PlainTextResponse("Misdirected Request", status_code=421)(scope, receive, send)
                return
            if not all(map(self._origins, origins)):
                await PlainTextResponse("Forbidden origin", status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class CallerUser(AuthenticatedUser):
    """The verified caller in the SDK's shape, so that its sessions are bound to the credential's owner."""

    def __init__(self, token: VerifiedToken) -> None:
        principal = token.principal
        super().__init__(
            AccessToken(
                token="",  # never handed on
                client_id=f"{principal.tenant}/{principal.client}",
                scopes=sorted(principal.scopes),
                expires_at=token.expires_at,
                subject=f"{principal.tenant}/{principal.subject}",
            )
        )


class Gate:
    """In front of the MCP endpoint: 404 for a path that is none, 401, 403, and then the caller's seat."""

    def __init__(self, app: ASGIApp, house: House, door: Door) -> None:
        self._app, self._door, self._verify = app, door, house.verifier.verify
        self._catalogue: Catalogue = house.catalogue
        self._rates, self._proofs = house.rates, house.auth.proofs
        self._public_url, self._issuer = house.public_url, house.verifier.issuer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/")
        selection = self.selection(path)
        if selection is None:
            await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        kind, _, credential = headers.get("authorization", "").partition(" ")
        if kind.lower() not in ("bearer", "dpop") or not credential.strip():
            await self._challenge(401, path, self._scopes(selection))(scope, receive, send)
            return
        try:
            token = await self._verify(credential.strip())
            await self._check_possession(scope, kind.lower(), token.jkt, credential.strip())
        except AgentsError as error:
            if error.kind == "Unavailable":
                await refused(error)(scope, receive, send)
            else:
                told = "invalid_dpop_proof" if error.code == "PROOF_INVALID" else "invalid_token"
                await self._challenge(401, path, self._scopes(selection), told, error.public)(scope, receive, send)
            return
        try:
            principal = token.principal
            await self._rates.take("calls_per_client", f"{principal.tenant}/{principal.client}/{principal.subject}")
            await self._rates.take("calls_per_tenant", principal.tenant)
        except AgentsError as error:
            await refused(error)(scope, receive, send)
            return
        gone = anyio.Event()
        try:
            method, name, receive = await _named(receive, gone)
        except Invalid as error:
            await _not_json_rpc(error)(scope, receive, send)
            return
        needed = self._needed(selection, method, name)
        if needed and not token.principal.allows(needed):
            granted = token.principal.scopes & self._scopes(selection)
            await self._challenge(
                403, path, granted | {needed}, "insufficient_scope", f"This needs the scope {needed}."
            )(scope, receive, send)
            return
        scope["user"] = CallerUser(token)
        seat = replace(await self._door.seat(token.principal, selection), gone=gone)
        if method == _LISTEN:
            with self._door.streams.hold(token, grace=_LAST_SECONDS) as held:
                await self._open(_seated(scope, replace(seat, held=held)), receive, send, held)
        elif scope["method"] == "GET":
            session = headers.get("mcp-session-id", "")
            with self._door.streams.hold(token, grace=0) as held:
                async with self._door.subscriptions.telling(
                    session, seat.principal, partial(self._door.may_read, seat)
                ):
                    await self._open(_seated(scope, seat), receive, send, held)
        else:
            await self._app(_seated(scope, seat), receive, send)

    async def _check_possession(self, scope: Scope, kind: str, jkt: str, credential: str) -> None:
        """A token that is bound to a key comes with a proof of it, any other as a bearer. Raises `Denied`."""
        if (kind == "dpop") != bool(jkt):
            raise invalid_token()
        if jkt:
            shown = [value.decode("latin-1") for name, value in scope["headers"] if name == b"dpop"]
            url = f"{self._public_url}{scope['path'].removeprefix(_split(self._public_url).path.rstrip('/'))}"
            if await self._proofs.key_of(shown, scope["method"], url, token=credential) != jkt:
                raise invalid_token()

    async def _open(self, scope: Scope, receive: Receive, send: Send, held: Held) -> None:
        """A response that stays open until it is to end; then it is ended as if that had been all."""
        begun = done = False

        async def watched(message: Message) -> None:
            nonlocal begun, done
            begun, done = True, message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        with held.scope:
            await self._app(scope, receive, watched)
        if not begun:
            await PlainTextResponse("Service Unavailable", status_code=503)(scope, receive, send)
        elif not done:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def selection(self, path: str) -> str | None:
        """What a path under `/mcp` selects, or None when there is no such path."""
        if path == "/mcp":
            return ""
        if not path.startswith("/mcp/"):
            return None
        rest = path.removeprefix("/mcp/")
        if rest.startswith(AGENT_PREFIX):
            return rest if _AGENT.fullmatch(rest.removeprefix(AGENT_PREFIX)) else None
        return rest if self._catalogue.view(rest) is not None else None

    def metadata(self, path: str) -> dict[str, Any]:
        """The protected-resource metadata (RFC 9728) of one path."""
        return {
            "resource": f"{self._public_url}{path}",
            "authorization_servers": [self._issuer],
            "scopes_supported": sorted(self._scopes(self.selection(path) or "")),
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": ALGORITHMS,
            "resource_name": "mcp-agents",
        }

    def _scopes(self, selection: str) -> frozenset[str]:
        if selection.startswith(AGENT_PREFIX):
            return frozenset({table.AGENT_SERVER})
        view = self._catalogue.view(selection)
        return view.scopes if view else frozenset()

    def _needed(self, selection: str, method: str, name: str) -> str:
        if method not in _NAMED:
            return ""
        if selection.startswith(AGENT_PREFIX) and method != "resources/read":
            return table.AGENT_SERVER
        return table.TASKS.get(method) or self._catalogue.needed(name)

    def _challenge(
        self, status: int, path: str, scopes: frozenset[str], error: str = "", description: str = ""
    ) -> Response:
        parts = [f'resource_metadata="{self._public_url}{WELL_KNOWN}{path}"', f'scope="{" ".join(sorted(scopes))}"']
        if error:  # without credentials RFC 6750 wants no error code
            parts = [f'error="{error}"', f'error_description="{description}"', *parts]
        scheme = "Bearer"
        if error == "invalid_dpop_proof":
            scheme, parts = "DPoP", [*parts, f'algs="{" ".join(ALGORITHMS)}"']
        body = {"error": error or "unauthorized", "error_description": description or "A bearer token is needed."}
        return JSONResponse(
            body,
            status_code=status,
            headers={"WWW-Authenticate": f"{scheme} {', '.join(parts)}", "Cache-Control": "no-store"},
        )


def _seated(scope: Scope, seat: Seat) -> Scope:
    scope.setdefault("state", {})["seat"] = seat
    return scope


async def _named(receive: Receive, gone: anyio.Event) -> tuple[str, str, Receive]:
    """The method, the name it acts on, and a `receive` that still has everything; it sets `gone` at a disconnect.

    The body is read here once, bounded, and strictly, for both eras: what is not a plain request goes no
    further. Raises `Invalid`.
    """
    messages: list[Message] = []
    body = b""
    while True:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body") or len(body) > BODY_LIMIT:
            break
    method = name = ""
    if body and len(body) <= BODY_LIMIT:  # a larger one is refused by the session manager
        request = strict_json.parse(body)
        if isinstance(request, dict):
            if isinstance(request.get("id"), (dict, list)):
                raise Invalid("REQUEST_INVALID", "A request's id is a string or a number.", "Send another id.")
            params = request.get("params")
            method = str(request.get("method", ""))
            name = str(params.get(_NAMED.get(method, ""), "")) if isinstance(params, dict) else ""
    played = iter(messages)

    async def replay() -> Message:
        message = next(played, None) or await receive()
        if message["type"] == "http.disconnect":
            gone.set()
        return message

    return method, name, replay


def _not_json_rpc(error: Invalid) -> Response:
    code = -32700 if error.code == "JSON_INVALID" else -32600
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": rendering.sentence(error)}}
    return JSONResponse(body, status_code=400)


def _split(url: str) -> SplitResult:
    """The URL's parts; those of no URL when it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _hosts(public_url: str) -> frozenset[str]:
    own = urlsplit(public_url).hostname or ""
    return frozenset({own, *LOOPBACK}) if own in LOOPBACK else frozenset({own})


def _origins(public_url: str) -> Callable[[str], bool]:
    own = urlsplit(public_url)

    def allowed(origin: str) -> bool:
        parts = _split(origin)
        if own.hostname in LOOPBACK:  # a local client may serve its page from any port
            return parts.scheme in ("http", "https") and parts.hostname in LOOPBACK
        return (parts.scheme, parts.netloc) == (own.scheme, own.netloc)

    return allowed
