"""Connections that go only to approved addresses, and a fetch of small documents over them.

`egress` decides and opens nothing; here is what opens: every connection asks the rule and uses exactly the addresses
it was given. Nothing comes from the environment, no proxy and no certificate. Above: whoever sends requests.
"""

import ssl
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Protocol

import anyio
import httpcore2
import httpx2

from mcp_agents.kernel.errors import Unavailable
from mcp_agents.kernel.fetch import Fetched
from mcp_agents.security.egress import AddressRule

_BROKEN: Final = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


class Approved(Protocol):
    """What a connection asks of the rule."""

    async def addresses(self, host: str, port: int) -> tuple[str, ...]: ...


class ApprovedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that the rule returns for this connection, and to no other."""

    def __init__(self, rule: Approved) -> None:
        self._rule = rule
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError("no address")
        for address in await self._rule.addresses(host, port):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise httpcore2.ConnectError("sockets of this machine are not reachable")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class GuardedFetch:
    """Fills the kernel's `Fetch`; one connection for each document, none of them kept.

    `context` is what certificates are judged by; the public authorities by default.
    """

    def __init__(self, rule: AddressRule, context: ssl.SSLContext | None = None) -> None:
        self._rule, self._context = rule, context

    async def get(self, url: str, *, limit: int, seconds: float) -> Fetched:
        """See the port."""
        self._rule.inspect(url)
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._context or ssl_context(), network_backend=ApprovedBackend(self._rule)
        )
        headers = [("Accept", "application/json"), ("Accept-Encoding", "identity"), ("User-Agent", "mcp-agents")]
        try:
            with anyio.fail_after(seconds):
                async with pool, pool.stream("GET", url, headers=headers) as answer:
                    return await _whole(answer, limit)
        except (*_BROKEN, TimeoutError) as cause:
            raise _failed() from cause


async def _whole(answer: httpcore2.Response, limit: int) -> Fetched:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise _failed()
    body = b""
    async for chunk in answer.aiter_stream():
        body += chunk
        if len(body) > limit:
            raise _failed()
    return Fetched(status=answer.status, headers=headers, body=body)


@lru_cache(maxsize=1)
def ssl_context() -> ssl.SSLContext:
    """The public authorities, whatever the environment says."""
    return httpx2.create_ssl_context(trust_env=False)


def _failed() -> Unavailable:
    return Unavailable("FETCH_FAILED", "The document cannot be fetched.", "Check its address and that it is small.")
