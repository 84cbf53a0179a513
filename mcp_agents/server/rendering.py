"""Errors as each medium shows them: the one table from kinds to MCP and HTTP.

No room knows a status code; whatever is not an `AgentsError` is shown as a `Fault` without its cause.
"""

from typing import Any, Final

import mcp_types as mcp

from mcp_agents.kernel.errors import AgentsError, Fault

HTTP_STATUS: Final[dict[str, int]] = {
    "Invalid": 400,
    "Denied": 403,
    "NotFound": 404,
    "Conflict": 409,
    "Exhausted": 429,
    "Timeout": 504,
    "Unavailable": 503,
    "Fault": 500,
}
JSONRPC_CODE: Final[dict[str, int]] = {
    "Invalid": mcp.INVALID_PARAMS,
    "Denied": mcp.INVALID_PARAMS,
    "NotFound": mcp.INVALID_PARAMS,
    "Conflict": mcp.INVALID_REQUEST,
    "Exhausted": mcp.INTERNAL_ERROR,
    "Timeout": mcp.INTERNAL_ERROR,
    "Unavailable": mcp.INTERNAL_ERROR,
    "Fault": mcp.INTERNAL_ERROR,
}
"""Where the protocol wants an error instead of a tool result: resources and prompts."""

META_PREFIX: Final = "io.github.mcp-agents/"
"""Before every key of ours in `_meta`."""
ERROR_META: Final = f"{META_PREFIX}error"


def public(error: AgentsError) -> dict[str, Any]:
    """An error as data: kind, code, sentence, next step."""
    body: dict[str, Any] = {
        "kind": error.kind,
        "code": error.code,
        "message": error.public,
        "next_step": error.next_step,
        "retryable": error.retryable,
        **error.details,
    }
    if error.retry_after_ms is not None:
        body["retry_after_ms"] = error.retry_after_ms
    return body


def sentence(error: AgentsError) -> str:
    """An error for a reader: `CODE: what happened. What to do.`"""
    return f"{error.code}: {error.public} {error.next_step}".strip()


def tool_error(error: AgentsError) -> mcp.CallToolResult:
    """An error as a tool result that the caller's model can read and mend."""
    return mcp.CallToolResult(
        content=[mcp.TextContent(type="text", text=sentence(error))],
        is_error=True,
        _meta={ERROR_META: public(error)},
    )


def defect() -> Fault:
    """What is shown of anything that was not raised on purpose."""
    return Fault("INTERNAL", "The server met a defect.", "Try again; if it stays, report it with the time of day.")
