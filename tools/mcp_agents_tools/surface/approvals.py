"""The plugin `approvals`: what runs ask people, found without looking at every run, and decided."""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from pydantic import Field

from mcp_agents.execution.questions import Answer
from mcp_agents.execution.register import Asked
from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import NotFound
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.executions.shapes import ExecutionResult, result_of
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Listed, Plugin

plugin = Plugin("approvals", title="Approvals", scopes=scopes.APPROVALS)

_SCAN: Final = 500
"""Questions that one page looks at, at most."""


class ApprovalPage(Struct, frozen=True, kw_only=True):
    """A page of questions, newest first; `next_cursor` is empty on the last one."""

    approvals: tuple[Asked, ...]
    next_cursor: str


class ApprovalListing(Arguments):
    """Which questions to list."""

    status: Literal["open", "expired", "done"] = Field(
        "open", description="Open ones; those whose time is over; or those that ended within the last week."
    )
    kind: Literal["", "approval", "question", "effect"] = Field(
        "",
        description="Only calls to approve, only what agents ask, or only calls of which nobody knows whether they "
        "took effect.",
    )
    agent: str = Field("", max_length=64, description="Only of this agent's runs, by id or name.")
    cursor: str = Field("", max_length=64, description="The `next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="Questions on a page.")


class Decision(Arguments):
    """What to say to a call that waits for approval."""

    approval_id: str = Field(min_length=1, max_length=64, description="The approval, as approval_list names it.")
    approve: bool = Field(description="Whether the call may be sent.")
    reason: str = Field("", max_length=2000, description="Why, for the agent and the record.")
    execution_id: str = Field(
        "", max_length=64, description="The run that asks; it can be left out for an approval that is listed."
    )


@plugin.tool("approval_list", title="List approvals", arguments=ApprovalListing, result=ApprovalPage, hints=READS)
async def approval_list(call: Call, args: ApprovalListing) -> ApprovalPage:
    """Lists what runs of the tenant ask people: calls to approve, agents' questions, calls of unknown effect.
    Newest first, by page and filter. A page can be short while next_cursor is set."""
    agent_id = (await call.services.agents.get(call.space, args.agent)).value.id if args.agent else ""
    if args.cursor and not _is_question(args.cursor):
        raise _unknown()
    register = call.services.register
    found = await register.newest(call.space, done=args.status == "done", before=args.cursor)
    page: list[Asked] = []
    for place, written in enumerate(found):
        if len(page) == args.limit or place == _SCAN:
            return ApprovalPage(approvals=tuple(page), next_cursor=found[place - 1].id)
        if (agent_id and written.agent_id != agent_id) or (args.kind and written.kind != args.kind):
            continue
        asked = await register.checked(call.space, written)
        if args.status == "done" or asked.status == args.status:
            page.append(asked)
    return ApprovalPage(approvals=tuple(page), next_cursor="")


@plugin.tool(
    "approval_decide",
    title="Decide an approval",
    arguments=Decision,
    result=ExecutionResult,
    hints=Hints(destructive=True, open_world=True),
)
async def approval_decide(call: Call, args: Decision) -> ExecutionResult:
    """Approves or refuses a call that waits for a person; the run then goes on. A refusal is told to the agent with
    its reason. The first decision counts; one after its time, or about something that has changed since, is refused."""
    if not ids.is_id(args.approval_id, "apr"):
        raise _unknown()
    execution_id = args.execution_id or (await _found(call, args.approval_id)).execution_id
    answer = Answer(content={"approve": args.approve, "reason": args.reason})
    return result_of(
        await call.services.questions.answer(call.space, call.principal, execution_id, args.approval_id, answer)
    )


async def _listed(call: Call) -> list[Listed]:
    return [
        Listed(
            uri=f"cb://approvals/{asked.id}",
            name=asked.id,
            title=f"{asked.kind} of {asked.agent_name}",
            description=asked.message,
        )
        for asked in (await call.services.register.newest(call.space, done=False))[:50]
    ]


async def _complete(call: Call, typed: str) -> list[str]:
    found = await call.services.register.newest(call.space, done=False)
    return [asked.id for asked in found if asked.id.startswith(typed)][:100]


@plugin.resource(
    "cb://approvals/{id}", name="approval", title="An approval", listing=_listed, complete={"id": _complete}
)
async def approval_resource(call: Call, id: str) -> Any:  # the template's own word
    """A question of a run, open or ended within the last week."""
    return msgspec.to_builtins(await _found(call, id))


async def _found(call: Call, question_id: str) -> Asked:
    asked = await call.services.register.find(call.space, question_id) if _is_question(question_id) else None
    if asked is None:
        raise _unknown()
    return asked


def _is_question(text: str) -> bool:
    return ids.is_id(text, "apr") or ids.is_id(text, "eff")


def _unknown() -> NotFound:
    return NotFound("APPROVAL_UNKNOWN", "There is no such approval.", "List them with approval_list.")
