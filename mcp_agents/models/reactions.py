"""What each error of a model means for the next attempt and for the model's health: one table.

A code that is not in it is nobody's outage: it is raised at once and counts against no model.
Above it: `health`, which counts, and `attempts`, which decides where to go next.
"""

from dataclasses import dataclass
from typing import Final, Literal

Then = Literal["anywhere", "elsewhere", "larger", "nowhere"]
"""Where the call may go next: any candidate and the same again, only another, only one that reads more, none."""

Effect = Literal["failure", "refusal", "cooling", "none"]
"""On health: a failure counts towards opening the breaker, a refusal opens it at once, cooling waits."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """One row. `rest_seconds` is how long a refusal keeps the breaker open, or how long a model without a
    Retry-After cools."""

    then: Then
    effect: Effect = "none"
    rest_seconds: float = 0.0


REACTIONS: Final[dict[str, Reaction]] = {
    "MODEL_UNAVAILABLE": Reaction("anywhere", "failure"),
    "MODEL_TIMEOUT": Reaction("anywhere", "failure"),
    "MODEL_ANSWER_MALFORMED": Reaction("anywhere", "failure"),
    "MODEL_STREAM_ENDED": Reaction("anywhere", "failure"),
    "MODEL_RATE_LIMITED": Reaction("anywhere", "cooling", 2.0),
    "MODEL_KEY_REFUSED": Reaction("elsewhere", "refusal", 300.0),
    "MODEL_QUOTA_EXHAUSTED": Reaction("elsewhere", "refusal", 300.0),
    "MODEL_NOT_FOUND": Reaction("elsewhere", "refusal", 600.0),
    "MODEL_CONTEXT_TOO_LONG": Reaction("larger"),
    "MODEL_CONTENT_FILTERED": Reaction("nowhere"),
    "MODEL_REQUEST_REFUSED": Reaction("nowhere"),
}

UNLISTED: Final = Reaction("nowhere")


def reaction(code: str) -> Reaction:
    """The row of a code."""
    return REACTIONS.get(code, UNLISTED)
