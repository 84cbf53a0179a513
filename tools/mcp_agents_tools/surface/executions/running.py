"""Starting runs, following them to their end, ending them early."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mcp_agents.agents.schema import check_schema
from mcp_agents.execution import sharing, steering
from mcp_agents.execution.orders import Order
from mcp_agents.execution.questions import Answer
from mcp_agents.kernel.routing import Strategy
from mcp_agents_tools.surface.executions.shapes import ID, ExecutionResult, links_of, plugin, result_of
from mcp_agents_tools.surface.following import execute, wait
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Hints, Long


class Overrides(BaseModel):
    """What one run does differently from its agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    virtual_model: str | None = Field(None, max_length=200, description="Another model.")
    temperature: float | None = Field(None, ge=0, le=2, description="Another temperature.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Another output limit.")
    max_turns: int | None = Field(None, ge=1, le=200, description="Another limit of model calls.")
    timeout_seconds: int | None = Field(None, ge=1, le=86_400, description="Another wall time.")
    max_cost_micro_usd: int | None = Field(None, ge=0, description="A lower limit of what the run may cost.")
    max_total_tokens: int | None = Field(None, ge=1, description="A lower limit of the run's tokens.")
    strategy: Strategy | None = Field(None, description="How to choose among the models.")
    fallback_models: tuple[str, ...] | None = Field(
        None, max_length=20, description="Models to fall back to, in order."
    )
    preferred_providers: tuple[str, ...] | None = Field(None, max_length=20, description="Providers to prefer.")
    max_latency_ms: int | None = Field(None, ge=1, description="Only models measured to be this fast.")
    max_cost_per_1k_tokens: int | None = Field(
        None, ge=0, description="Only models whose blended price for 1,000 tokens is at most this, in micro-USD."
    )
    task_type: str | None = Field(None, max_length=64, description="The task to choose a model for.")


class Submission(Arguments):
    """What to run."""

    agent: str = Field(min_length=1, max_length=64, description="The agent's id or name.")
    prompt: str = Field(min_length=1, description="What the agent is asked.")
    session_id: str = Field(
        "", max_length=64, description="A session of this agent's (session_create): the run is its next turn."
    )
    context: Any = Field(None, description="JSON data for the agent; shown to the model as data, not as instructions.")
    stream: bool = Field(True, description="Whether text is reported while it is written.")
    tools_enabled: bool = Field(True, description="False runs the agent without its tools.")
    idempotency_key: str = Field(
        "", max_length=200, description="A repeated call with the same key joins the run instead of starting another."
    )
    metadata: dict[str, Any] = Field(default_factory=dict, description="Stored with the run, never shown to the model.")
    shared: tuple[str, ...] = Field(
        (), max_length=20, description="Executions whose shared part (execution_share) the agent is shown as data."
    )
    output_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema that the answer must match; it comes back in `structured`."
    )
    priority: Literal["high", "normal", "low"] = Field(
        "normal", description="How soon it is wanted, among the runs of this agent that wait."
    )
    overrides: Overrides = Field(default_factory=lambda: Overrides.model_validate({}), description="For this run only.")


class Execution(Submission):
    """What to run, and how long to wait for it."""

    wait_seconds: float | None = Field(
        None,
        ge=0,
        le=3600,
        description="After this many seconds the running state is returned; execution_wait follows the run. "
        "Without it: just before your client would give up.",
    )


class ExecutionWait(Arguments):
    """Which run to wait for."""

    execution_id: str = ID
    timeout_seconds: float | None = Field(
        None, ge=0, le=3600, description="How long to wait. Without it: until just before your client would give up."
    )


class Cancellation(Arguments):
    """Which run to cancel."""

    execution_id: str = ID
    reason: str = Field("", max_length=500, description="Why, for the record.")


class Resumption(Arguments):
    """What a person answers to a question of a run."""

    execution_id: str = ID
    question_id: str = Field(
        "", max_length=64, description="Which of `questions`; it can be left out where there is only one."
    )
    action: Literal["accept", "decline", "cancel"] = Field(
        "accept", description="Answer it, say that there will be no answer, or decide nothing."
    )
    content: dict[str, Any] = Field(
        default_factory=dict, description="The answer, as the question's `schema` wants it; for `accept`."
    )


class Steering(Arguments):
    """What to add to a run."""

    execution_id: str = ID
    message: str = Field(min_length=1, max_length=steering.MESSAGE_LIMIT, description="What the agent is told.")


async def _order(call: Call, args: Submission, *, submitted: bool = False, task: str = "") -> Order:
    if model := args.overrides.virtual_model:
        await call.services.models.check(call.space, model)
    if args.output_schema is not None:
        check_schema(args.output_schema)
    runs = [await call.services.dispatcher.run(call.space, execution_id) for execution_id in args.shared]
    return Order(
        agent=args.agent,
        prompt=args.prompt,
        session_id=args.session_id,
        context=await sharing.joined(call.space, args.context, runs),
        stream=args.stream,
        tools_enabled=args.tools_enabled,
        idempotency_key=args.idempotency_key,
        metadata=args.metadata,
        overrides=args.overrides.model_dump(exclude_none=True),
        output_schema=args.output_schema,
        priority=args.priority,
        submitted=submitted,
        task=task,
        traceparent=call.traceparent,
        depth=call.depth,
    )


async def _begun(call: Call, args: Execution) -> str:
    order = await _order(call, args, task="agent_execute")
    return await call.services.dispatcher.submit(call.space, call.principal, order)


async def _known(call: Call, args: ExecutionWait) -> str:
    return (await call.services.dispatcher.view(call.space, args.execution_id)).execution_id


@plugin.tool(
    "agent_execute",
    title="Execute an agent",
    arguments=Execution,
    result=ExecutionResult,
    hints=Hints(open_world=True, destructive=True),
    links=links_of,
    long=Long(begin=_begun, finish=result_of),
)
async def agent_execute(call: Call, args: Execution) -> ExecutionResult:
    """Runs an agent on a prompt and returns its answer with usage, cost and tool calls. Reports progress
    meanwhile. If it takes longer than wait_seconds the run goes on, and its execution_id is returned for
    execution_wait. Use idempotency_key to make a repeated call join the run."""
    return result_of(await execute(call, await _order(call, args), args.wait_seconds))


@plugin.tool(
    "agent_submit",
    title="Submit a run",
    arguments=Submission,
    result=ExecutionResult,
    hints=Hints(open_world=True, destructive=True),
    links=links_of,
)
async def agent_submit(call: Call, args: Submission) -> ExecutionResult:
    """Starts a run and returns at once with its execution_id; it goes on whether anybody follows it or not."""
    order = await _order(call, args, submitted=True)
    execution_id = await call.services.dispatcher.submit(call.space, call.principal, order)
    return result_of(await call.services.dispatcher.view(call.space, execution_id))


@plugin.tool(
    "execution_wait",
    title="Wait for a run",
    arguments=ExecutionWait,
    result=ExecutionResult,
    hints=READS,
    links=links_of,
    long=Long(begin=_known, finish=result_of),
)
async def execution_wait(call: Call, args: ExecutionWait) -> ExecutionResult:
    """Waits until a run has ended, with progress, or returns its state after timeout_seconds."""
    return result_of(await wait(call, args.execution_id, args.timeout_seconds))


@plugin.tool(
    "execution_resume",
    title="Resume a waiting run",
    arguments=Resumption,
    result=ExecutionResult,
    hints=Hints(destructive=True),
)
async def execution_resume(call: Call, args: Resumption) -> ExecutionResult:
    """Answers what a run asks people: whether a call may be sent, whether one whose answer was lost took effect, or
    what its agent wants to know. The run then goes on. Once answered, a question cannot be answered again."""
    answer = Answer(action=args.action, content=args.content)
    view = await call.services.questions.answer(call.space, call.principal, args.execution_id, args.question_id, answer)
    return result_of(view)


@plugin.tool(
    "execution_steer",
    title="Steer a run",
    arguments=Steering,
    result=ExecutionResult,
    hints=Hints(destructive=True, open_world=True),
)
async def execution_steer(call: Call, args: Steering) -> ExecutionResult:
    """Adds a message to a run that is under way; its agent reads it at its next turn. Returns when the message is
    stored with the run."""
    services = call.services
    return result_of(await steering.steer(services.post, call.space, call.principal, args.execution_id, args.message))


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
