"""How an answer of a tool server becomes an `Outcome`.

The question each branch settles is whether the call may have happened: `Refused` only where it certainly
did not, or where the server answered that it failed; `Broken` in every doubt. Pure functions; `upstream`
calls them. Nothing here repeats a secret: of our own side only fixed sentences are said.
"""

from typing import Any, Final

import mcp_types as mcp
import msgspec
from mcp.shared.exceptions import MCPError

from mcp_agents.agents.schema import depth_over
from mcp_agents.kernel.toolset import Broken, Outcome, Refused, Returned
from mcp_agents_tools.toolsets.transport import UNSENT, Kind, Trouble

TEXT_LIMIT: Final = 64 * 1024
"""Bytes of text, and of structured content as JSON, that a result keeps."""

_STRUCTURED_DEPTH: Final = 64
_UNSENT_SAYS: Final = {
    Kind.UNREACHABLE: ("TOOL_SERVER_UNREACHABLE", "The tool server cannot be reached."),
    Kind.DENIED: ("EGRESS_DENIED", "The tool server's address is off limits."),
    Kind.UNAUTHORIZED: ("TOOL_SERVER_UNAUTHORIZED", "The tool server did not accept our sign-in."),
    Kind.SESSION_GONE: ("TOOL_SERVER_UNREACHABLE", "The tool server forgot our session."),
    Kind.REJECTED: ("TOOL_SERVER_REJECTED", "The tool server rejected the request."),
}
_BROKEN_SAYS: Final = {
    Kind.LOST: ("TOOL_CONNECTION_LOST", "The connection to the tool server was lost while the call was out."),
    Kind.ENCODED: ("TOOL_ANSWER_REFUSED", "The tool server's answer was compressed, which is not accepted."),
    Kind.TOO_LARGE: ("TOOL_ANSWER_REFUSED", "The tool server's answer was larger than is accepted."),
    Kind.STATUS: ("TOOL_SERVER_FAILED", "The tool server failed while the call was out."),
}

CONNECTION_LOST: Final = Broken(code="TOOL_CONNECTION_LOST", message=_BROKEN_SAYS[Kind.LOST][1])
TIMED_OUT: Final = Broken(code="TOOL_TIMEOUT", message="The tool did not answer in time.")
ANSWER_INVALID: Final = Broken(
    code="TOOL_ANSWER_INVALID", message="The tool server's answer does not follow the protocol."
)
NEEDS_INPUT: Final = Refused(
    code="TOOL_NEEDS_INPUT", message="The tool asks for input from a person, which agents cannot give it."
)


def of_result(result: mcp.CallToolResult) -> Outcome:
    """A tool's own answer: returned, or refused when the tool says it is an error."""
    text, structured = "\n".join(_described(part) for part in result.content), result.structured_content
    note = ""
    if structured is not None:
        if depth_over(structured, _STRUCTURED_DEPTH):
            structured, note = None, "\n[structured content was left out: it is nested too deeply]"
        else:
            encoded = msgspec.json.encode(structured)
            text = text or encoded.decode()
            if len(encoded) > TEXT_LIMIT:
                structured = None
                note = f"\n[structured content was left out: it has {len(encoded)} bytes of at most {TEXT_LIMIT}]"
    text = bounded(text) + note
    if result.is_error:
        return Refused(code="TOOL_ERROR", message=text or "The tool reported an error without a text.")
    return Returned(text=text, structured=structured)


def of_error(error: MCPError, trouble: Trouble | None) -> Outcome:
    """A protocol error: from our transport (`trouble`), from the SDK, or from the server."""
    if trouble is not None and trouble.kind in UNSENT:
        code, message = _UNSENT_SAYS[trouble.kind]
        return Refused(code=code, message=message)
    if trouble is not None:
        code, message = _BROKEN_SAYS[trouble.kind]
        return Broken(code=code, message=message)
    if error.code == mcp.REQUEST_TIMEOUT:
        return TIMED_OUT
    if error.code == mcp.CONNECTION_CLOSED:
        return CONNECTION_LOST
    if error.code in (mcp.PARSE_ERROR, mcp.INVALID_REQUEST):
        # The SDK says so of an answer that it cannot read; the call itself may have happened.
        return ANSWER_INVALID
    said = bounded(error.error.message)
    if error.code in (mcp.INVALID_PARAMS, mcp.METHOD_NOT_FOUND):
        return Refused(code="TOOL_REJECTED", message=said)
    return Refused(code="TOOL_ERROR", message=said)


def bounded(text: str) -> str:
    """The text up to `TEXT_LIMIT` bytes of UTF-8, saying so where it was longer."""
    data = text.encode("utf-8", "replace")
    if len(data) <= TEXT_LIMIT:
        return text
    return data[:TEXT_LIMIT].decode("utf-8", "ignore") + f"\n[cut: the first {TEXT_LIMIT} of {len(data)} bytes]"


def _described(part: Any) -> str:
    match part:
        case mcp.TextContent():
            return part.text
        case mcp.ImageContent():
            return f"[image, {part.mime_type}, about {len(part.data) * 3 // 4} bytes, not shown]"
        case mcp.AudioContent():
            return f"[audio, {part.mime_type}, about {len(part.data) * 3 // 4} bytes, not shown]"
        case mcp.ResourceLink():
            return f"[resource {part.name} at {part.uri}]"
        case mcp.EmbeddedResource(resource=mcp.TextResourceContents() as inner):
            return f"[resource {inner.uri}]\n{inner.text}"
        case mcp.EmbeddedResource():
            return f"[resource {part.resource.uri}, {part.resource.mime_type or 'unknown type'}, not shown]"
        case _:
            return "[content of an unknown kind]"
