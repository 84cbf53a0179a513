"""The rule for outbound addresses: which URL may be asked for, which address may be connected to.

It decides and opens nothing. `inspect` judges a URL by its text, `addresses` judges what a host resolves
to, and a transport asks `addresses` again at the moment it connects and uses exactly what it was given,
so that a name that changes between check and connection gains nothing. Above it stand the adapters and
toolsets that send; below it only the kernel.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import anyio

from mcp_agents.kernel.errors import Denied, Unavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[tuple[str, ...]]]

_RESOLVE_SECONDS: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443}
_HOSTNAME: Final = re.compile(
    r"^(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$"
)
_NUMERIC_LABEL: Final = re.compile(r"^([0-9]+|0x[0-9a-f]*)$")
_UNSAFE: Final = re.compile(r"[\x00-\x20\x7f\\]|[^\x00-\x7f]")

# Where clouds keep the credentials of a machine. Refused even where private addresses are allowed.
_METADATA: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::/32")
)
_METADATA_NAMES: Final = frozenset({"metadata", "metadata.google.internal", "instance-data", "metadata.azure.internal"})
_LOCAL_NAMES: Final = ("localhost", "localdomain", "local", "internal", "intranet", "lan", "home.arpa", "corp")

# What a loopback deployment may reach: this machine and its own network.
_PRIVATE: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
# Never on the public internet, whatever the standard library of this Python thinks of them.
_SPECIAL: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "::/96", "100::/64", "2001::/23",
        "2001:db8::/32", "3fff::/20", "5f00::/16", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
# IPv6 networks that carry an IPv4 address: mapped, translated, NAT64, 6to4. Never needed, often a disguise.
_EMBEDDED: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")
)


class Endpoint(NamedTuple):
    """Where a URL points, by its text alone. `host` is lower case, without brackets or a final dot."""

    scheme: str
    host: str
    port: int


class AddressRule:
    """Fills the kernel's `Egress`.

    Args:
        allowed_origins: origins that always pass (`https://agents.example.org`), such as our own.
        allow_private: a loopback deployment may also reach this machine and private networks. Metadata,
            link-local, multicast and reserved addresses stay refused.
        resolve: host and port to textual addresses; the system's resolver by default.
    """

    def __init__(
        self,
        *,
        allowed_origins: frozenset[str] = frozenset(),
        allow_private: bool = False,
        resolve: Resolve | None = None,
    ) -> None:
        self._own = frozenset(_endpoint(origin) for origin in allowed_origins)
        self._allow_private = allow_private
        self._resolve = resolve or _system_resolve

    async def check(self, url: str) -> None:
        """Raises `Denied` (`EGRESS_DENIED`) or `Unavailable` (`HOST_UNRESOLVED`)."""
        endpoint = self.inspect(url)
        await self.addresses(endpoint.host, endpoint.port)

    def inspect(self, url: str) -> Endpoint:
        """Where the URL points. Raises `Denied` when its text alone is off limits; asks no resolver."""
        endpoint = _endpoint(url)
        if endpoint in self._own:
            return endpoint
        literal = _literal(endpoint.host)
        if literal is not None:
            self._judge(literal)
        elif endpoint.host in _METADATA_NAMES or (not self._allow_private and _is_local_name(endpoint.host)):
            raise _denied()
        return endpoint

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses that a connection to `host` may use, all of them judged: one bad one refuses the host.

        Raises `Denied` (`EGRESS_DENIED`) or `Unavailable` (`HOST_UNRESOLVED`).
        """
        host = _plain(host)
        literal = _literal(host)
        found = (str(literal),) if literal is not None else await self._resolve(host, port)
        if not found:
            raise _unresolved()
        if not any(own.host == host and own.port == port for own in self._own):
            for text in found:
                self._judge(ipaddress.ip_address(text))
        return found

    def _judge(self, address: Address) -> None:
        if not self._permits(address):
            raise _denied()

    def _permits(self, address: Address) -> bool:
        if _in(address, _METADATA) or (isinstance(address, ipaddress.IPv6Address) and address.scope_id):
            return False
        if _in(address, _EMBEDDED):
            return False
        if _in(address, _PRIVATE):
            return self._allow_private
        return not _in(address, _SPECIAL) and address.is_global and not address.is_multicast


def _endpoint(url: str) -> Endpoint:
    if len(url) > 8192 or _UNSAFE.search(url):
        raise _denied()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as cause:
        raise _denied() from cause
    if parts.scheme not in _PORTS or "@" in parts.netloc or not parts.hostname or port == 0:
        raise _denied()
    if parts.netloc.startswith("[") != (":" in parts.hostname):
        raise _denied()
    host = _plain(parts.hostname)
    if ":" not in host and not _HOSTNAME.fullmatch(host):
        raise _denied()
    return Endpoint(parts.scheme, host, port or _PORTS[parts.scheme])


def _plain(host: str) -> str:
    return host.lower().strip("[]").removesuffix(".")


def _literal(host: str) -> Address | None:
    """The address that `host` spells, or None for a name. A spelling that only some parsers read is refused."""
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host)
        except ValueError as cause:
            raise _denied() from cause
    if not _NUMERIC_LABEL.fullmatch(host.rsplit(".", 1)[-1]):
        return None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError as cause:
        raise _denied() from cause


def _in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _is_local_name(host: str) -> bool:
    return "." not in host or any(host == name or host.endswith("." + name) for name in _LOCAL_NAMES)


async def _system_resolve(host: str, port: int) -> tuple[str, ...]:
    try:
        with anyio.fail_after(_RESOLVE_SECONDS):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as cause:
        raise _unresolved() from cause
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _denied() -> Denied:
    return Denied(
        "EGRESS_DENIED",
        "This address is off limits for outbound requests.",
        "Use a public http or https URL, or ask the operator to allow the address.",
    )


def _unresolved() -> Unavailable:
    return Unavailable("HOST_UNRESOLVED", "The host's name does not resolve.", "Check the host name and try again.")
