"""What setting a budget and setting a quota have in common: the rule for subjects, and the lost race."""

from mcp_agents.kernel.errors import Conflict, Invalid


def check_subject(scope: str, subject: str) -> None:
    """Raises `Invalid` (`SUBJECT_INVALID`) unless there is a subject for every scope but the tenant."""
    if bool(subject) == (scope == "tenant"):
        raise Invalid(
            "SUBJECT_INVALID",
            "Every scope but tenant needs a subject, and tenant takes none.",
            "Name whom it is about, or leave the subject out for the tenant.",
        )


def moved_on() -> Conflict:
    """What is said when the expected revision is not the stored one."""
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")
