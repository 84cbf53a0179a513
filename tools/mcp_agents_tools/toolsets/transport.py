"""HTTP to a tool server, guarded: the only way a toolset reaches the network.

Every connection goes to an address that the egress rule approved for that very connection. Answers are
taken unencoded and up to a bound. What goes wrong below HTTP becomes an HTTP answer with a JSON-RPC error
that says how (`Trouble`), because an exception there would end the SDK's client for good. The marks are
signed with a word that only this transport knows, so a server cannot forge them. Stands below `upstream`;
knows no tools and no sessions.
"""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, cast

import httpcore2
import httpx2
import msgspec
from mcp.client.auth import OAuthFlowError
from mcp.shared.exceptions import MCPError

from mcp_agents.kernel.errors import AgentsError, Denied
from mcp_agents.security.egress import Endpoint
from mcp_agents.security.fetching import ApprovedBackend, ssl_context

META_PREFIX: Final = "io.github.mcp-agents/"
EFFECT_ID: Final = f"{META_PREFIX}effect_id"
"""The key in a call's `_meta` that its effect id stands under."""

ANSWER_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of one answer, whether one document or a stream of events."""

_TIMEOUT: Final = httpx2.Timeout(10.0, read=300.0)
_IDLE_SECONDS: Final = 4.0
"""How long a connection is kept for the next request. Many servers close theirs after 5 s, and a call that is sent just
then is lost without a word of whether it happened."""
_FAREWELL: Final = httpx2.Timeout(2.0).as_dict()
"""Saying goodbye to a session must not hold up who closes it."""
_MARK: Final = f"{META_PREFIX}trouble"


class Addresses(Protocol):
    """What the transport asks of the egress rule; `security.egress.AddressRule` is one."""

    async def check(self, url: str) -> None: ...

    def inspect(self, url: str) -> Endpoint: ...

    async def addresses(self, host: str, port: int) -> tuple[str, ...]: ...


class Kind(StrEnum):
    """How a request failed below JSON-RPC. Only the first five are certain not to have reached a tool."""

    UNREACHABLE = "unreachable"
    DENIED = "denied"
    UNAUTHORIZED = "unauthorized"
    SESSION_GONE = "session_gone"
    REJECTED = "rejected"
    LOST = "lost"
    ENCODED = "encoded"
    TOO_LARGE = "too_large"
    STATUS = "status"


UNSENT: Final = frozenset({Kind.UNREACHABLE, Kind.DENIED, Kind.UNAUTHORIZED, Kind.SESSION_GONE, Kind.REJECTED})


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the transport saw: the kind, and the HTTP status where there was one (else 0)."""

    kind: Kind
    status: int = 0


class _Parameters(msgspec.Struct):
    """What is looked at in a request's parameters."""

    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)


class _Posted(msgspec.Struct):
    """What is looked at in a posted message."""

    params: _Parameters = msgspec.field(default_factory=_Parameters)


_decode_posted: Final = msgspec.json.Decoder(_Posted).decode


class GuardedTransport(httpx2.AsyncBaseTransport):
    """One tool server's connections, or with an empty `endpoint` those to something else.

    `last_status` is the last HTTP status any answer had, 0 before the first.

    `effect_header` names a header that repeats the effect id of a call's `_meta`; empty: there is none.
    """

    def __init__(
        self, rule: Addresses, endpoint: str = "", *, limit: int = ANSWER_LIMIT, effect_header: str = ""
    ) -> None:
        self._rule, self._endpoint, self._limit = rule, httpx2.URL(endpoint), limit
        self._effect_header = effect_header
        self._word = secrets.token_hex(16)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context(),
            max_connections=32,
            max_keepalive_connections=8,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=ApprovedBackend(rule),
        )
        self.last_status = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends; never raises for what the network or the server does."""
        if request.method == "GET" and self._is_endpoint(request) and "last-event-id" not in request.headers:
            # The stream for what a server says unasked. We ask for nothing there, so it is not opened.
            return httpx2.Response(405, request=request)
        request.headers["accept-encoding"] = "identity"
        if self._effect_header and request.method == "POST" and self._is_endpoint(request):
            await self._name_effect(request)
        if request.method == "DELETE":
            request.extensions["timeout"] = _FAREWELL
        try:
            self._rule.inspect(str(request.url))
            response = await self._send(request)
        except Denied:
            return self._failure(request, Trouble(Kind.DENIED))
        except (AgentsError, httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout):
            return self._failure(request, Trouble(Kind.UNREACHABLE))
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError):
            return self._failure(request, Trouble(Kind.LOST))
        return response

    async def aclose(self) -> None:
        """Closes every connection."""
        await self._pool.aclose()

    def trouble(self, error: MCPError) -> Trouble | None:
        """What this transport reported through `error`, or None when the server itself sent it."""
        data = error.error.data
        if not isinstance(data, dict) or data.get("word") != self._word:
            return None
        return Trouble(Kind(data[_MARK]), data["status"])

    def unauthorized(self, request: httpx2.Request) -> httpx2.Response:
        """The answer in place of one, when signing in failed before the request was sent."""
        return self._failure(request, Trouble(Kind.UNAUTHORIZED, 401))

    async def _name_effect(self, request: httpx2.Request) -> None:
        """Repeats the effect id in the header. Read from the body, because the SDK takes no headers with a call."""
        try:
            effect_id = _decode_posted(await request.aread()).params.meta.get(EFFECT_ID)
        except msgspec.DecodeError:
            return  # an answer or a notification of ours, without parameters of this shape
        if isinstance(effect_id, str):
            request.headers[self._effect_header] = effect_id

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=cast(httpx2.AsyncByteStream, request.stream),
                extensions=request.extensions,
            )
        )
        headers = httpx2.Headers(answer.headers)
        self.last_status = answer.status
        stream = _Bounded(answer, self._limit)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            await stream.aclose()
            return self._failure(request, Trouble(Kind.ENCODED, answer.status))
        if answer.status < 400 and headers.get("content-type", "").lower().startswith("text/event-stream"):
            return httpx2.Response(answer.status, headers=headers, stream=stream, request=request)
        return await self._whole(request, answer.status, headers, stream)

    async def _whole(
        self, request: httpx2.Request, status: int, headers: httpx2.Headers, stream: "_Bounded"
    ) -> httpx2.Response:
        """A document, read here: an answer that breaks off in the SDK's hands would end its client."""
        try:
            body = b"".join([chunk async for chunk in stream])
        except httpx2.DecodingError:
            return self._failure(request, Trouble(Kind.TOO_LARGE, status))
        except httpx2.ReadError:
            return self._failure(request, Trouble(Kind.LOST, status))
        finally:
            await stream.aclose()
        kind = self._refusal(request, status, body)
        if kind is not None:
            return self._failure(request, Trouble(kind, status), status, headers)
        return httpx2.Response(status, headers=_sized(headers), content=body, request=request)

    def _refusal(self, request: httpx2.Request, status: int, body: bytes) -> Kind | None:
        """What a refusing status of the endpoint means; None when the answer may speak for itself."""
        if status < 400 or request.method != "POST" or not self._is_endpoint(request):
            return None
        if status in (401, 403):
            return Kind.UNAUTHORIZED
        if status == 404 and "mcp-session-id" in request.headers:
            return Kind.SESSION_GONE
        if _is_rpc_error(body):
            return None
        return Kind.REJECTED if status < 500 else Kind.STATUS

    def _is_endpoint(self, request: httpx2.Request) -> bool:
        return request.url.copy_with(fragment=None) == self._endpoint.copy_with(fragment=None)

    def _failure(
        self, request: httpx2.Request, trouble: Trouble, status: int = 503, headers: httpx2.Headers | None = None
    ) -> httpx2.Response:
        # The status and the challenge of a 401 stay, because signing in starts from them.
        kept = {"www-authenticate": headers["www-authenticate"]} if headers and "www-authenticate" in headers else {}
        data = {_MARK: trouble.kind.value, "status": trouble.status, "word": self._word}
        error = {"code": -32603, "message": f"The request failed: {trouble.kind.value}.", "data": data}
        body = {"jsonrpc": "2.0", "id": None, "error": error}
        return httpx2.Response(status, headers=kept, json=body, request=request)


class GuardedClient(httpx2.AsyncClient):
    """An HTTP client over a guarded transport: no proxies from the environment, no redirects across origins."""

    def __init__(self, transport: GuardedTransport, auth: httpx2.Auth | None, headers: dict[str, str]) -> None:
        super().__init__(
            transport=transport, auth=auth, headers=headers, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        )
        self._guarded = transport

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Sends; a failed sign-in becomes an answer like any other trouble."""
        try:
            return await super().send(request, **options)
        except OAuthFlowError:
            return self._guarded.unauthorized(request)


class _Bounded(httpx2.AsyncByteStream):
    """An answer's bytes, up to the limit. Raises httpx2's `DecodingError` beyond it, `ReadError` when it breaks off."""

    def __init__(self, answer: httpcore2.Response, limit: int) -> None:
        self._answer, self._limit = answer, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        taken = 0
        try:
            async for chunk in self._answer.aiter_stream():
                taken += len(chunk)
                if taken > self._limit:
                    raise httpx2.DecodingError("the answer is larger than allowed")
                yield chunk
        except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as cause:
            raise httpx2.ReadError("the answer broke off") from cause

    async def aclose(self) -> None:
        await self._answer.aclose()


def _is_rpc_error(body: bytes) -> bool:
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    return isinstance(answer, dict) and answer.get("jsonrpc") == "2.0" and isinstance(answer.get("error"), dict)


def _sized(headers: httpx2.Headers) -> httpx2.Headers:
    """The headers of a body that was read whole: no chunks any more."""
    kept = [(name, value) for name, value in headers.multi_items() if name not in ("transfer-encoding",)]
    return httpx2.Headers(kept)
