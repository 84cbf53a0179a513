"""Whether a text that a model chose lies under a folder or an address, whatever way it was written.

Judged by what a server would make of it, on the safe side: what can be read in two ways, or cannot be read, lies
under nothing. Pure; no file system is asked, so links are the server's own matter.
"""

import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ODD: Final = re.compile(r"[\x00-\x1f\x7f\\]|[^\x00-\x7f]")
_DECODINGS: Final = 3


def lies_under(arguments: Mapping[str, Any], argument: str, under: tuple[str, ...]) -> bool:
    """Whether the argument is there, and it, or each of its entries, lies under one of `under`."""
    value = arguments.get(argument)
    texts = value if isinstance(value, list) and value else [value]
    return all(isinstance(text, str) and any(_under(text, place) for place in under) for text in texts)


def _under(text: str, place: str) -> bool:
    found, wanted = _plain(text), _plain(place)
    if found is None or wanted is None or found[0] != wanted[0]:
        return False
    folder = wanted[1].rstrip("/")
    return found[1] == (folder or "/") or found[1].startswith(f"{folder}/")


def _plain(text: str) -> tuple[str, str] | None:
    """Where it points (scheme, host and port; "" for a path) and the path there; None when that is not certain."""
    for _ in range(_DECODINGS):
        try:
            decoded = unquote(text, errors="strict")
        except UnicodeDecodeError:
            return None
        if decoded == text:
            break
        text = decoded
    if "%" in text or _ODD.search(text) or text != text.strip():
        return None
    if not _URL.match(text):
        return ("", posixpath.normpath(f"/{text.lstrip('/')}")) if text.startswith("/") else None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if "@" in parts.netloc or not parts.hostname:
        return None
    known = {"http": 80, "https": 443}.get(parts.scheme.lower())
    where = f"{parts.scheme.lower()}://{parts.hostname.removesuffix('.')}:{port or known}"
    return where, posixpath.normpath(f"/{parts.path.lstrip('/')}")
