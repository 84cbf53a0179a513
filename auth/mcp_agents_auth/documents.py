"""Clients that describe themselves: client ID metadata documents (draft-ietf-oauth-client-id-metadata-document).

The client's id is the https address of a small JSON document that says its name and where answers may go; nobody has
to register it. It is fetched when somebody is about to sign in, through the guarded fetch, and kept for as long as its
server says (a minute to a day). What is worth a token later is looked up in what is kept, so that a document's server
that is down, or slow, delays no call and ends no grant. Such a client is the platform's: any user may use it, what it
may have is what the user grants.
"""

import hashlib
import json
import re
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from authlib.oauth2.rfc7591 import ClientMetadataClaims
from msgspec import Struct

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Invalid, WrongRevision
from mcp_agents.kernel.fetch import Fetch, Fetched
from mcp_agents.kernel.tenancy import PlatformSpace
from mcp_agents_auth.redirects import LOOPBACK, check_redirect_uri

MAX_BYTES: Final = 5 * 1024
MAX_REDIRECT_URIS: Final = 16
_FETCH_SECONDS: Final = 3.0
_SHORTEST, _USUAL, _LONGEST = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_KEPT_SECONDS: Final = 180 * 24 * 3600
"""Longer than any grant that was given to the client lives."""
_REFUSED_SECONDS: Final = 30.0
_REFUSED: Final = 1024
_AT_ONCE: Final = 8

_URL: Final = re.compile(r"[A-Za-z0-9\-._~:/@!$&'()+,;=\[\]]{8,512}")  # no query, no fragment, no escapes
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,9})")
_METHODS: Final = ("none",)


class Document(Struct, frozen=True, kw_only=True):
    """What a client said of itself, and until when it is believed without asking again."""

    v: int = 1
    client_id: str
    name: str
    redirect_uris: list[str]
    fetched_at: datetime
    fresh_until: datetime


class Documents:
    """The documents of clients, shared by every process.

    Args:
        fetch: reads a document; None: no client describes itself here.
        domains: the only hosts, and their subdomains, that documents may be at; empty: any.
        loopback: documents may be at plain http on this machine too, for a server that only this machine reaches.
    """

    def __init__(
        self, platform: PlatformSpace, clock: Clock, fetch: Fetch | None, *, domains: tuple[str, ...], loopback: bool
    ) -> None:
        self._records = platform.records("cb_auth", "document", kind=Document)
        self._clock, self._fetch, self._domains, self._loopback = clock, fetch, domains, loopback
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._fetching = anyio.Semaphore(_AT_ONCE)

    @property
    def on(self) -> bool:
        """Whether clients may describe themselves."""
        return self._fetch is not None

    def is_address(self, client_id: str) -> bool:
        """Whether a client's id is the address of a document that may be asked for here."""
        if self._fetch is None or not _URL.fullmatch(client_id):
            return False
        try:
            parts = urlsplit(client_id)
            port = parts.port
        except ValueError:
            return False
        host = parts.hostname or ""
        local = self._loopback and parts.scheme == "http" and parts.netloc.rpartition(":")[0] in LOOPBACK
        if not local and (parts.scheme != "https" or port not in (None, 443)):
            return False
        segments = parts.path.split("/")
        if (
            parts.path in ("", "/")
            or "@" in parts.netloc
            or not host
            or parts.netloc != parts.netloc.lower()
            or {".", ".."} & set(segments)
        ):
            return False
        return local or not self._domains or any(host == each or host.endswith(f".{each}") for each in self._domains)

    async def known(self, client_id: str) -> Document | None:
        """What is kept of a client, fresh or not; nothing is fetched."""
        found = await self._records.get(_key(client_id)) if self.is_address(client_id) else None
        return found.value if found and found.value.client_id == client_id else None

    async def current(self, client_id: str) -> Document | None:
        """What a client says of itself now; None when there is no document at its address that may be believed."""
        if self._fetch is None or not self.is_address(client_id):
            return None
        found = await self._records.get(_key(client_id))
        if found and found.value.client_id == client_id and found.value.fresh_until > self._clock.now():
            return found.value
        now = self._clock.monotonic()
        if self._refused.get(client_id, now) > now:
            return None
        try:
            document = await self._fetched(self._fetch, client_id)
        except AgentsError:
            self._refused[client_id] = now + _REFUSED_SECONDS
            if len(self._refused) > _REFUSED:
                self._refused.popitem(last=False)
            return None
        try:
            revision = found.revision if found else 0
            await self._records.update(_key(client_id), value=document, revision=revision, ttl=_KEPT_SECONDS)
        except WrongRevision:
            pass  # another process fetched it in the same moment
        return document

    async def _fetched(self, fetch: Fetch, client_id: str) -> Document:
        async with self._fetching:
            answer = await fetch.get(client_id, limit=MAX_BYTES, seconds=_FETCH_SECONDS)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if answer.status != 200 or not (kind == "application/json" or kind.endswith("+json")):
            raise _unfit()
        name, redirect_uris = _read(client_id, answer.body)
        now = self._clock.now()
        return Document(
            client_id=client_id, name=name, redirect_uris=redirect_uris, fetched_at=now, fresh_until=now + _life(answer)
        )


def _read(client_id: str, body: bytes) -> tuple[str, list[str]]:
    """Name and redirect URIs of a document. Raises `Invalid` for one that says anything we would not do."""
    try:
        said: Any = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as cause:
        raise _unfit() from cause
    if not isinstance(said, dict) or said.get("client_id") != client_id:
        raise _unfit()
    if "client_secret" in said or "client_secret_expires_at" in said:
        raise _unfit()
    if said.get("token_endpoint_auth_method", "none") not in _METHODS:
        raise _unfit()
    name, uris = said.get("client_name"), said.get("redirect_uris")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 100 or not name.isprintable():
        raise _unfit()
    if not isinstance(uris, list) or not 0 < len(uris) <= MAX_REDIRECT_URIS:
        raise _unfit()
    if not _lists(said, "grant_types", "authorization_code") or not _lists(said, "response_types", "code"):
        raise _unfit()
    try:
        ClientMetadataClaims(said, {}).validate()
    except Exception as cause:  # authlib raises errors of several kinds, and of none for odd types
        raise _unfit() from cause
    for uri in uris:
        if not isinstance(uri, str):
            raise _unfit()
        check_redirect_uri(uri)
    return name.strip(), uris


def _lists(said: dict[str, Any], member: str, needed: str) -> bool:
    found = said.get(member, [needed])
    return isinstance(found, list) and needed in found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is repeated")
    return found


def _life(answer: Fetched) -> timedelta:
    said = answer.headers.get("cache-control", "").lower()
    if "no-store" in said or "no-cache" in said:
        return _SHORTEST
    seconds = _MAX_AGE.search(said)
    life = timedelta(seconds=int(seconds[1])) if seconds else _USUAL
    return min(max(life, _SHORTEST), _LONGEST)


def _key(client_id: str) -> str:
    return hashlib.sha256(client_id.encode()).hexdigest()


def _unfit() -> Invalid:
    return Invalid(
        "CLIENT_DOCUMENT_INVALID",
        "The client's metadata document cannot be used.",
        "It is JSON of at most 5 KiB with client_id, client_name and redirect_uris, and no secret.",
    )
