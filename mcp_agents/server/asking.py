"""Asking the person behind a client in the middle of a call, in both eras.

The handshake era pushes `elicitation/create` and waits. The current era has no such way: the call ends with
`input_required`, the questions and a sealed state, and the client makes it again. `Asker` in
`mcp_agents_tools.surface.plugin` says what a tool sees of it; `mcp` catches `InputNeeded` and seals the state.
"""

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

import mcp_types as mcp
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_agents_tools.surface.plugin import Form, Reply
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from msgspec import Struct

log = logging.getLogger("mcp_agents.asking")

STATE_SECONDS: Final = 24 * 3600.0
"""People take their time; what a question is about, and whether it was answered, is looked at when they come back."""
Asking = mcp.CallToolRequestParams | mcp.GetPromptRequestParams | mcp.ReadResourceRequestParams
"""The requests that can be answered with a question."""

Context = ServerRequestContext[Any, Any]


class InputNeeded(Exception):
    """Ends a call of the current era: its client is asked first."""

    def __init__(self, forms: Mapping[str, Form], state: "_State") -> None:
        super().__init__("input needed")
        self._forms, self._state = forms, state

    def result(self) -> mcp.InputRequiredResult:
        """What the client is answered."""
        return mcp.InputRequiredResult(
            input_requests={key: request_of(form) for key, form in self._forms.items()},
            request_state=msgspec.json.encode(self._state).decode(),
        )


class _State(Struct, frozen=True):
    """What has to survive until the client comes back: earlier replies, and what the tool left behind."""

    replies: dict[str, Reply] = {}
    state: str = ""


class Pushing:
    """Asks a client of the handshake era."""

    state = ""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def ask(self, forms: Mapping[str, Form], *, state: str = "") -> dict[str, Reply]:
        """Sends one form after the other. `state` is not needed here: the call is still the same one."""
        return {key: await self._one(form) for key, form in forms.items()}

    async def _one(self, form: Form) -> Reply:
        session, request_id = self._ctx.session, self._ctx.request_id
        try:
            if form.url:
                told = await session.elicit_url(form.message, form.url, secrets.token_hex(16), request_id)
            else:
                told = await session.elicit_form(form.message, form.schema, request_id)
        except MCPError as refused:  # it said that it can ask, and does not: nothing was decided
            log.info("a client did not ask its person: %s", refused)
            return Reply(action="cancel")
        return Reply(action=told.action, content=told.content or {})


class Returning:
    """Asks a client of the current era. `state` is what the tool passed when it asked in the round before."""

    def __init__(self, params: Asking) -> None:
        before = msgspec.json.decode(params.request_state, type=_State) if params.request_state else _State()
        given = {
            key: Reply(action=told.action, content=told.content or {})
            for key, told in (params.input_responses or {}).items()
            if isinstance(told, mcp.ElicitResult)
        }
        self.state = before.state
        self._replies = before.replies | given

    async def ask(self, forms: Mapping[str, Form], *, state: str = "") -> dict[str, Reply]:
        """The replies when all are there. Raises `InputNeeded` for those that are not."""
        if missing := {key: form for key, form in forms.items() if key not in self._replies}:
            raise InputNeeded(missing, _State(self._replies, state))
        return {key: self._replies[key] for key in forms}


def asking(ctx: Context, params: Asking | None) -> Pushing | Returning | None:
    """The way to ask this request's client; None when it did not say that it shows questions."""
    able = ctx.session.client_capabilities
    if params is None or able is None or able.elicitation is None:
        return None
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return Returning(params)
    return Pushing(ctx) if ctx.session.can_send_request else None


def shows_forms(ctx: Context) -> bool:
    """Whether the client of this request said that it shows forms."""
    able = ctx.session.client_capabilities
    shown = able.elicitation if able else None
    return shown is not None and (shown.form is not None or shown.url is None)


def request_of(form: Form) -> mcp.ElicitRequest:
    """A form as the protocol's request."""
    if form.url:
        return mcp.ElicitRequest(params=mcp.ElicitRequestURLParams(message=form.message, url=form.url))
    params = mcp.ElicitRequestFormParams(message=form.message, requested_schema=form.schema)
    return mcp.ElicitRequest(params=params)


def boundary(key: bytes, name: str) -> RequestStateBoundary:
    """Seals what leaves and checks what comes back, under a key that every process of a deployment has."""
    security = RequestStateSecurity(keys=[key], ttl=STATE_SECONDS, bind_principal=_caller)
    return RequestStateBoundary(security, default_audience=name)


def _caller(ctx: Context) -> str | None:
    """Whom a state belongs to; None on a connection that is one caller's."""
    if ctx.request is None:
        return None
    principal = ctx.request.scope["state"]["seat"].principal
    return f"{principal.tenant}/{principal.client}/{principal.subject}"
