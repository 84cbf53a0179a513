"""The identity of a tool call, and what becomes of one whose end was lost.

No effect happens twice silently and none is lost silently: a call is claimed in the log before it is
sent. When another worker finds a claim without an end, a repeatable call is sent again under the same
effect id; for any other the agent's policy says who settles it: the model is told that nobody knows, a
person is asked, or a tool that can tell is called. Pure, but for asking that tool. Above: the loop.
"""

from hashlib import sha256
from typing import Final

import msgspec

from mcp_agents.execution.run import Call
from mcp_agents.kernel.events import AnyEvent, InputRequested, Retry, ToolDone, ToolFailed, ToolUnknown
from mcp_agents.kernel.messages import ToolCall
from mcp_agents.kernel.toolset import Outcome, Returned, Tool

_encode = msgspec.json.Encoder(order="deterministic").encode

REPEATED: Final = "An earlier call with the same arguments may have taken effect."
LOST: Final = "its worker was lost after the call was claimed"


def digest(call: ToolCall) -> str:
    """What a call would do: the tool and its canonical arguments."""
    return sha256(call.tool.encode() + b"\0" + _encode(call.arguments)).hexdigest()[:32]


def objection(call: ToolCall, offered: dict[str, Tool], refused: frozenset[str]) -> tuple[str, str] | None:
    """Why a call must not be sent, whoever would approve it, as code and message for the model; None when it may.

    `refused` are the digests of calls that a person has refused in this run.
    """
    if call.tool not in offered:
        names = ", ".join(sorted(offered)) or "none"
        return "TOOL_NOT_OFFERED", f"There is no tool {call.tool}. Offered: {names}."
    if call.malformed:
        return "ARGUMENTS_MALFORMED", f"The arguments are not a JSON object: {call.malformed[:500]}"
    if digest(call) in refused:
        return "APPROVAL_REFUSED", "A person has refused this call with these arguments; they are not asked again."
    return None


def may_repeat(call: Call, offered: dict[str, Tool]) -> bool:
    """Whether a call that may have happened can be sent again under the same effect id."""
    return call.repeatable and call.call.tool in offered


def repeated(call: Call, reason: str) -> AnyEvent:
    """What is recorded before a call is sent again."""
    return Retry(what=f"tool {call.call.tool} {call.effect_id}", reason=reason)


def asked(call: Call) -> AnyEvent:
    """What is recorded when a person is to say what became of a call."""
    return InputRequested(
        effect_id=call.effect_id,
        question=f"Did the call of {call.call.tool} take effect? Its answer was lost.",
    )


def expired(call: Call) -> AnyEvent:
    """What is recorded when nobody answered in time; the model is told, and goes on."""
    if call.question and call.question.kind == "approval":
        return ToolFailed(
            call_id=call.call.call_id,
            code="APPROVAL_EXPIRED",
            message="Nobody decided in time whether this call may be made. It was not made.",
        )
    return ToolFailed(call_id=call.call.call_id, code="QUESTION_EXPIRED", message="Nobody answered in time.")


def void(call: Call) -> AnyEvent:
    """What is recorded when an approval does not hold for what would be sent now."""
    return ToolFailed(
        call_id=call.call.call_id,
        code="APPROVAL_VOID",
        message="What was to be approved has changed since, so this call was not made. Call it again if needed.",
    )


def verified(call: Call, outcome: Outcome) -> AnyEvent | None:
    """What a verifying tool's answer makes of a call: it happened, or it did not; None when it could not tell.

    The tool is called with `{"effect_id", "tool", "arguments"}` and answers with structured content
    `{"happened": bool, "result"?: text}`.
    """
    match outcome:
        case Returned(structured={"happened": True, **rest}):
            return ToolDone(effect_id=call.effect_id, text=str(rest.get("result") or "The call took effect."))
        case Returned(structured={"happened": False}):
            return ToolFailed(
                effect_id=call.effect_id,
                call_id=call.call.call_id,
                code="TOOL_NOT_DONE",
                message="This call was lost and took no effect. Call it again if needed.",
            )
        case _:
            return None


def unknown(call: Call, reason: str) -> AnyEvent:
    """What is recorded when nobody can tell: the model is told, and the same call is refused from then on."""
    return ToolUnknown(effect_id=call.effect_id, reason=reason)
