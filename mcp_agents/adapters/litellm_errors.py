"""What litellm raises, as the codes of `model_errors`.

litellm gives the errors of all providers a few classes of its own, which are recognised here by name, so
that this module does not import litellm.

Above it: `litellm_model`. Below: `model_errors`.
"""

import logging
from collections.abc import Mapping
from typing import Final

from mcp_agents.adapters.model_errors import code_of_status, model_error, refined
from mcp_agents.kernel.errors import AgentsError

log = logging.getLogger(__name__)

_UNKNOWN_PROVIDER: Final = "llm provider not provided"
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


def refusal(cause: BaseException) -> AgentsError:
    """The error of `model_errors` for whatever litellm raised. The provider's own words stay behind."""
    if type(cause).__name__ == "MidStreamFallbackError":
        cause = getattr(cause, "original_exception", None) or cause
        code = _code(cause) if not _is_connection(cause) else "MODEL_ANSWER_MALFORMED"
    else:
        code = _code(cause)
    log.info("the provider's answer was %s (%s): %s", type(cause).__name__, getattr(cause, "status_code", None), code)
    headers = getattr(cause, "litellm_response_headers", None) or {}
    return model_error(code, headers.get("retry-after"))


def _is_connection(cause: BaseException) -> bool:
    return type(cause).__name__ in ("APIConnectionError", "MidStreamFallbackError")


def _code(cause: BaseException) -> str:
    names = [kind.__name__ for kind in type(cause).__mro__]
    code = next((_BY_NAME[name] for name in names if name in _BY_NAME), "")
    if code in ("", "MODEL_REQUEST_REFUSED"):  # litellm calls some other refusals bad requests too
        status = getattr(cause, "status_code", None)
        code = (code_of_status(status) if isinstance(status, int) else "") or code
    said = str(cause)
    if code == "MODEL_REQUEST_REFUSED" and _UNKNOWN_PROVIDER in said.lower():
        return "MODEL_NOT_FOUND"
    return refined(code, said) or "MODEL_ANSWER_MALFORMED"
