"""Asks the person at the caller's client what a run waits to be told, while the caller waits for the run.

How a client is asked is the server's business (`Asker` in `plugin`), what counts as an answer the run's
(`Services.questions`). Here it is decided who can be asked what: a client that shows no questions, or whose
caller may not answer, is given the waiting run instead, with the questions in it.
"""

from collections.abc import Mapping
from typing import Final

import anyio
from anyio.abc import TaskGroup

from mcp_agents.execution.answering import DECIDE, OWN
from mcp_agents.execution.questions import Answer, Question
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.errors import Conflict
from mcp_agents_tools.surface.plugin import Call, Form, Reply

_TOO_LATE: Final = frozenset({"QUESTION_ANSWERED", "QUESTION_EXPIRED", "EXECUTION_NOT_WAITING"})
"""Why an answer is not needed any more."""


class Person:
    """Whoever is at the client of one call, as far as one run is concerned.

    `known` are questions that the caller has been shown before: it waits in spite of them.
    """

    def __init__(self, call: Call, execution_id: str, known: frozenset[str] = frozenset()) -> None:
        self._call, self._execution_id, self._known = call, execution_id, known
        self._ask = call.ask or call.lead
        self._sent = frozenset[str]()
        self._push: anyio.CancelScope | None = None
        self.left_open: ExecutionView | None = None

    @property
    def is_pushed_to(self) -> bool:
        """Whether questions reach them in the middle of the call, so that it goes on beside them."""
        return self._ask is not None and not self._call.client.modern

    async def asked(self, tasks: TaskGroup | None, reading: anyio.CancelScope) -> ExecutionView | None:
        """Asks what the run has come to wait for; the run, where there is nothing for its caller but to be told.

        Where questions are pushed, `tasks` waits for the reply; one that decides nothing cancels `reading` and
        leaves the run in `left_open`. Else the call may end here, and come back.
        """
        view = await self._call.services.dispatcher.view(self._call.space, self._execution_id)
        if view.status != "waiting" or not view.questions:
            return None
        forms = {question.id: self._form(question) for question in view.questions if self._can_answer(question)}
        if self._ask is None or not forms:
            return None if self._known.issuperset(question.id for question in view.questions) else view
        if self._sent.issuperset(forms):
            return view
        self._sent |= forms.keys()
        if self.is_pushed_to and tasks is not None:
            tasks.start_soon(self._pushed, forms, view, reading)
            return None
        replies = await self._ask(forms, state=self._execution_id)
        return None if await self._answered(forms, replies) else view

    def withdraw(self) -> None:
        """The run has moved on: what is still being asked needs no answer."""
        if self._push is not None:
            self._push.cancel()

    async def _pushed(self, forms: Mapping[str, Form], view: ExecutionView, reading: anyio.CancelScope) -> None:
        if self._ask is None:
            return
        with anyio.CancelScope() as self._push:
            replies = await self._ask(forms)
            if not await self._answered(forms, replies):
                self.left_open = view
                reading.cancel()

    async def _answered(self, forms: Mapping[str, Form], replies: Mapping[str, Reply]) -> bool:
        """Passes the replies on; whether any of them decides something, or may be decided elsewhere by now."""
        decided = False
        for question_id, reply in replies.items():
            if forms[question_id].url:  # they were shown a page, and answer there or not
                decided |= reply.action == "accept"
            elif reply.action != "cancel":
                decided |= True
                # Once an answer is in the log the run has to be woken, whoever goes away meanwhile.
                with anyio.CancelScope(shield=True):
                    await self._pass_on(question_id, Answer(action=reply.action, content=reply.content))
        return decided

    async def _pass_on(self, question_id: str, answer: Answer) -> None:
        call = self._call
        try:
            await call.services.questions.answer(call.space, call.principal, self._execution_id, question_id, answer)
        except Conflict as late:
            if late.code not in _TOO_LATE:
                raise

    def _can_answer(self, question: Question) -> bool:
        principal = self._call.principal
        if question.kind == "approval" and (question.by == "other" or not principal.allows(DECIDE)):
            return False
        if not (principal.allows(DECIDE) or principal.allows(OWN)):
            return False
        return self._call.ask is not None or bool(question.url)

    def _form(self, question: Question) -> Form:
        url = "" if self._call.ask else question.url
        return Form(message=question.message, schema=question.schema, url=url)
