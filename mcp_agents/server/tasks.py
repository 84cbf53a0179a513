"""The tasks extension (`io.modelcontextprotocol/tasks`): a call that may run long, as something to come back to.

A task is a run and nothing beside it: its id is the execution's, its state the fold of the run's log, what it asks
the run's questions. So it is durable before it is answered, outlives every process, and any replica serves it. Not
here: who may do this (`http` and `mcp` asked), and pushing changes (`subscriptions/listen`). An id proves nothing:
it is looked up in the caller's own tenant, and an unknown one, another tenant's and no id at all read the same.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import mcp_types as mcp
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value
from mcp_agents_tools.surface.plugin import Call, Form, ToolSpec
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_agents.execution.answering import may_answer
from mcp_agents.execution.questions import Answer
from mcp_agents.execution.run import Run
from mcp_agents.kernel.errors import AgentsError, Conflict, NotFound
from mcp_agents.server import rendering
from mcp_agents.server.asking import request_of
from mcp_agents.server.wire import ended

EXTENSION: Final = "io.modelcontextprotocol/tasks"
_POLL_MS: Final = (250, 5000)
"""The shortest and the longest time between two looks; in between, a tenth of the task's age."""
_DAY_MS: Final = 86_400_000

Context = ServerRequestContext[Any, Any]
Finder = Callable[[Run], ToolSpec]


class TaskParams(mcp.RequestParams):
    """What `tasks/get` and `tasks/cancel` are given."""

    task_id: str


class TaskUpdateParams(TaskParams):
    """What `tasks/update` is given."""

    input_responses: dict[str, Any]


class Tasks:
    """Tasks of any tenant, always through the call of whoever asks. `keep_days`: how long runs are kept; 0: always."""

    def __init__(self, keep_days: int) -> None:
        self._ttl_ms = keep_days * _DAY_MS or None

    async def created(self, call: Call, execution_id: str) -> dict[str, Any]:
        """What a call is answered with whose run this is. One that has ended already is said to be going on: its
        result is had with `get`."""
        run, changed = await _run(call, execution_id)
        return {"resultType": "task", **self._base(call, run, changed), "status": "working"}

    async def get(self, call: Call, task_id: str, finder: Finder, *, forms: bool) -> dict[str, Any]:
        """The task with all there is to it. `finder` names the tool that makes the run's result; `forms`: whether
        the client can show questions. Also the params of a `notifications/tasks`."""
        run, changed = await _run(call, task_id)
        now = _ended(run, finder(run)) if run.finished else _going(call, run, forms=forms)
        return {**self._base(call, run, changed), **now}

    def _base(self, call: Call, run: Run, changed: datetime) -> dict[str, Any]:
        age_ms = (call.services.clock.now() - run.created_at).total_seconds() * 1000
        return {
            "taskId": run.execution_id,
            "createdAt": _stamp(run.created_at),
            "lastUpdatedAt": _stamp(changed),
            "ttlMs": self._ttl_ms,
            "pollIntervalMs": round(min(max(age_ms / 10, _POLL_MS[0]), _POLL_MS[1])),
        }

    async def update(self, call: Call, task_id: str, responses: dict[str, Any]) -> None:
        """Answers what the task asks. What it does not ask, or not any more, is passed over.

        Raises `MCPError` for an answer that is none, and what `Questions.answer` raises.
        """
        run, _ = await _run(call, task_id)
        asked = {question.id for question in run.questions()}
        for key in sorted(asked & set(responses)):
            try:
                answer = msgspec.convert(responses[key], Answer)
            except msgspec.ValidationError as cause:
                raise MCPError(mcp.INVALID_PARAMS, f"The response to {key} is not that of an elicitation.") from cause
            try:
                await call.services.questions.answer(call.space, call.principal, run.execution_id, key, answer)
            except Conflict as error:
                if error.code != "QUESTION_ANSWERED":
                    raise

    async def cancel(self, call: Call, task_id: str) -> None:
        """Ends the task's run, unless it has ended."""
        run, _ = await _run(call, task_id)
        await call.services.dispatcher.cancel(call.space, call.principal, run.execution_id, "")


def declared(ctx: Context) -> bool:
    """Whether the client of this request said that it knows tasks."""
    able = ctx.session.client_capabilities
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
    return modern and able is not None and EXTENSION in (able.extensions or {})


def missing() -> MCPError:
    """What a client that did not say so is told where there is no other way."""
    return MCPError(
        mcp.MISSING_REQUIRED_CLIENT_CAPABILITY,
        f"This needs a client that declares {EXTENSION}.",
        {"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
    )


def unknown() -> MCPError:
    """What is said of an id that stands for no task of the caller's."""
    return MCPError(mcp.INVALID_PARAMS, "Unknown task")


def check(ctx: Context, params: TaskParams) -> None:
    """Raises `MCPError` unless the request is one that this extension answers, and its headers name its task."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(mcp.METHOD_NOT_FOUND, "Method not found", ctx.method)
    if not declared(ctx):
        raise missing()
    if ctx.request is not None and decode_header_value(ctx.request.headers.get("mcp-name")) != params.task_id:
        raise MCPError(mcp.HEADER_MISMATCH, "The Mcp-Name header does not match the request body's 'taskId' parameter")


async def _run(call: Call, task_id: str) -> tuple[Run, datetime]:
    """The run, and when it was last written to. Raises `MCPError` for an unknown one."""
    try:
        entries = await call.services.dispatcher.entries(call.space, task_id)
    except NotFound as error:
        raise unknown() from error
    return Run.folded(task_id, entries), entries[-1].at


def _ended(run: Run, tool: ToolSpec) -> dict[str, Any]:
    if run.status == "cancelled":
        return {"status": "cancelled"}
    try:
        result = ended(tool, run.view())
    except MCPError as error:
        return {"status": "failed", "error": error.error.model_dump(mode="json", exclude_none=True)}
    except AgentsError as error:
        result = rendering.tool_error(error)
    return {"status": "completed", "result": result.model_dump(by_alias=True, mode="json", exclude_none=True)}


def _going(call: Call, run: Run, *, forms: bool) -> dict[str, Any]:
    now = call.services.clock.now()
    asked = [question for question in run.questions() if not question.over(now)]
    shown = [question for question in asked if forms and may_answer(call.principal, run, question)]
    if not shown:
        return {"status": "working", "statusMessage": _phase(run)}
    requests = {each.id: request_of(Form(message=each.message, schema=each.schema)) for each in shown}
    return {
        "status": "input_required",
        "statusMessage": _phase(run),
        "inputRequests": {
            key: request.model_dump(by_alias=True, mode="json", exclude_none=True) for key, request in requests.items()
        },
    }


def _phase(run: Run) -> str:
    """What the run is at, for a person."""
    if run.status == "pending":
        return "queued"
    if asked := run.questions():
        return f"waiting for a person: {asked[0].message}"
    if run.status == "waiting":
        return "waiting for other agents"
    if calls := [call.call.tool for call in run.open_calls() if call.state == "claimed"]:
        return f"calling {', '.join(calls)}"
    return f"thinking (turn {len(run.turns) + 1})"


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
