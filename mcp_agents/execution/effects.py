"""The identity of a tool call, and what becomes of one whose end was lost.

No effect happens twice silently and none is lost silently: a call is claimed in the log before it is
sent. When another worker finds a claim without an end, a repeatable call is sent again under the same
effect id; any other becomes `unknown`, the model is told, and the same call is refused for the rest of
the run.
"""

from hashlib import sha256

import msgspec

from mcp_agents.kernel.events import AnyEvent, Retry, ToolUnknown
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.toolset import Tool

_encode = msgspec.json.Encoder(order="deterministic").encode


def digest(call: ToolCall) -> str:
    """What a call would do: the tool and its canonical arguments."""
    return sha256(call.tool.encode() + b"\0" + _encode(call.arguments)).hexdigest()[:32]


def objection(call: ToolCall, offered: dict[str, Tool], forbidden: frozenset[str]) -> tuple[str, str] | None:
    """Why a call must not be sent, as code and message for the model; None when it may."""
    if call.tool not in offered:
        names = ", ".join(sorted(offered)) or "none"
        return "TOOL_NOT_OFFERED", f"There is no tool {call.tool}. Offered: {names}."
    if call.malformed:
        return "ARGUMENTS_MALFORMED", f"The arguments are not a JSON object: {call.malformed[:500]}"
    if digest(call) in forbidden:
        return (
            "TOOL_UNKNOWN",
            "An earlier call with the same arguments may have taken effect; it is not repeated in this run.",
        )
    return None


def taken_over(effect_id: str, tool: str, *, repeatable: bool) -> AnyEvent:
    """What is recorded for a claim without an end that another worker left behind."""
    if repeatable:
        return Retry(what=f"tool {tool} {effect_id}", reason="its worker was lost and the tool may be repeated")
    return ToolUnknown(effect_id=effect_id, reason="its worker was lost after the call was claimed")
