"""Answers what runs ask people: one way for every kind of question and every client.

Who may answer, whether it is in time, and whether the answer has the asked-for shape is decided here; the answer
is an event of the run's log, and the run goes on. Above: the surface. Below: `posting`, the run.
"""

import secrets
from typing import Any

from mcp_agents.agents.schema import violations
from mcp_agents.execution.approvals import Approvals
from mcp_agents.execution.posting import Post
from mcp_agents.execution.questions import Answer, Question
from mcp_agents.execution.register import Register
from mcp_agents.execution.run import ExecutionView, Run
from mcp_agents.kernel.errors import Conflict, Denied, Invalid, NotFound
from mcp_agents.kernel.events import ApprovalDecided, InputReceived
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.scopes import RUN_AGENTS
from mcp_agents.kernel.tenancy import TenantSpace

DECIDE = "approvals:run"
"""The right to decide approvals, and to answer what other people's runs ask."""
OWN = RUN_AGENTS
"""The right to answer what one's own runs ask, approvals apart."""


class Questions:
    """Questions of any tenant's runs, always through the answering person's `TenantSpace`."""

    def __init__(self, post: Post, approvals: Approvals, register: Register) -> None:
        self._post, self._approvals, self._register = post, approvals, register

    async def answer(
        self, space: TenantSpace, principal: Principal, execution_id: str, question_id: str, answer: Answer
    ) -> ExecutionView:
        """Answers one question; `question_id` may be empty where the run asks one only. Returns the run after it.

        Raises `NotFound` (`EXECUTION_UNKNOWN`, `QUESTION_UNKNOWN`), `Denied`, `Invalid` (`ANSWER_INVALID`), and
        `Conflict` (`QUESTION_ANSWERED`, `QUESTION_EXPIRED`, `APPROVAL_EXPIRED`, `APPROVAL_VOID`,
        `QUESTION_AMBIGUOUS`, `EXECUTION_NOT_WAITING`).
        """
        run = await self._post.run(space, execution_id)
        question = _still(run, question_id or _only(run))
        _may(principal, run, question)
        await self._refuse_too_late(space, run, question)
        if answer.action == "cancel":
            return run.view()
        event = _event(question, principal, answer)
        run = await self._post.put(space, execution_id, event, lambda run: _still(run, question.id))
        await self._post.wake(space, run, f"told.{question.id}")
        await self._register.sync(space, run)
        return run.view()

    async def _refuse_too_late(self, space: TenantSpace, run: Run, question: Question) -> None:
        """Raises `Conflict` when there is nothing to decide any more; the run is woken to say so in its log."""
        over = question.over(self._approvals.clock.now())
        approval = question.kind == "approval"
        if not over and (not approval or await self._approvals.holds(space, run, run.posed[question.id].call)):
            return
        await self._post.wake(space, run, f"late.{question.id}")
        if not over:
            raise Conflict(
                "APPROVAL_VOID", "What was to be approved has changed since it was asked.", "Look at the run."
            )
        if approval:
            raise Conflict("APPROVAL_EXPIRED", "The time to decide this is over.", "Look at the run.")
        raise Conflict("QUESTION_EXPIRED", "The time for this answer is over.", "Look at the run.")


def _only(run: Run) -> str:
    """The id of the one question that a run asks. Raises `Conflict` unless it is one."""
    asked = run.questions()
    if len(asked) > 1:
        raise Conflict(
            "QUESTION_AMBIGUOUS",
            f"The run asks {len(asked)} things.",
            "Look at `questions` with execution_get, and name one as question_id.",
        )
    if run.finished or not asked:
        raise _not_waiting()
    return asked[0].id


def _still(run: Run, question_id: str) -> Question:
    """The question, as long as it is open. Raises `NotFound`, `Conflict`."""
    if question_id not in run.posed:
        raise NotFound("QUESTION_UNKNOWN", "The run asks no such question.", "Look at `questions` with execution_get.")
    question = next((each for each in run.questions() if each.id == question_id), None)
    if question is None:
        raise Conflict("QUESTION_ANSWERED", "This question was answered.", "Look at the run with execution_get.")
    if run.finished:
        raise _not_waiting()
    return question


def _not_waiting() -> Conflict:
    return Conflict("EXECUTION_NOT_WAITING", "The run waits for no answer.", "Look at it with execution_get.")


def _may(principal: Principal, run: Run, question: Question) -> None:
    """Raises `Denied` unless this person may answer: an approval, whoever holds the right; else, the caller too."""
    caller = run.requested.caller.subject
    if question.kind != "approval" and principal.subject == caller:
        principal.require(OWN)
        return
    principal.require(DECIDE)
    if principal.actors:
        raise Denied("APPROVAL_NEEDS_PERSON", "An agent cannot decide this.", "Ask a person who may decide approvals.")
    if question.by == "other" and principal.subject == caller:
        raise Denied(
            "APPROVAL_NEEDS_OTHER",
            "Somebody other than who asked for the run has to decide this.",
            "Ask a colleague who may decide approvals.",
        )


def may_answer(principal: Principal, run: Run, question: Question) -> bool:
    """Whether this person may answer it."""
    try:
        _may(principal, run, question)
    except Denied:
        return False
    return True


def _event(question: Question, principal: Principal, answer: Answer) -> ApprovalDecided | InputReceived:
    mark, content = secrets.token_hex(8), _filled(question, answer)
    if answer.action == "accept" and (wrong := violations(question.schema, content)):
        raise Invalid(
            "ANSWER_INVALID",
            f"The answer is not what the question asks for: {'; '.join(wrong[:5])}",
            "Answer as the question's `schema` says.",
        )
    declined = answer.action == "decline"
    match question.kind:
        case "approval":
            return ApprovalDecided(
                approval_id=question.id,
                by=principal.subject,
                approved=content.get("approve") is True,
                reason=str(content.get("reason", "")),
                mark=mark,
            )
        case "effect":
            return InputReceived(
                effect_id=question.id,
                by=principal.subject,
                happened=content.get("happened") is True,
                text=str(content.get("result", "")),
                declined=declined,
                mark=mark,
            )
        case "question":
            return InputReceived(
                effect_id=question.id, by=principal.subject, content=content, declined=declined, mark=mark
            )


def _filled(question: Question, answer: Answer) -> dict[str, Any]:
    """What was answered of what was asked, with the defaults of what was left out."""
    if answer.action != "accept":
        return {}
    asked = question.schema["properties"]
    defaults = {name: part["default"] for name, part in asked.items() if "default" in part}
    return defaults | {name: value for name, value in answer.content.items() if name in asked}
