"""Which addresses may be asked for."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.kernel.errors import Denied, Unavailable
from mcp_agents.security.egress import AddressRule

HOSTILE = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "127.0.0.1.",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1.254",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "2852039166",
    "0xa9fea9fe",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "0.1.2.3",
    "00.0.0.0",
    "010.0.0.1",
    "1.2.3.4.5",
    "256.256.256.256",
    "999999999999",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:8.8.8.8]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:53aa:64c::1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[100::1]",
    "[5f00::1]",
    "[3fff::1]",
    "[v1.fe80::a]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "app.localhost",
    "metadata",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "instance-data",
    "printer",
    "nas.local",
    "db.internal",
    "host.lan",
    "box.home.arpa",
    "user@example.org",
    "user:pw@example.org",
    "example.org@127.0.0.1",
    "127.0.0.1#@example.org",
    "127.0.0.1%00.example.org",
    "exam%70le.org",
    "①②⑦.0.0.1",
    "ⓔxample.org",
    "127。0。0。1",
    "example.org\\@127.0.0.1",
    "a..example.org",
    "-a.example.org",
    "[]",
    "[example.org]",
    "example.org:0",
    "example.org:99999",
    "example.org:x",
]

ALWAYS = ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200", "metadata.google.internal", "224.0.0.1", "0.0.0.0",
          "[fe80::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "[64:ff9b::7f00:1]", "168.63.129.16"]  # fmt: skip


async def public(host: str, port: int) -> tuple[str, ...]:
    """Any name is somewhere out there."""
    return ("93.184.216.34",)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTILE)
async def test_a_hostile_host_is_denied(host: str, scheme: str) -> None:
    """By its text, even where the resolver would say something harmless."""
    with pytest.raises(Denied) as caught:
        await AddressRule(resolve=public).check(f"{scheme}://{host}/mcp")
    assert caught.value.code == "EGRESS_DENIED"


@pytest.mark.parametrize("host", ALWAYS)
async def test_some_addresses_are_denied_even_to_a_loopback_deployment(host: str) -> None:
    """Metadata, link-local, multicast and disguises."""
    with pytest.raises(Denied):
        await AddressRule(allow_private=True, resolve=public).check(f"http://{host}/")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "[::1]", "localhost", "10.1.2.3", "nas.local", "[fd12::1]"])
async def test_a_loopback_deployment_reaches_its_own_network(host: str) -> None:
    """As its owner does."""
    await AddressRule(allow_private=True, resolve=public).check(f"http://{host}/")


@pytest.mark.parametrize(
    "url", ["ftp://example.org/", "file:///etc/passwd", "gopher://example.org", "//example.org", "example.org",
            "http:example.org", "http:///x", "javascript:alert(1)", "http://exa mple.org", "http://example.org/\n",
            "unix:/var/run/x", "ws://example.org", "", "http://", "data:text/plain,x"]
)  # fmt: skip
async def test_what_is_no_plain_web_address_is_denied(url: str) -> None:
    """Only http and https, well formed."""
    with pytest.raises(Denied):
        await AddressRule(allow_private=True, resolve=public).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "http://example.org:8080/x?y=z#f",
        "https://EXAMPLE.org./",
        "https://xn--bcher-kva.example/",
        "https://93.184.216.34/",
        "https://[2606:4700::1111]/",
    ],
)
async def test_a_public_address_passes(url: str) -> None:
    """By name and by number."""
    await AddressRule(resolve=public).check(url)


@pytest.mark.parametrize("found", [("127.0.0.1",), ("93.184.216.34", "10.0.0.1"), ("::1",), ("::ffff:10.0.0.1",)])
async def test_a_name_with_one_bad_address_is_denied_as_a_whole(found: tuple[str, ...]) -> None:
    """A mixed answer is an attack."""

    async def resolve(host: str, port: int) -> tuple[str, ...]:
        return found

    with pytest.raises(Denied):
        await AddressRule(resolve=resolve).check("https://example.org/")


async def test_our_own_origin_passes_and_its_neighbours_do_not() -> None:
    """Scheme, host and port all count."""
    rule = AddressRule(allowed_origins=frozenset({"http://127.0.0.1:8000"}))
    await rule.check("http://127.0.0.1:8000/mcp/agent/x")
    for url in ("https://127.0.0.1:8000/", "http://127.0.0.1:8001/", "http://127.0.0.2:8000/", "http://127.0.0.1/"):
        with pytest.raises(Denied):
            await rule.check(url)


async def test_a_name_without_an_address_is_unavailable() -> None:
    """Not denied: it may come back."""

    async def nothing(host: str, port: int) -> tuple[str, ...]:
        return ()

    with pytest.raises(Unavailable):
        await AddressRule(resolve=nothing).check("https://example.org/")


@given(st.integers(0, 2**32 - 1))
def test_no_number_that_the_standard_library_calls_private_passes(number: int) -> None:
    """A second opinion on every IPv4 address."""
    address = ipaddress.IPv4Address(number)
    if not address.is_global or address.is_multicast or address.is_reserved:
        with pytest.raises(Denied):
            AddressRule().inspect(f"http://{address}/")
