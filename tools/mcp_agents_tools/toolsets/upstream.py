"""One tool server, connected when needed: list its tools, call one.

A connection is entered and left by one owner task, as the SDK demands; calls come from any task. A dead
connection is rebuilt at the next use, with growing pauses while that fails. The server is foreign: its
schemas are never evaluated here, its lists and answers are bounded. `hub` decides how long an upstream
lives, `servers` what it points at; the network is `transport` and `stdio`.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, cast

import anyio
import httpx2
import mcp_types as mcp
from anyio.abc import TaskGroup, TaskStatus
from mcp.client._probe import negotiate_auto
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.auth.utils import extract_scope_from_www_auth
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from mcp_agents import __version__
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.toolserver import Transport, UpstreamAuth, UpstreamTool
from mcp_agents.kernel.toolset import Outcome, Refused
from mcp_agents_tools.toolsets import outcomes
from mcp_agents_tools.toolsets.listing import TOOL_LIMIT, kept_tool
from mcp_agents_tools.toolsets.stdio import child_streams
from mcp_agents_tools.toolsets.tokens import TokenSource
from mcp_agents_tools.toolsets.transport import Addresses, GuardedClient, GuardedTransport, Kind, Trouble

log = logging.getLogger("mcp_agents.toolsets")

CONNECT_SECONDS: Final = 25.0
"""Starting, connecting and agreeing on a protocol. An old server may let the first 10 s of it pass unanswered."""

_LIST_SECONDS: Final = 30.0
_PAGE_LIMIT: Final = 50
_GRACE_SECONDS: Final = 2.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_US: Final = mcp.Implementation(name="mcp-agents", version=__version__)
_DEAD: Final = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)


class Reason(StrEnum):
    """Why there is no connection; in all cases nothing was called."""

    UNREACHABLE = "It cannot be reached."
    DENIED = "Its address is off limits."
    UNAUTHORIZED = "It did not accept our sign-in."
    NOT_MCP = "It does not speak MCP as it should."
    NOT_STARTED = "Its program cannot be started."
    PAUSED = "It could not be reached a moment ago; the next attempt is not due yet."


class ConnectFailed(Exception):
    """No connection. `reason` is all that is said about it: the cause may hold secrets."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how to connect, secrets in clear: made for one use, never stored, never logged. A `source` gives the
    token of each request and takes the place of `auth`."""

    transport: Transport
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    auth: UpstreamAuth = field(default_factory=UpstreamAuth)
    source: TokenSource | None = field(default=None, repr=False)
    effect_header: str = ""


class _Session(ClientSession):
    """The SDK's session without its checks of results against the server's own schema.

    That schema is foreign and its patterns run on a backtracking engine on the event loop: one pattern
    and thirty characters stop the process. Nothing is refused that the SDK would have let through.
    """

    async def validate_tool_result(self, name: str, result: mcp.CallToolResult) -> None:
        return None


class _Link:
    """One connection: its session while it lives, and the task that owns it."""

    def __init__(self, target: Target, rule: Addresses, connect_seconds: float) -> None:
        self._target, self._rule, self._connect_seconds = target, rule, connect_seconds
        self._guard: GuardedTransport | None = None
        self._stop, self._ended = anyio.Event(), anyio.Event()
        self._session: _Session | None = None
        self.alive = False

    @property
    def session(self) -> _Session:
        """The session; only after `own` has started."""
        if self._session is None:
            raise RuntimeError("the connection is not open")
        return self._session

    async def own(self, *, task_status: TaskStatus[None]) -> None:
        """Opens, stays, closes: all in the task that runs this. Raises `ConnectFailed` before it has started only."""
        try:
            async with self._streams() as (reader, writer), _Session(reader, writer, client_info=_US) as session:
                with anyio.fail_after(self._connect_seconds):
                    await negotiate_auto(session)
                self._session, self.alive = session, True
                task_status.started()
                await self._stop.wait()
        except Exception as error:
            log.debug("a connection to a tool server ended", exc_info=True)
            if self._session is None:
                raise ConnectFailed(self.reason(error)) from None
        finally:
            self.alive = False
            self._ended.set()

    async def close(self) -> None:
        """Ends the connection and waits until its task has."""
        self.alive = False
        self._stop.set()
        await self._ended.wait()

    def trouble(self, error: MCPError) -> Trouble | None:
        """What our transport saw, when the error is its own."""
        return self._guard.trouble(error) if self._guard else None

    @asynccontextmanager
    async def _streams(self) -> AsyncIterator[tuple[Any, Any]]:
        if self._target.transport == "stdio":
            async with child_streams(self._target.command, self._target.env) as (inbox, outbox):
                yield _Watched(inbox, self), outbox
            return
        self._guard = GuardedTransport(self._rule, self._target.url, effect_header=self._target.effect_header)
        auth, headers = _sign_in(self._target)
        async with (
            GuardedClient(self._guard, auth, headers) as client,
            streamable_http_client(self._target.url, http_client=client) as (reader, writer),
        ):
            yield reader, writer

    def reason(self, error: BaseException) -> Reason:
        """What a failure while connecting or listing means, without any of its text."""
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        trouble = self.trouble(error) if isinstance(error, MCPError) else None
        match trouble.kind if trouble else None:
            case Kind.DENIED:
                return Reason.DENIED
            case Kind.UNAUTHORIZED:
                return Reason.UNAUTHORIZED
            case Kind.UNREACHABLE | Kind.LOST | Kind.STATUS:
                return Reason.UNREACHABLE
        if isinstance(error, OSError) and not isinstance(error, TimeoutError):
            return Reason.NOT_STARTED if self._target.transport == "stdio" else Reason.UNREACHABLE
        if isinstance(error, TimeoutError) and self._target.transport == "http":
            return Reason.UNREACHABLE
        return Reason.NOT_MCP


class _Watched:
    """A child's messages; their end marks the link as dead at once, before anybody calls into it."""

    def __init__(self, inbox: Any, link: _Link) -> None:
        self._inbox, self._link = inbox, link

    async def receive(self) -> Any:
        try:
            return await self._inbox.receive()
        except _DEAD:
            self._link.alive = False
            raise

    async def aclose(self) -> None:
        await self._inbox.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "_Watched":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Upstream:
    """A tool server that is connected at first use.

    Args:
        tasks: runs the owner task; closing it closes the connection.
        rule: asked for every outbound connection.
        connect_seconds: how long starting and agreeing on a protocol may take.
    """

    def __init__(
        self, target: Target, tasks: TaskGroup, rule: Addresses, clock: Clock, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._target, self._tasks, self._rule, self._clock = target, tasks, rule, clock
        self._connect_seconds = connect_seconds
        self._lock = anyio.Lock()
        self._link: _Link | None = None
        self._failures, self._not_before = 0, 0.0

    async def list_tools(self) -> list[UpstreamTool]:
        """The server's tools, cleaned and bounded. Raises `ConnectFailed`."""
        link = await self._connected()
        tools: dict[str, UpstreamTool] = {}
        cursor: str | None = None
        try:
            with anyio.fail_after(_LIST_SECONDS):
                for _ in range(_PAGE_LIMIT):
                    page = await link.session.list_tools(params=mcp.PaginatedRequestParams(cursor=cursor))
                    for tool in map(kept_tool, page.tools[:TOOL_LIMIT]):
                        if tool is not None and len(tools) < TOOL_LIMIT:
                            tools.setdefault(tool.name, tool)
                    if page.next_cursor in (None, cursor) or len(tools) >= TOOL_LIMIT:
                        break
                    cursor = page.next_cursor
        except MCPError as error:
            link.alive = False
            raise ConnectFailed(link.reason(error)) from None
        except (ValidationError, RuntimeError, TimeoutError, *_DEAD):
            link.alive = False
            raise ConnectFailed(Reason.NOT_MCP) from None
        return list(tools.values())

    async def call(self, name: str, arguments: dict[str, Any], meta: dict[str, Any], timeout: float) -> Outcome:
        """Calls a tool once. Never raises for what the server does.

        `meta` goes into the request's `_meta`; `timeout` is in seconds, for connecting and for the call each.
        """
        for final in (False, True):
            link: _Link | None = None
            with anyio.move_on_after(timeout):
                try:
                    link = await self._connected()
                except ConnectFailed as failure:
                    return _unreachable(failure.reason)
            if link is None:
                return _unreachable(Reason.UNREACHABLE)
            outcome = await self._try(link, name, arguments, meta, timeout, final=final)
            if outcome is not None:
                return outcome
        return outcomes.CONNECTION_LOST

    async def close(self) -> None:
        """Closes the connection, if there is one; a later use opens another."""
        async with self._lock:
            if self._link is not None:
                await self._link.close()
                self._link = None

    async def _try(
        self, link: _Link, name: str, arguments: dict[str, Any], meta: dict[str, Any], timeout: float, *, final: bool
    ) -> Outcome | None:
        """One attempt; None when the server certainly did not take the call and it should be made once more."""
        result: mcp.CallToolResult | mcp.InputRequiredResult | None = None
        try:
            with anyio.move_on_after(timeout + _GRACE_SECONDS):
                result = await link.session.call_tool(
                    name,
                    arguments,
                    timeout,
                    meta=cast(mcp.RequestParamsMeta, meta),
                    allow_input_required=True,
                )
        except MCPError as error:
            trouble = link.trouble(error)
            if trouble is not None and trouble.kind is Kind.SESSION_GONE:
                link.alive = False
                return outcomes.of_error(error, trouble) if final else None
            if error.code == mcp.HEADER_MISMATCH and not final:
                return None if await self._relisted(link) else outcomes.of_error(error, trouble)
            link.alive = link.alive and error.code != mcp.CONNECTION_CLOSED
            return outcomes.of_error(error, trouble)
        except (ValidationError, RuntimeError):
            return outcomes.ANSWER_INVALID
        except _DEAD:
            link.alive = False
            return outcomes.CONNECTION_LOST
        if result is None:
            # Not even the request could be written in time: this connection is stuck.
            link.alive = False
            return outcomes.TIMED_OUT
        return outcomes.of_result(result) if isinstance(result, mcp.CallToolResult) else outcomes.NEEDS_INPUT

    async def _relisted(self, link: _Link) -> bool:
        """Lists once more, because the server wants headers that follow from a schema not seen yet."""
        try:
            with anyio.fail_after(_LIST_SECONDS):
                await link.session.list_tools()
        except (MCPError, ValidationError, RuntimeError, TimeoutError, *_DEAD):
            return False
        return True

    async def _connected(self) -> _Link:
        async with self._lock:
            if self._link is not None:
                if self._link.alive:
                    return self._link
                await self._link.close()
                self._link = None
            if self._clock.monotonic() < self._not_before:
                raise ConnectFailed(Reason.PAUSED)
            link = _Link(self._target, self._rule, self._connect_seconds)
            try:
                await self._tasks.start(link.own)
            except ConnectFailed:
                pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
                self._failures, self._not_before = self._failures + 1, self._clock.monotonic() + pause
                raise
            self._failures = 0
            self._link = link
            return link


def _unreachable(reason: Reason) -> Refused:
    return Refused(code="TOOL_SERVER_UNREACHABLE", message=f"The tool server is not available. {reason.value}")


class _Tokens:
    """The access token of one connection, in memory and nowhere else."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class _Shown(httpx2.Auth):
    """Shows the token of the moment; once more where it is refused and there is another one by now. Where its scopes
    are too few, that is noted for the next sign-in.

    A request that was answered 401 was not carried out: the one behind it is no repetition.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        try:
            token = await self._source.token()
            request.headers["authorization"] = f"Bearer {token}"
            answer = yield request
            if answer.status_code == 403 and (scope := extract_scope_from_www_auth(answer)):
                await self._source.falls_short(scope)
            if answer.status_code != 401 or (another := await self._source.token(token)) == token:
                return
        except AgentsError:
            raise OAuthFlowError("no token") from None
        request.headers["authorization"] = f"Bearer {another}"
        yield request


def _sign_in(target: Target) -> tuple[httpx2.Auth | None, dict[str, str]]:
    auth = target.auth
    if target.source is not None:
        return _Shown(target.source), {}
    if auth.type == "bearer":
        return None, {"authorization": f"Bearer {auth.token}"}
    if auth.type == "client_credentials":
        # The issuer is fixed by the record: the tool server does not choose where the secret goes.
        provider = ClientCredentialsOAuthProvider(
            target.url, _Tokens(), auth.client_id, auth.client_secret, scope=auth.scope or None, issuer=auth.issuer
        )
        return provider, {}
    return None, {}
