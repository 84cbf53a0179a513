"""The one error tree: eight kinds, each with a stable code, a public sentence and a next step.

An error carries what a caller may read (`public`, `next_step`) apart from its cause. How a kind looks
over MCP or HTTP is decided once, in `server.rendering`; no status code stands in a room.
"""

from typing import ClassVar, Final


class AgentsError(Exception):
    """Root of everything the house raises on purpose.

    Args:
        code: stable, upper case, for machines (`AGENT_INACTIVE`).
        public: one sentence that anybody may read; never a secret, a stack trace or a foreign name.
        next_step: what the caller can do now.
        retry_after_ms: when trying again makes sense, where known.
        details: extra public facts (`{"required_scopes": [...]}`); strings and lists of strings.
    """

    kind: ClassVar[str] = "Fault"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        code: str,
        public: str,
        next_step: str = "",
        *,
        retry_after_ms: int | None = None,
        details: dict[str, str | list[str]] | None = None,
    ) -> None:
        super().__init__(f"{code}: {public}")
        self.code = code
        self.public = public
        self.next_step = next_step
        self.retry_after_ms = retry_after_ms
        self.details = details or {}


class Invalid(AgentsError):
    """The request cannot be understood or breaks a rule; the caller can mend it."""

    kind = "Invalid"


class Denied(AgentsError):
    """The caller is known and may not do this."""

    kind = "Denied"


class NotFound(AgentsError):
    """There is no such thing for this caller; another tenant's thing reads the same."""

    kind = "NotFound"


class Conflict(AgentsError):
    """Somebody else changed it first, or the name or key is taken."""

    kind = "Conflict"


class Exhausted(AgentsError):
    """A limit, quota or budget is used up."""

    kind = "Exhausted"


class Timeout(AgentsError):
    """It took longer than it may."""

    kind = "Timeout"
    retryable = True


class Unavailable(AgentsError):
    """Something the house depends on does not answer now."""

    kind = "Unavailable"
    retryable = True


class Fault(AgentsError):
    """A defect of the house; the cause is in the log, not in the answer."""

    kind = "Fault"


KINDS: Final[dict[str, type[AgentsError]]] = {
    kind.kind: kind for kind in (Invalid, Denied, NotFound, Conflict, Exhausted, Timeout, Unavailable, Fault)
}


class Fenced(Exception):
    """An append was refused: somebody else owns this run now. Stop, write nothing more."""


class WrongRevision(Exception):
    """A compare-and-set met another revision than the one it expected."""
