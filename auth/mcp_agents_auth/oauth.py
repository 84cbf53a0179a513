"""The errors of the OAuth protocol, by their registered names (RFC 6749, 7591, 8707).

Not part of the house's error tree: these are answers of a protocol, rendered by `http` alone. Descriptions
are public; they never repeat what the caller sent.
"""

from typing import Final, Literal

ErrorCode = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
    "request_not_supported",
    "request_uri_not_supported",
    "temporarily_unavailable",
    "invalid_redirect_uri",
    "invalid_client_metadata",
    "invalid_dpop_proof",
]

Parameters = dict[str, str]
"""Request parameters: each name once, none empty."""

SCOPE_LIMIT: Final = 4096


class OAuthError(Exception):
    """A request is refused with `code`; `description` is for the client's developer."""

    def __init__(self, code: ErrorCode, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code: ErrorCode = code
        self.description = description


class RedirectError(OAuthError):
    """As `OAuthError`, after client and redirect URI were validated: the answer goes to the client."""

    def __init__(self, error: OAuthError, redirect_uri: str, state: str) -> None:
        super().__init__(error.code, error.description)
        self.redirect_uri = redirect_uri
        self.state = state


def requested_scopes(parameters: Parameters) -> frozenset[str] | None:
    """The scopes asked for, or None when the parameter is absent."""
    text = parameters.get("scope")
    if text is None:
        return None
    if len(text) > SCOPE_LIMIT or not text.isascii():
        raise OAuthError("invalid_scope", "The scope is malformed.")
    return frozenset(text.split())
