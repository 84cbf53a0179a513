"""What a run asks people, and what they answer, as values.

Three kinds: whether a call may be sent (`approval`), whether one whose answer was lost took effect (`effect`), and
what an agent wants to know (`question`). All of them are answered in one way, `answering.Questions`; a client that
can show a form shows `message` and `schema`. Pure. Above: the fold, the loop, the surface.
"""

from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct

Kind = Literal["approval", "question", "effect"]


class Question(Struct, frozen=True, kw_only=True):
    """Something that a person is asked by a waiting run.

    `schema` is a flat object schema (elicitation's subset) that the content of an answer matches: for an approval
    `{"approve": boolean, "reason"?: string}`, for an effect `{"happened": boolean, "result"?: string}`. `tool` and
    `arguments` are the call that is asked about. `by` is `other` where the run's caller may not answer. `url` is a
    page on which it can be answered, where there is one.
    """

    id: str
    kind: Kind
    message: str
    schema: dict[str, Any]
    tool: str = ""
    arguments: Any = None
    expires_at: datetime | None = None
    by: Literal["any", "other"] = "any"
    url: str = ""

    def over(self, now: datetime) -> bool:
        """Whether its time is over, so that nobody can answer it any more."""
        return self.expires_at is not None and self.expires_at <= now


class Answer(Struct, frozen=True, kw_only=True):
    """What a person says: `accept` with content, `decline`, or `cancel`, which decides nothing."""

    action: Literal["accept", "decline", "cancel"] = "accept"
    content: dict[str, Any] = {}


APPROVAL: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "approve": {"type": "boolean", "title": "Approve", "description": "Whether the call may be sent."},
        "reason": {
            "type": "string",
            "title": "Reason",
            "description": "Why, for the agent and the record.",
            "maxLength": 2000,
        },
    },
    "required": ["approve"],
}
EFFECT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "happened": {"type": "boolean", "title": "It happened", "description": "Whether the call took effect."},
        "result": {
            "type": "string",
            "title": "Result",
            "description": "What the call returned, for the agent to go on with.",
            "maxLength": 100_000,
        },
    },
    "required": ["happened"],
}
