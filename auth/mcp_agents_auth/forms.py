"""Reads urlencoded parameters: at most 16 KiB and 64 of them, none repeated, none silently mended.

Starlette's own form parsing is not used: it takes multipart and, for urlencoded bodies, does not keep limits.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request

MAX_BYTES: Final = 16 * 1024
MAX_FIELDS: Final = 64


class FormError(Exception):
    """The parameters cannot be read; `status` is the HTTP status that says why."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(description)
        self.status, self.description = status, description


@dataclass(frozen=True, slots=True)
class Form:
    """Parameters with a value (an empty one counts as absent), and the names given more than once."""

    parameters: dict[str, str]
    repeated: frozenset[str]

    def once(self) -> dict[str, str]:
        """The parameters. Raises `FormError` when one is repeated."""
        if self.repeated:
            raise FormError(400, "A parameter is repeated.")
        return self.parameters

    def encoded(self) -> str:
        """The parameters as a query string of plain ASCII."""
        return urlencode(self.parameters)


def parse(data: bytes) -> Form:
    """The parameters of a query string or body. Raises `FormError`."""
    if len(data) > MAX_BYTES:
        raise FormError(413, "The request is too large.")
    try:
        pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as malformed:
        raise FormError(400, "The parameters are malformed.") from malformed
    names = [name for name, _ in pairs]
    repeated = frozenset(name for name in names if names.count(name) > 1)
    return Form({name: value for name, value in pairs if value}, repeated)


def query_of(request: Request) -> Form:
    """The query's parameters. Raises `FormError`."""
    return parse(request.scope["query_string"])


async def body_of(request: Request) -> Form:
    """The body's parameters. Raises `FormError` before reading more than the limit."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise FormError(415, "The body must be application/x-www-form-urlencoded.")
    return parse(await _whole(request, MAX_BYTES))


async def json_of(request: Request, limit: int) -> bytes:
    """A body that says it is JSON, not yet read as such. Raises `FormError` before reading more than the limit."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise FormError(415, "The body must be application/json.")
    return await _whole(request, limit)


async def _whole(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise FormError(413, "The request is too large.")
    return bytes(body)
