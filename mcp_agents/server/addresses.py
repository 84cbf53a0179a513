"""Where a request comes from, and how often one place may ask: in front of every route.

The address is the peer's of the socket; only where that peer is a proxy that the operator trusts is
`X-Forwarded-For` read, from its end, up to the first hop that is nobody's we trust. IPv6 counts by /64.
Who a caller is, and their own limits, is `http`'s Gate.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.rates import Kind, Rates
from mcp_agents.server import rendering

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_TOKEN: Final = ("/oauth/token", "/oauth/revoke", "/oauth/introspect", "/oauth/register")
_SIGN_IN: Final = ("/oauth/sign-in", "/oauth/invitation", "/oauth/consent")


class AddressLimits:
    """Counts requests by address; one too many is answered 429 before its body is read."""

    def __init__(self, app: ASGIApp, rates: Rates, proxies: tuple[Network, ...], prefix: str) -> None:
        self._app, self._rates, self._proxies, self._prefix = app, rates, proxies, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = self._kind(scope) if scope["type"] == "http" else None
        if kind is not None:
            try:
                await self._rates.take(kind, address_of(scope, self._proxies))
            except AgentsError as error:
                await refused(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _kind(self, scope: Scope) -> Kind | None:
        path: str = scope["path"].removeprefix(self._prefix)
        if path == "/mcp" or path.startswith("/mcp/"):
            return "calls_per_address"
        if scope["method"] != "POST":
            return None
        if path in _TOKEN:
            return "token_per_address"
        return "sign_in_per_address" if path in _SIGN_IN else None


def address_of(scope: Scope, proxies: Iterable[Network]) -> str:
    """The address a request counts for; "unknown" where a socket has none."""
    trusted = tuple(proxies)
    said = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = [hop.strip() for hop in ",".join(said).split(",")] if said else []
    address = None
    for hop in reversed([*hops, scope["client"][0] if scope.get("client") else ""]):
        found = _parsed(hop)
        if found is None:
            break  # nothing before a hop that makes no sense is believed
        address = found
        if not any(found in network for network in trusted):
            break
    if address is None:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def refused(error: AgentsError) -> JSONResponse:
    """An error of ours in front of the protocol, with `Retry-After` where there is a time."""
    wait = error.retry_after_ms
    headers = {"Retry-After": str(-(-wait // 1000))} if wait is not None else {}
    return JSONResponse({"error": rendering.public(error)}, rendering.HTTP_STATUS[error.kind], headers)
