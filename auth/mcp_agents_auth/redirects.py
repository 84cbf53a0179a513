"""Which addresses a browser may be sent back to, and the comparison that decides it.

Exact text equality, but for loopback addresses, where a native client picks its port when it starts
(RFC 8252 §7.3). Pure functions over text; nothing is fetched or resolved.
"""

import re
from typing import Final
from urllib.parse import SplitResult, urlencode, urlsplit

from mcp_agents.kernel.errors import Invalid

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
MAX_LENGTH: Final = 2048

_SAFE: Final = re.compile(r"[A-Za-z0-9\-._~:/?@!$&'()+,;=%\[\]]+")  # RFC 3986 without "#" and "*"
_AUTHORITY: Final = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[::1\])(?::([0-9]{1,5}))?")


def check_redirect_uri(uri: str) -> None:
    """Raises `Invalid` unless this may be registered: https, or http on a loopback host; nothing clever."""
    if _parsed(uri) is None:
        raise Invalid(
            "REDIRECT_URI_INVALID",
            "A redirect URI is https, or http on 127.0.0.1, [::1] or localhost, without fragment, user or wildcard.",
            "Register the exact address that the client listens on.",
        )


def matches(registered: str, presented: str) -> bool:
    """Whether the presented address is the registered one; on loopback http the port is free."""
    if registered == presented:
        return _parsed(presented) is not None
    ours, theirs = _parsed(registered), _parsed(presented)
    if ours is None or theirs is None or not (_is_loopback(ours) and _is_loopback(theirs)):
        return False
    return (_host(ours), ours.path, ours.query) == (_host(theirs), theirs.path, theirs.query)


def origin(uri: str) -> str:
    """`scheme://host[:port]` of a checked redirect URI, as a person reads it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


def only_this_machine(uri: str) -> bool:
    """Whether the address is on the machine of whoever opens it."""
    parts = _parsed(uri)
    return parts is not None and _host(parts) in LOOPBACK


def with_answer(uri: str, answer: dict[str, str]) -> str:
    """The redirect URI with the answer's parameters behind its own."""
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(answer)}"


def _parsed(uri: str) -> SplitResult | None:
    if len(uri) > MAX_LENGTH or not _SAFE.fullmatch(uri):
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None or (authority[2] is not None and not 0 < int(authority[2]) < 65536):
        return None
    if parts.scheme != "https" and not _is_loopback(parts):
        return None
    # A browser folds dot segments away, so that what was registered is not where the code would go.
    dotted = re.sub("%2e", ".", parts.path, flags=re.IGNORECASE).split("/")
    return None if {".", ".."} & set(dotted) else parts


def _host(parts: SplitResult) -> str:
    match = _AUTHORITY.fullmatch(parts.netloc)
    return match[1].lower() if match else ""


def _is_loopback(parts: SplitResult) -> bool:
    return parts.scheme == "http" and _host(parts) in LOOPBACK
