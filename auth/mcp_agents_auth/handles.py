"""Opaque handles: what is given out once, and the digest that is stored in its place.

Codes, refresh tokens, sign-in links, browser sessions and client secrets are all such handles. Nothing that
opens a door is readable in the store. Below it only the standard library.
"""

import base64
import hashlib
import hmac
import re
import secrets
from typing import Final

HANDLE_BYTES: Final = 32

_SID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_handle(prefix: str = "") -> str:
    """256 random bits as base64url behind `prefix`."""
    return prefix + secrets.token_urlsafe(HANDLE_BYTES)


def digest(text: str) -> str:
    """SHA-256 in hexadecimal: safe as a key part and useless to whoever reads the store."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same(left: str, right: str) -> bool:
    """Whether two texts are equal, in time that does not tell where they differ."""
    return hmac.compare_digest(left.encode("utf-8", "surrogatepass"), right.encode("utf-8", "surrogatepass"))


def challenge_of(verifier: str) -> str:
    """The PKCE S256 challenge of a verifier (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode("ascii")


def bound_token(secret: str, purpose: str) -> str:
    """What only the holder of `secret` can show for `purpose`; used against request forgery."""
    return hmac.new(secret.encode(), purpose.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def is_sid(text: str) -> bool:
    """Whether a text from outside has the form of a grant family's name."""
    return _SID.fullmatch(text) is not None
