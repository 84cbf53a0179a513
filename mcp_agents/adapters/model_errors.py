"""What goes wrong at a provider, in the house's eight kinds: one table for every client of a model.

The provider's words are looked at but never passed on: they may hold a key, or another tenant's text.

Errors, whatever the provider calls them:

| code | kind | when |
| --- | --- | --- |
| MODEL_KEY_REFUSED | Denied | the key is missing, wrong, or has no right to this model (401, 403) |
| MODEL_QUOTA_EXHAUSTED | Exhausted | the account is out of credit (402, `insufficient_quota`) |
| MODEL_RATE_LIMITED | Exhausted | too many requests (429); `retry_after_ms` from Retry-After |
| MODEL_ANSWER_TOO_LARGE | Exhausted | more bytes than a client takes for one answer |
| MODEL_TIMEOUT | Timeout | no whole answer within `ModelRequest.timeout` seconds, or a provider's 408 |
| MODEL_CONTEXT_TOO_LONG | Invalid | the conversation does not fit the model (413, `context_length_exceeded`) |
| MODEL_CONTENT_FILTERED | Invalid | the provider's filter refused the text or cut the answer |
| MODEL_REQUEST_REFUSED | Invalid | any other 400 or 422 |
| MODEL_NOT_FOUND | NotFound | no such model or provider (404) |
| MODEL_UNAVAILABLE | Unavailable | 5xx, or no connection |
| MODEL_ANSWER_MALFORMED | Unavailable | not JSON, no choices, a stream without its end, any other status |

A break in the middle of an answer is MODEL_ANSWER_MALFORMED. All but the Unavailable ones and MODEL_TIMEOUT
stay the same when tried again at once.

Above it: the model adapters. Below: the kernel's errors.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mcp_agents.kernel.errors import AgentsError, Denied, Exhausted, Invalid, NotFound, Timeout, Unavailable

_LONGEST_WAIT_MS: Final = 3_600_000
_BY_STATUS: Final = {
    400: "MODEL_REQUEST_REFUSED",
    401: "MODEL_KEY_REFUSED",
    402: "MODEL_QUOTA_EXHAUSTED",
    403: "MODEL_KEY_REFUSED",
    404: "MODEL_NOT_FOUND",
    408: "MODEL_TIMEOUT",
    413: "MODEL_CONTEXT_TOO_LONG",
    422: "MODEL_REQUEST_REFUSED",
    429: "MODEL_RATE_LIMITED",
}
_MARKS: Final[Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    # What one status may mean besides, told apart by what providers write. All in lower case.
    "MODEL_REQUEST_REFUSED": (
        (
            "MODEL_CONTENT_FILTERED",
            ("content_filter", "content_policy", "content policy", "content management policy", "safety system"),
        ),
        (
            "MODEL_CONTEXT_TOO_LONG",
            (
                "context_length_exceeded",
                "maximum context length",
                "maximum context limit",
                "model's context length",
                "exceed context limit",
                "available context size",
                "maximum number of tokens allowed",
                "prompt is too long",
            ),
        ),
        ("MODEL_NOT_FOUND", ("model_not_found",)),
        ("MODEL_KEY_REFUSED", ("invalid_api_key",)),
    ),
    "MODEL_RATE_LIMITED": (
        ("MODEL_QUOTA_EXHAUSTED", ("insufficient_quota", "exceeded your current quota", "credit balance")),
    ),
}
_TABLE: Final[Mapping[str, tuple[type[AgentsError], str, str]]] = {
    "MODEL_KEY_REFUSED": (
        Denied,
        "The model's provider refused the key.",
        "Check the variable named in api_key_env, and that its key may use this model.",
    ),
    "MODEL_QUOTA_EXHAUSTED": (
        Exhausted,
        "The account at the model's provider is out of credit.",
        "Top it up, or choose another virtual_model.",
    ),
    "MODEL_RATE_LIMITED": (
        Exhausted,
        "The model's provider takes no more requests for now.",
        "Try again later, or choose another virtual_model.",
    ),
    "MODEL_ANSWER_TOO_LARGE": (
        Exhausted,
        "The model's provider sent more than one answer may hold.",
        "Ask for less, or lower the agent's max_tokens.",
    ),
    "MODEL_TIMEOUT": (
        Timeout,
        "The model did not answer in time.",
        "Try again, ask for less, or choose a faster virtual_model.",
    ),
    "MODEL_CONTEXT_TOO_LONG": (
        Invalid,
        "The conversation is longer than the model can read.",
        "Shorten the prompt, or choose a model with a larger context window.",
    ),
    "MODEL_CONTENT_FILTERED": (
        Invalid,
        "The provider's content filter stopped the answer.",
        "Rephrase the prompt, or choose another virtual_model.",
    ),
    "MODEL_REQUEST_REFUSED": (
        Invalid,
        "The model's provider refused the request.",
        "Check the agent's temperature, max_tokens and tools against what this model takes.",
    ),
    "MODEL_NOT_FOUND": (
        NotFound,
        "The provider does not know the model.",
        "Check litellm_model and api_base in the settings of this model.",
    ),
    "MODEL_UNAVAILABLE": (
        Unavailable,
        "The model's provider does not answer now.",
        "Try again, or choose another virtual_model.",
    ),
    "MODEL_ANSWER_MALFORMED": (
        Unavailable,
        "The model's provider sent an answer that cannot be read, or broke it off.",
        "Try again; if it stays so, check api_base in the settings of this model.",
    ),
}


def code_of_status(status: int) -> str:
    """The code that a status means by itself; empty for one that says nothing."""
    return _BY_STATUS.get(status) or ("MODEL_UNAVAILABLE" if status >= 500 else "")


def refined(code: str, said: str) -> str:
    """The code, made exact by what the provider wrote with it."""
    said = said.lower()
    for exact, marks in _MARKS.get(code, ()):
        if any(mark in said for mark in marks):
            return exact
    return code


def wait_ms(said: str | None) -> int | None:
    """A Retry-After in milliseconds, from seconds or a date, at most an hour; None when it was not said."""
    if not said:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(_LONGEST_WAIT_MS, max(0, round(min(seconds, 1e6) * 1000))) if seconds == seconds else None


def model_error(code: str, retry_after: str | None = None) -> AgentsError:
    """The error of that code, ready to be raised. `retry_after`, as a provider says it, counts for a rate limit."""
    kind, public, next_step = _TABLE[code]
    return kind(code, public, next_step, retry_after_ms=wait_ms(retry_after) if code == "MODEL_RATE_LIMITED" else None)
