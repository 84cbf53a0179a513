"""The plugin `executions`: run agents, follow runs, look at them, cancel them."""

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from mcp_agents.execution.dispatch import Order
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.events import Entry, event_name, public_body
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.following import HAND_OVER_SECONDS, execute, wait
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Listed, Plugin

plugin = Plugin("executions", title="Executions", scopes=scopes.EXECUTIONS)

_ID = Field(
    min_length=1, max_length=64, description="The execution's id, as agent_execute or agent_submit returned it."
)


class ExecutionResult(ExecutionView, frozen=True, kw_only=True):
    """A run: its state and, when it has ended, its answer, cost and tool calls. `next_step` says how to go on."""

    next_step: str


class ExecutionSummary(Struct, frozen=True, kw_only=True):
    """One line of a list of runs."""

    execution_id: str
    agent_id: str
    status: str
    cost_micro_usd: int
    created_at: datetime
    finished_at: datetime | None


class ExecutionPage(Struct, frozen=True, kw_only=True):
    """A page of runs, newest first; `next_cursor` is empty on the last one."""

    executions: tuple[ExecutionSummary, ...]
    next_cursor: str


class EventView(Struct, frozen=True, kw_only=True):
    """One event of a run's log."""

    seq: int
    at: datetime
    type: str
    execution_id: str
    body: dict[str, Any]


class EventPage(Struct, frozen=True, kw_only=True):
    """Events behind a cursor; `cursor` is what to pass next, `finished` whether the run has ended."""

    events: tuple[EventView, ...]
    cursor: int
    finished: bool


class Overrides(BaseModel):
    """What one run does differently from its agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    virtual_model: str | None = Field(None, max_length=200, description="Another model.")
    temperature: float | None = Field(None, ge=0, le=2, description="Another temperature.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Another output limit.")
    max_turns: int | None = Field(None, ge=1, le=200, description="Another limit of model calls.")
    timeout_seconds: int | None = Field(None, ge=1, le=86_400, description="Another wall time.")


class Submission(Arguments):
    """What to run."""

    agent: str = Field(min_length=1, max_length=64, description="The agent's id or name.")
    prompt: str = Field(min_length=1, description="What the agent is asked.")
    context: Any = Field(None, description="JSON data for the agent; shown to the model as data, not as instructions.")
    stream: bool = Field(True, description="Whether text is reported while it is written.")
    tools_enabled: bool = Field(True, description="False runs the agent without its tools.")
    idempotency_key: str = Field(
        "", max_length=200, description="A repeated call with the same key joins the run instead of starting another."
    )
    metadata: dict[str, Any] = Field(default_factory=dict, description="Stored with the run, never shown to the model.")
    overrides: Overrides = Field(default_factory=lambda: Overrides.model_validate({}), description="For this run only.")


class Execution(Submission):
    """What to run, and how long to wait for it."""

    wait_seconds: float = Field(
        HAND_OVER_SECONDS,
        ge=0,
        le=3600,
        description="After this many seconds the running state is returned; execution_wait follows the run.",
    )


class ExecutionRef(Arguments):
    """One run."""

    execution_id: str = _ID


class ExecutionWait(Arguments):
    """Which run to wait for."""

    execution_id: str = _ID
    timeout_seconds: float = Field(HAND_OVER_SECONDS, ge=0, le=3600, description="How long to wait.")


class ExecutionListing(Arguments):
    """Which runs to list."""

    agent: str = Field("", max_length=64, description="Only runs of this agent, by id or name.")
    status: Literal["", "pending", "running", "waiting", "completed", "failed", "timeout", "cancelled"] = Field(
        "", description="Only runs in this state."
    )
    cursor: str = Field("", max_length=64, description="The `next_cursor` of the page before.")
    limit: int = Field(20, ge=1, le=100, description="Runs on a page.")


class EventListing(Arguments):
    """Which events of a run to read."""

    execution_id: str = _ID
    cursor: int = Field(0, ge=0, description="Events behind this number; 0 reads from the start.")
    limit: int = Field(100, ge=1, le=1000, description="Events at the most.")


class Cancellation(Arguments):
    """Which run to cancel."""

    execution_id: str = _ID
    reason: str = Field("", max_length=500, description="Why, for the record.")


_NEXT_STEP = {
    "pending": "Call execution_wait with this execution_id.",
    "running": "Call execution_wait with this execution_id.",
    "waiting": "Look at execution_events to see what it waits for.",
    "failed": "Look at `error` and execution_events.",
    "timeout": "Raise limits.timeout_seconds or overrides.timeout_seconds and run it again.",
}


def result_of(view: ExecutionView) -> ExecutionResult:
    """A run as the tools return it."""
    fields = {name: getattr(view, name) for name in ExecutionView.__struct_fields__}
    return ExecutionResult(**fields, next_step=_NEXT_STEP.get(view.status, ""))


async def _order(call: Call, args: Submission, *, submitted: bool) -> Order:
    if model := args.overrides.virtual_model:
        await call.services.models.check(call.space, model)
    return Order(
        agent=args.agent,
        prompt=args.prompt,
        context=args.context,
        stream=args.stream,
        tools_enabled=args.tools_enabled,
        idempotency_key=args.idempotency_key,
        metadata=args.metadata,
        overrides=args.overrides.model_dump(exclude_none=True),
        submitted=submitted,
        traceparent=call.traceparent,
        depth=call.depth,
    )


@plugin.tool(
    "agent_execute",
    title="Execute an agent",
    arguments=Execution,
    result=ExecutionResult,
    hints=Hints(open_world=True, destructive=True),
)
async def agent_execute(call: Call, args: Execution) -> ExecutionResult:
    """Runs an agent on a prompt and returns its answer with usage, cost and tool calls. Reports progress
    meanwhile. If it takes longer than wait_seconds the run goes on, and its execution_id is returned for
    execution_wait. Use idempotency_key to make a repeated call join the run."""
    return result_of(await execute(call, await _order(call, args, submitted=False), args.wait_seconds))


@plugin.tool(
    "agent_submit",
    title="Submit a run",
    arguments=Submission,
    result=ExecutionResult,
    hints=Hints(open_world=True, destructive=True),
)
async def agent_submit(call: Call, args: Submission) -> ExecutionResult:
    """Starts a run and returns at once with its execution_id; it goes on whether anybody follows it or not."""
    order = await _order(call, args, submitted=True)
    execution_id = await call.services.dispatcher.submit(call.space, call.principal, order)
    return result_of(await call.services.dispatcher.view(call.space, execution_id))


@plugin.tool("execution_get", title="Get a run", arguments=ExecutionRef, result=ExecutionResult, hints=READS)
async def execution_get(call: Call, args: ExecutionRef) -> ExecutionResult:
    """Returns a run as it stands now."""
    return result_of(await call.services.dispatcher.view(call.space, args.execution_id))


@plugin.tool("execution_wait", title="Wait for a run", arguments=ExecutionWait, result=ExecutionResult, hints=READS)
async def execution_wait(call: Call, args: ExecutionWait) -> ExecutionResult:
    """Waits until a run has ended, with progress, or returns its state after timeout_seconds."""
    return result_of(await wait(call, args.execution_id, args.timeout_seconds))


@plugin.tool("execution_list", title="List runs", arguments=ExecutionListing, result=ExecutionPage, hints=READS)
async def execution_list(call: Call, args: ExecutionListing) -> ExecutionPage:
    """Lists the tenant's runs, newest first, by page and filter. A page can be short while next_cursor is set."""
    agent_id = (await call.services.agents.get(call.space, args.agent)).value.id if args.agent else ""
    page, cursor = await call.services.dispatcher.newest(
        call.space, before=args.cursor, limit=args.limit, agent_id=agent_id, status=args.status
    )
    return ExecutionPage(executions=tuple(_summary(view) for view in page), next_cursor=cursor)


@plugin.tool("execution_events", title="Read a run's events", arguments=EventListing, result=EventPage, hints=READS)
async def execution_events(call: Call, args: EventListing) -> EventPage:
    """Reads the events of a run's log behind a cursor: model answers, tool calls, the end."""
    entries = await call.services.dispatcher.events(call.space, args.execution_id, args.cursor, args.limit)
    view = await call.services.dispatcher.view(call.space, args.execution_id)
    return EventPage(
        events=tuple(_event(args.execution_id, entry) for entry in entries),
        cursor=entries[-1].seq if entries else args.cursor,
        finished=view.finished_at is not None,
    )


@plugin.tool(
    "execution_cancel",
    title="Cancel a run",
    arguments=Cancellation,
    result=ExecutionResult,
    hints=Hints(destructive=True, idempotent=True),
)
async def execution_cancel(call: Call, args: Cancellation) -> ExecutionResult:
    """Ends a run that is still going. A run that has ended stays as it is."""
    return result_of(await call.services.dispatcher.cancel(call.space, call.principal, args.execution_id, args.reason))


def _summary(view: ExecutionView) -> ExecutionSummary:
    return ExecutionSummary(**{name: getattr(view, name) for name in ExecutionSummary.__struct_fields__})


def _event(execution_id: str, entry: Entry) -> EventView:
    body = public_body(entry.event)
    body.pop("agent", None)  # the agent's own resource shows it
    return EventView(seq=entry.seq, at=entry.at, type=event_name(entry.event), execution_id=execution_id, body=body)


async def _listed(call: Call) -> list[Listed]:
    page, _ = await call.services.dispatcher.newest(call.space, before="", limit=50)
    return [
        Listed(
            uri=f"cb://executions/{view.execution_id}",
            name=view.execution_id,
            title=f"Run {view.status}",
            description=f"Run of agent {view.agent_id}, {view.status}.",
        )
        for view in page
    ]


async def _complete(call: Call, typed: str) -> list[str]:
    page, _ = await call.services.dispatcher.newest(call.space, before="", limit=100)
    return [view.execution_id for view in page if view.execution_id.startswith(typed)]


@plugin.resource("cb://executions/{id}", name="execution", title="A run", listing=_listed, complete={"id": _complete})
async def execution_resource(call: Call, id: str) -> Any:  # the template's own word
    """A run as it stands now."""
    return msgspec.to_builtins(result_of(await call.services.dispatcher.view(call.space, id)))


@plugin.resource(
    "cb://executions/{id}/events", name="execution_events", title="A run's events", complete={"id": _complete}
)
async def events_resource(call: Call, id: str) -> Any:
    """The whole log of a run."""
    entries = await call.services.dispatcher.events(call.space, id, 0, 10_000)
    return [msgspec.to_builtins(_event(id, entry)) for entry in entries]


@plugin.resource(
    "cb://executions/{id}/transcript", name="transcript", title="A run's transcript", complete={"id": _complete}
)
async def transcript_resource(call: Call, id: str) -> Any:
    """The conversation of a run, tool turns included."""
    messages = await call.services.dispatcher.transcript(call.space, id)
    return [msgspec.to_builtins(message) for message in messages]


@plugin.prompt(
    "debug_execution",
    title="Debug a run",
    arguments={"execution_id": "The run to look into."},
    complete={"execution_id": _complete},
)
async def debug_execution(call: Call, arguments: dict[str, str]) -> str:
    """Leads through finding out why a run went wrong."""
    execution_id = arguments["execution_id"]
    view = await call.services.dispatcher.view(call.space, execution_id)
    return (
        f"The run {execution_id} of agent {view.agent_id} is {view.status}. Read execution_events for it "
        "from cursor 0, find the first event that is not as it should be, name its cause, and propose one change to "
        "the agent (agent_get, agent_update) that would have prevented it."
    )
