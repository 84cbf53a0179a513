"""What goes wrong at a provider, in the house's eight kinds.

litellm gives the errors of all providers a few classes of its own, which are recognised here by name, so
that this module does not import litellm. The provider's words are looked at but never passed on: they may
hold a key, or another tenant's text.

Errors, whatever the provider calls them:

| code | kind | when |
| --- | --- | --- |
| MODEL_KEY_REFUSED | Denied | the key is missing, wrong, or has no right to this model (401, 403) |
| MODEL_QUOTA_EXHAUSTED | Exhausted | the account is out of credit (402, `insufficient_quota`) |
| MODEL_RATE_LIMITED | Exhausted | too many requests (429); `retry_after_ms` from Retry-After |
| MODEL_TIMEOUT | Timeout | no whole answer within `ModelRequest.timeout` seconds, or a provider's 408 |
| MODEL_CONTEXT_TOO_LONG | Invalid | the conversation does not fit the model |
| MODEL_CONTENT_FILTERED | Invalid | the provider's filter refused the text or cut the answer |
| MODEL_REQUEST_REFUSED | Invalid | any other 400 or 422 |
| MODEL_NOT_FOUND | NotFound | no such model or provider |
| MODEL_UNAVAILABLE | Unavailable | 5xx, or no connection |
| MODEL_ANSWER_MALFORMED | Unavailable | not JSON, no choices, a stream without its end |

A break in the middle of an answer is MODEL_ANSWER_MALFORMED. All but the Unavailable ones and MODEL_TIMEOUT
stay the same when tried again at once.

Above it: `litellm_model`. Below: the kernel's errors.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mcp_agents.kernel.errors import AgentsError, Denied, Exhausted, Invalid, NotFound, Timeout, Unavailable

log = logging.getLogger(__name__)

_LONGEST_WAIT_MS: Final = 3_600_000
_FILTER_MARKS: Final = (
    "content_filter",
    "content_policy",
    "content policy",
    "content management policy",
    "safety system",
)
_UNKNOWN_PROVIDER: Final = "llm provider not provided"
_CREDIT_MARKS: Final = ("insufficient_quota", "exceeded your current quota", "credit balance")
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
_BY_NAME: Final[Mapping[str, str]] = {
    # Looked up from the raised class towards its bases, so the narrow classes count before BadRequestError.
    "TimeoutError": "MODEL_TIMEOUT",
    "Timeout": "MODEL_TIMEOUT",
    "APITimeoutError": "MODEL_TIMEOUT",
    "TimeoutException": "MODEL_TIMEOUT",
    "AuthenticationError": "MODEL_KEY_REFUSED",
    "PermissionDeniedError": "MODEL_KEY_REFUSED",
    "RateLimitError": "MODEL_RATE_LIMITED",
    "PaymentRequiredError": "MODEL_QUOTA_EXHAUSTED",
    "ContextWindowExceededError": "MODEL_CONTEXT_TOO_LONG",
    "ContentPolicyViolationError": "MODEL_CONTENT_FILTERED",
    "LiteLLMUnknownProvider": "MODEL_NOT_FOUND",
    "NotFoundError": "MODEL_NOT_FOUND",
    "BadRequestError": "MODEL_REQUEST_REFUSED",
    "UnprocessableEntityError": "MODEL_REQUEST_REFUSED",
    "APIConnectionError": "MODEL_UNAVAILABLE",
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


def refusal(cause: BaseException) -> AgentsError:
    """The error of the module's table for whatever litellm raised. The provider's own words stay behind."""
    if type(cause).__name__ == "MidStreamFallbackError":
        cause = getattr(cause, "original_exception", None) or cause
        code = _code(cause) if not _is_connection(cause) else "MODEL_ANSWER_MALFORMED"
    else:
        code = _code(cause)
    log.info("the provider's answer was %s (%s): %s", type(cause).__name__, getattr(cause, "status_code", None), code)
    return model_error(code, _wait_ms(cause) if code == "MODEL_RATE_LIMITED" else None)


def _is_connection(cause: BaseException) -> bool:
    return type(cause).__name__ in ("APIConnectionError", "MidStreamFallbackError")


def _code(cause: BaseException) -> str:
    names = [kind.__name__ for kind in type(cause).__mro__]
    code = next((_BY_NAME[name] for name in names if name in _BY_NAME), "")
    if not code:
        status = getattr(cause, "status_code", None)
        status = status if isinstance(status, int) else 0
        code = _BY_STATUS.get(status) or ("MODEL_UNAVAILABLE" if status >= 500 else "")
    said = str(cause).lower()
    if code == "MODEL_REQUEST_REFUSED" and _UNKNOWN_PROVIDER in said:
        return "MODEL_NOT_FOUND"
    if code == "MODEL_REQUEST_REFUSED" and any(mark in said for mark in _FILTER_MARKS):
        return "MODEL_CONTENT_FILTERED"
    if code == "MODEL_RATE_LIMITED" and any(mark in said for mark in _CREDIT_MARKS):
        return "MODEL_QUOTA_EXHAUSTED"
    return code or "MODEL_ANSWER_MALFORMED"


def _wait_ms(cause: BaseException) -> int | None:
    """Retry-After in milliseconds, from seconds or a date, at most an hour; None when it was not said."""
    headers = getattr(cause, "litellm_response_headers", None) or {}
    said = headers.get("retry-after")
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


def model_error(code: str, retry_after_ms: int | None = None) -> AgentsError:
    """The error of that code, ready to be raised."""
    kind, public, next_step = _TABLE[code]
    return kind(code, public, next_step, retry_after_ms=retry_after_ms)
