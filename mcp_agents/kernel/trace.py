"""W3C trace context, as text: one trace id joins a run, its model and tool calls, and its children."""

import re
import secrets
from typing import Final

_TRACEPARENT: Final = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")


def new_traceparent() -> str:
    """A fresh sampled `traceparent`."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_of(traceparent: str) -> str:
    """A new span in the same trace; a malformed parent starts a trace of its own."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return f"00-{match[1]}-{secrets.token_hex(8)}-01" if match else new_traceparent()


def trace_id(traceparent: str) -> str:
    """The 32 hex digits that name the trace."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""
