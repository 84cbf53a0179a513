"""Looking at runs: one, a list, the events, the transcript."""

from contextlib import aclosing
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from pydantic import Field

from mcp_agents.execution.archive import Summary
from mcp_agents.execution.dispatch import unknown_execution
from mcp_agents.kernel import ids
from mcp_agents.kernel.events import Entry, ends, event_name, public_body
from mcp_agents.kernel.tenancy import Topic
from mcp_agents_tools.surface.executions.shapes import ID, ExecutionRef, ExecutionResult, plugin, result_of
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Listed

_LIST_SCAN: Final = 500
"""Runs that one page looks at, at most."""
_COMPLETED: Final = 100
_ID_LENGTH: Final = len("ex_") + 26


class ExecutionPage(Struct, frozen=True, kw_only=True):
    """A page of runs, newest first; `next_cursor` is empty on the last one."""

    executions: tuple[Summary, ...]
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

    execution_id: str = ID
    cursor: int = Field(0, ge=0, description="Events behind this number; 0 reads from the start.")
    limit: int = Field(100, ge=1, le=1000, description="Events at the most.")


@plugin.tool("execution_get", title="Get a run", arguments=ExecutionRef, result=ExecutionResult, hints=READS)
async def execution_get(call: Call, args: ExecutionRef) -> ExecutionResult:
    """Returns a run as it stands now."""
    return result_of(await call.services.dispatcher.view(call.space, args.execution_id))


@plugin.tool("execution_list", title="List runs", arguments=ExecutionListing, result=ExecutionPage, hints=READS)
async def execution_list(call: Call, args: ExecutionListing) -> ExecutionPage:
    """Lists the tenant's runs, newest first, by page and filter. A page can be short while next_cursor is set."""
    agent_id = (await call.services.agents.get(call.space, args.agent)).value.id if args.agent else ""
    page, cursor = await _page(call, args.cursor, args.limit, agent_id, args.status)
    return ExecutionPage(executions=tuple(page), next_cursor=cursor)


@plugin.tool("execution_events", title="Read a run's events", arguments=EventListing, result=EventPage, hints=READS)
async def execution_events(call: Call, args: EventListing) -> EventPage:
    """Reads the events of a run's log behind a cursor: model answers, tool calls, the end."""
    entries = await call.services.dispatcher.entries(call.space, args.execution_id)
    page = [entry for entry in entries if entry.seq > args.cursor][: args.limit]
    return EventPage(
        events=tuple(_event(args.execution_id, entry) for entry in page),
        cursor=page[-1].seq if page else args.cursor,
        finished=ends(entries),
    )


async def _page(call: Call, before: str, limit: int, agent_id: str = "", status: str = "") -> tuple[list[Summary], str]:
    """Runs behind a cursor, and the cursor of the next page; short when the filters let little through."""
    if before and not ids.is_id(before, "ex"):
        raise unknown_execution()
    page: list[Summary] = []
    seen = 0
    async with aclosing(call.services.archive.newest(call.space, before=before)) as runs:
        async for run in runs:
            if len(page) == limit or seen == _LIST_SCAN:
                return page, before
            seen, before = seen + 1, run.execution_id
            if (not agent_id or run.agent_id == agent_id) and (not status or run.status == status):
                page.append(run)
    return page, ""


def _event(execution_id: str, entry: Entry) -> EventView:
    body = public_body(entry.event)
    body.pop("agent", None)  # the agent's own resource shows it
    return EventView(seq=entry.seq, at=entry.at, type=event_name(entry.event), execution_id=execution_id, body=body)


async def listed(call: Call, agent_id: str = "") -> list[Listed]:
    """The newest runs, of one agent or any."""
    page, _ = await _page(call, "", 50, agent_id)
    return [
        Listed(
            uri=f"cb://executions/{run.execution_id}",
            name=run.execution_id,
            title=f"Run {run.status}",
            description=f"Run of agent {run.agent_id}, {run.status}.",
        )
        for run in page
    ]


async def complete_execution(call: Call, typed: str, agent_id: str = "") -> list[str]:
    """Ids of the newest runs, of one agent or any, that begin with what was typed."""
    if ids.is_id(typed, "ex"):
        run = await call.services.dispatcher.find(call.space, typed)
        return [typed] if run and run.agent.id == (agent_id or run.agent.id) else []
    # Ids sort by their time: those that begin alike are neighbours, and end where the next beginning would.
    last = "" if "ex_".startswith(typed) else typed.ljust(_ID_LENGTH, "v")
    if last and not ids.is_id(last, "ex"):
        return []
    page, _ = await _page(call, last, _COMPLETED, agent_id)
    return [run.execution_id for run in page if run.execution_id.startswith(typed)]


async def log_topic(call: Call, id: str) -> Topic:  # the template's own word
    """What to listen to for a run. Raises `NotFound`."""
    await call.services.dispatcher.run(call.space, id)
    return call.space.log_topic(id)


@plugin.resource(
    "cb://executions/{id}",
    name="execution",
    title="A run",
    listing=listed,
    complete={"id": complete_execution},
    topic=log_topic,
)
async def execution_resource(call: Call, id: str) -> Any:  # the template's own word
    """A run as it stands now."""
    return msgspec.to_builtins(result_of(await call.services.dispatcher.view(call.space, id)))


@plugin.resource(
    "cb://executions/{id}/events",
    name="execution_events",
    title="A run's events",
    complete={"id": complete_execution},
    topic=log_topic,
)
async def events_resource(call: Call, id: str) -> Any:
    """The whole log of a run."""
    entries = await call.services.dispatcher.entries(call.space, id)
    return [msgspec.to_builtins(_event(id, entry)) for entry in entries]


@plugin.resource(
    "cb://executions/{id}/transcript",
    name="transcript",
    title="A run's transcript",
    complete={"id": complete_execution},
    topic=log_topic,
)
async def transcript_resource(call: Call, id: str) -> Any:
    """The conversation of a run, tool turns included."""
    messages = await call.services.dispatcher.transcript(call.space, id)
    return [msgspec.to_builtins(message) for message in messages]


@plugin.prompt(
    "debug_execution",
    title="Debug a run",
    arguments={"execution_id": "The run to look into."},
    complete={"execution_id": complete_execution},
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
