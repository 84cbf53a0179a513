"""The plugin object of executions, and the shapes that several of its tools share."""

from pydantic import Field

from mcp_agents.execution.run import FINAL, ExecutionView
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import Arguments, Listed, Plugin

plugin = Plugin(
    "executions",
    title="Executions",
    scopes=scopes.EXECUTIONS,
    asks_also=frozenset({"approvals:run"}),  # to answer for a call, or for another person's run
)

ID = Field(min_length=1, max_length=64, description="The execution's id, as agent_execute or agent_submit returned it.")


class ExecutionResult(ExecutionView, frozen=True, kw_only=True):
    """A run: its state and, when it has ended, its answer, cost and tool calls. `next_step` says how to go on."""

    next_step: str


class ExecutionRef(Arguments):
    """One run."""

    execution_id: str = ID


_NEXT_STEP = {
    "pending": "Call execution_wait with this execution_id.",
    "running": "Call execution_wait with this execution_id.",
    "waiting": "Execution_wait follows it. What it asks people stands in `questions`; execution_resume answers.",
    "failed": "Look at `error` and execution_events.",
    "timeout": "Raise limits.timeout_seconds or overrides.timeout_seconds and run it again.",
}


def result_of(view: ExecutionView) -> ExecutionResult:
    """A run as the tools return it."""
    fields = {name: getattr(view, name) for name in ExecutionView.__struct_fields__}
    return ExecutionResult(**fields, next_step=_NEXT_STEP.get(view.status, ""))


def links_of(result: ExecutionResult) -> list[Listed]:
    """Where a run that goes on can be read."""
    if result.status in FINAL:
        return []
    uri = f"cb://executions/{result.execution_id}"
    return [Listed(uri=uri, name=result.execution_id, title=f"Run {result.status}", description=result.next_step)]
