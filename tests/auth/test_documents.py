"""Clients that describe themselves: the whole flow with a document on a real server, and documents that are refused."""

import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mcp_agents_auth.clients import USER_GRANTS, Client
from mcp_agents_auth.embedded import Newcomers
from starlette.types import Receive, Scope, Send

from mcp_agents.kernel.errors import AgentsError, Denied
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.fetching import GuardedFetch
from tests.auth.desk import REDIRECT, Desk, YieldingStore, build, opened
from tests.support.clock import TestClock
from tests.support.tool_servers.served import served
from tests.toolsets.test_egress import HOSTILE

pytestmark = pytest.mark.anyio


@dataclass
class Site:
    """A real server with one document, and how often it was asked for."""

    port: int = 0
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    body: bytes = b""
    asked: int = 0
    holds: anyio.Event | None = None

    @property
    def address(self) -> str:
        """Where the document is: the client's id."""
        return f"http://127.0.0.1:{self.port}/client.json"

    def says(self, **changes: Any) -> None:
        """A good document, with changes; None leaves a member out."""
        document = {"client_id": self.address, "client_name": "Editor", "redirect_uris": [REDIRECT], **changes}
        self.body = json.dumps({name: value for name, value in document.items() if value is not None}).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        if self.holds:
            await self.holds.wait()
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@asynccontextmanager
async def opened_site() -> AsyncIterator[Site]:
    """A site with a good document."""
    site = Site()
    async with served(site, lifespan="off") as port:
        site.port = port
        site.says()
        yield site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site."""
    async with opened_site() as ready:
        yield ready


LOOPBACK = Newcomers(fetch=GuardedFetch(AddressRule(allow_private=True)), loopback=True)


@pytest.fixture
async def desk(clock: TestClock) -> AsyncIterator[Desk]:
    """A server that believes documents on this machine."""
    async with opened(YieldingStore(clock), clock, newcomers=LOOPBACK) as ready:
        yield ready


def client_at(site: Site) -> Client:
    """The client as tests name it."""
    return Client(
        id=site.address, tenant="", name="", redirect_uris=[REDIRECT], grant_types=sorted(USER_GRANTS), scopes=[],
        roles=[], created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )  # fmt: skip


async def test_a_client_nobody_registered_signs_a_person_in(desk: Desk, site: Site) -> None:
    """Consent shows name and address; the token works, is refreshed, and is the user's in the chosen tenant."""
    client = client_at(site)
    await desk.sign_in()
    page = await desk.authorize(desk.query(client))
    assert "Editor" in page.text
    assert site.address in page.text
    issued = await desk.tokens(client)
    token = await desk.auth.verifier.verify(issued["access_token"])
    assert (token.principal.client, token.principal.tenant) == (site.address, "acme")
    assert token.principal.scopes
    again = await desk.refresh(client, issued["refresh_token"])
    assert again.status_code == 200
    assert site.asked == 1


async def test_metadata_says_whether_documents_are_believed(desk: Desk, clock: TestClock) -> None:
    """On here; off where nothing may be fetched, and then such an id is unknown."""
    place = "/.well-known/oauth-authorization-server"
    assert (await desk.http.get(place)).json()["client_id_metadata_document_supported"] is True
    async with opened(YieldingStore(clock), clock) as other:
        assert (await other.http.get(place)).json()["client_id_metadata_document_supported"] is False


async def test_a_document_is_kept_as_long_as_its_server_says(desk: Desk, site: Site, clock: TestClock) -> None:
    """Between a minute and a day; and whoever is signed in stays so when the server is gone."""
    await desk.sign_in()
    for said, seconds in (("max-age=600", 600), ("max-age=1", 60), ("no-store", 60), ("max-age=99999999", 86_400)):
        site.headers["cache-control"] = said
        clock.advance(2 * 86_400)
        before = site.asked
        await desk.sign_in()
        assert (await desk.authorize(desk.query(client_at(site)))).status_code == 200
        clock.advance(seconds - 1)
        await desk.auth.clients.meet(site.address)
        assert site.asked == before + 1, said
        clock.advance(1)
        await desk.auth.clients.meet(site.address)
        assert site.asked == before + 2, said
    issued = await desk.tokens(client_at(site))
    site.status = 500
    clock.advance(1800)
    assert (await desk.auth.verifier.verify(issued["access_token"])).principal.tenant == "acme"


async def test_two_processes_share_what_is_kept(desk: Desk, site: Site, clock: TestClock) -> None:
    """The second one does not ask again."""
    other = build(desk.store, clock, newcomers=LOOPBACK)
    assert await desk.auth.clients.meet(site.address) is not None
    assert await other.clients.meet(site.address) is not None
    assert await other.clients.find(site.address) is not None
    assert site.asked == 1


DOCUMENTS: dict[str, dict[str, Any]] = {
    "another id": {"client_id": "https://app.example/client.json"},
    "no id": {"client_id": None},
    "id with a slash more": {"client_id": "http://127.0.0.1/client.json/"},
    "a secret": {"client_secret": "s3cret"},
    "a secret that never expires": {"client_secret_expires_at": 0},
    "secret authentication": {"token_endpoint_auth_method": "client_secret_basic"},
    "no name": {"client_name": None},
    "a long name": {"client_name": "x" * 101},
    "a name with controls": {"client_name": "a\u202eb"},
    "a name that is a list": {"client_name": ["a"]},
    "no redirect": {"redirect_uris": []},
    "no redirects": {"redirect_uris": None},
    "many redirects": {"redirect_uris": [REDIRECT] * 17},
    "a redirect that is a number": {"redirect_uris": [7]},
    "another grant": {"grant_types": ["client_credentials"]},
    "another response": {"response_types": ["token"]},
    "grants that are a text": {"grant_types": "authorization_code"},
} | {
    f"redirect {uri}": {"redirect_uris": [REDIRECT, uri]}
    for uri in (
        "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "http://evil.example/cb", "ftp://h/x",
        "https://u@app.example/", "https://app.example/*", "https://app.example/#f", "//app.example/cb", "/cb",
        "https://app.example/../x", "custom:/cb", "https://app.example:99999/", "http://127.0.0.1.evil.example/",
    )
}  # fmt: skip


@pytest.mark.parametrize("which", DOCUMENTS)
async def test_a_document_that_says_too_much_or_too_little_is_no_client(desk: Desk, site: Site, which: str) -> None:
    """A page says so; the browser is sent nowhere."""
    site.says(**DOCUMENTS[which])
    await desk.sign_in()
    page = await desk.authorize(desk.query(client_at(site)))
    assert (page.status_code, "location" in page.headers) == (400, False)
    assert await desk.auth.clients.find(site.address) is None


ANSWERS: dict[str, dict[str, Any]] = {
    "not found": {"status": 404},
    "a redirect": {"status": 302, "headers": {"location": "https://app.example/", "content-type": "application/json"}},
    "a page": {"headers": {"content-type": "text/html"}},
    "no type": {"headers": {}},
    "compressed": {"headers": {"content-type": "application/json", "content-encoding": "gzip"}},
    "too large": {"body": b'{"client_id": "' + b"x" * 6_000_000 + b'"}'},
    "no JSON": {"body": b"<html>"},
    "half": {"body": b'{"client_id": '},
    "a list": {"body": b"[]"},
    "deep": {"body": b"[" * 5000},
    "repeated": {"body": b'{"client_id": "a", "client_id": "b"}'},
    "not UTF-8": {"body": b'{"client_name": "\xff"}'},
    "empty": {"body": b""},
}


@pytest.mark.parametrize("which", ANSWERS)
async def test_an_answer_that_is_no_document_is_no_client(desk: Desk, site: Site, which: str) -> None:
    """Whatever its server does; and it is not asked again at once."""
    for name, value in ANSWERS[which].items():
        setattr(site, name, value)
    assert await desk.auth.clients.meet(site.address) is None
    assert await desk.auth.clients.meet(site.address) is None
    assert site.asked == 1


ADDRESSES = [
    "https://app.example", "https://app.example/", "http://app.example/c.json", "https://app.example/c.json#f",
    "https://app.example/c.json?x=1", "https://u@app.example/c.json", "https://u:p@app.example/c.json",
    "https://app.example:8443/c.json", "https://app.example/../c.json", "https://app.example/./c.json",
    "https://APP.example/c.json", "https://app.example/%2e%2e/c.json", "https://app.example/c json", "ftp://a.example/c",
    "https://", "https:///c.json", "https://[::1/c.json", "//app.example/c.json", "https://app.example\\c.json",
    "https://app.example/c.json\n", "https://" + "a" * 600 + ".example/c.json", "javascript://app.example/c.json",
    "http://127.0.0.1.evil.example/c.json", "http://localhost.evil.example:80/c.json", "cl_0", "",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_id_of_another_form_is_not_asked_for(desk: Desk, address: str) -> None:
    """Not even on a server that believes documents on its own machine."""
    assert not desk.auth.documents.is_address(address)
    assert await desk.auth.clients.meet(address) is None


async def test_only_the_named_domains_are_asked(clock: TestClock) -> None:
    """And their subdomains; not what merely ends alike."""
    rule = Newcomers(fetch=GuardedFetch(AddressRule()), domains=("app.example",))
    documents = build(YieldingStore(clock), clock, newcomers=rule).documents
    for address, asked in (
        ("https://app.example/c", True),
        ("https://a.app.example/c", True),
        ("https://evilapp.example/c", False),
        ("https://app.example.evil/c", False),
        ("http://127.0.0.1:1/c", False),
    ):
        assert documents.is_address(address) is asked, address


@pytest.mark.parametrize("host", HOSTILE)
async def test_no_document_is_fetched_from_an_inner_address(host: str) -> None:
    """The rule refuses it before there is a connection."""
    where = f"[{host}]" if ":" in host else host
    with pytest.raises(AgentsError) as refused:
        await GuardedFetch(AddressRule(resolve=_nobody)).get(f"https://{where}/c.json", limit=100, seconds=1)
    assert isinstance(refused.value, Denied)


async def _nobody(host: str, port: int) -> tuple[str, ...]:
    return ("127.0.0.1",)


async def test_a_server_that_does_not_answer_is_given_up(site: Site) -> None:
    """After the time it is given; nothing is left open."""
    site.holds = anyio.Event()
    with pytest.raises(AgentsError) as refused:
        await GuardedFetch(AddressRule(allow_private=True)).get(site.address, limit=100, seconds=0.2)
    assert refused.value.code == "FETCH_FAILED"
    site.holds.set()


async def test_a_certificate_counts_only_if_an_authority_we_know_signed_it(tmp_path: Path) -> None:
    """Over real TLS: refused by the public authorities, read with one that signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(pem)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    site = Site(body=b"{}")
    files = {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_keyfile": str(tmp_path / "key.pem")}
    async with served(site, lifespan="off", **files) as port:
        url, rule = f"https://127.0.0.1:{port}/c.json", AddressRule(allow_private=True)
        with pytest.raises(AgentsError) as refused:
            await GuardedFetch(rule).get(url, limit=100, seconds=5)
        assert (refused.value.code, site.asked) == ("FETCH_FAILED", 0)
        known = ssl.create_default_context(cadata=pem.decode())
        assert (await GuardedFetch(rule, known).get(url, limit=100, seconds=5)).body == b"{}"
