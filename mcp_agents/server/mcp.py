"""The protocol's door: one low-level MCP server for every path, both eras and both transports.

It turns a wire request into a `Call` of a plugin and its answer into a wire result. What a path shows is
the catalogue's business, what an error looks like is `rendering`'s, who asks was settled in `http`.
SDK internals that may move are touched here and nowhere else.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import anyio
import mcp_types as mcp
from anyio.abc import TaskGroup
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.exceptions import MCPError
from mcp_agents_tools.surface import prompts, scopes
from mcp_agents_tools.surface.agent_server import agent_prompts, agent_resources, agent_tool, agent_topic
from mcp_agents_tools.surface.catalogue import View
from mcp_agents_tools.surface.plugin import Call, PromptSpec, ResourceSpec, ToolSpec
from pydantic import BaseModel, ValidationError

from mcp_agents import __version__
from mcp_agents.agents.catalog import invalid_fields
from mcp_agents.execution.run import Run
from mcp_agents.kernel import ids
from mcp_agents.kernel.audit import Deed, audited
from mcp_agents.kernel.errors import AgentsError, Denied, NotFound
from mcp_agents.kernel.policy import OPEN, Act, Decision, Judge, denied
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Topic
from mcp_agents.kernel.trace import trace_id
from mcp_agents.server import rendering, streams, tasks
from mcp_agents.server.asking import Asking, InputNeeded, asking, boundary, shows_forms
from mcp_agents.server.callers import Context, chain_of, client_of, upstream_of, was_cancelled
from mcp_agents.server.compose import House
from mcp_agents.server.streams import Held, Streams
from mcp_agents.server.subscriptions import Audience, Lists, Subscriptions
from mcp_agents.server.tasks import Finder, TaskParams, Tasks, TaskUpdateParams
from mcp_agents.server.wire import contents, mirrored_schema, resource_of, result_of, tool_of

log = logging.getLogger("mcp_agents.mcp")

NAME: Final = "mcp-agents"
AGENT_PREFIX: Final = "agent/"
PAGE: Final = 100
_LINKS_SINCE: Final = "2025-06-18"
"""The first revision in which a result may point to a resource."""
_LAST_SECONDS: Final = 0.5
"""What a call that is under way is still given when the server stops."""
_LISTS: Final = CacheHint(30_000, "private")
_INSTRUCTIONS: Final = (
    "Runs LLM agents durably. Find agents with agent_list or make one with agent_create, then run one with "
    "agent_execute; if it returns status running, call execution_wait with its execution_id. More tools are at "
    "/mcp/all, one agent alone is at /mcp/agent/{name}."
)

ToolAnswer = mcp.CallToolResult | mcp.InputRequiredResult | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a request came in: who asks, and which part of the surface its path shows.

    `decide` says what the tenant's policies make of a tool, resource or prompt by its name, as they stood then.
    `gone` is set when whoever waits for the response is not there any more, and None where there is no such thing;
    `held` is the response where it stays open to tell what changes.
    """

    principal: Principal
    selection: str
    decide: Callable[[str], Decision]
    gone: anyio.Event | None = None
    held: Held | None = None

    @property
    def agent(self) -> str:
        """The agent whose own path it is; "" on any other."""
        return self.selection.removeprefix(AGENT_PREFIX) if self.selection.startswith(AGENT_PREFIX) else ""


class Door:
    """The handlers. `local` is the principal of a connection without HTTP (stdio), and `group` what tells it."""

    def __init__(self, house: House, local: Principal | None = None, group: TaskGroup | None = None) -> None:
        self._catalogue, self._services, self._tenancy = house.catalogue, house.services, house.tenancy
        self._policies = house.services.policies
        self._state_key, self._local = house.state_key, local
        self._tasks = Tasks(house.settings.retention.execution_days)
        self.streams = Streams(house.verifier.again, house.services.clock)
        self.subscriptions = Subscriptions(group)

    def server(self) -> Server[Any]:
        """The MCP server that these handlers make."""
        server: Server[Any] = _Server(
            NAME,
            version=__version__,
            title="mcp-agents",
            instructions=_INSTRUCTIONS,
            cache_hints={
                "tools/list": _LISTS,
                "prompts/list": _LISTS,
                "resources/list": CacheHint(0, "private"),
                "resources/templates/list": _LISTS,
                "resources/read": CacheHint(0, "private"),
                "server/discover": _LISTS,
            },
            get_tool_input_schema=self.mirrored,
            on_list_tools=self.list_tools,
            on_list_resources=self.list_resources,
            on_list_resource_templates=self.list_resource_templates,
            on_read_resource=self.read_resource,
            on_list_prompts=self.list_prompts,
            on_get_prompt=self.get_prompt,
            on_completion=self.complete,
            on_subscriptions_listen=self.listen,
            on_subscribe_resource=self.subscribe,
            on_unsubscribe_resource=self.unsubscribe,
        )
        server.add_notification_handler("notifications/initialized", mcp.NotificationParams, self._began)
        server.middleware.clear()  # the SDK's spans cost on every call and nothing exports them yet
        server.middleware.append(boundary(self._state_key, NAME))
        server.add_request_handler("tools/call", mcp.CallToolRequestParams, self._until_stopped)
        server.extensions[tasks.EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskParams, self.get_task)
        server.add_request_handler("tasks/update", TaskUpdateParams, self.update_task)
        server.add_request_handler("tasks/cancel", TaskParams, self.cancel_task)
        return server

    async def list_tools(self, ctx: Context, params: mcp.PaginatedRequestParams | None) -> mcp.ListToolsResult:
        """The tools of the path that the caller may use, in a fixed order."""
        seat = await self._seat(ctx)
        tools = list((await self._tools(ctx, seat)).values())
        page, cursor = _page(tools, params)
        return mcp.ListToolsResult(tools=[tool_of(tool) for tool in page], next_cursor=cursor)

    def mirrored(self, name: str) -> dict[str, Any] | None:
        """The schema of a tool of which a client repeats arguments in headers; they are held against the body."""
        tool = self._everything.tools.get(name)
        return mirrored_schema(tool) if tool else None

    async def _until_stopped(self, ctx: Context, params: mcp.CallToolRequestParams) -> ToolAnswer:
        """Runs a tool, unless the server is stopped meanwhile: what the call began goes on elsewhere."""
        with self.streams.hold(grace=_LAST_SECONDS) as held, held.scope:
            return await self.call_tool(ctx, params)
        return rendering.tool_error(streams.stopping())

    async def call_tool(self, ctx: Context, params: mcp.CallToolRequestParams) -> ToolAnswer:
        """Runs a tool, begins it as a task, or asks its client first.

        Only a tool that the path does not offer is a protocol error.
        """
        try:
            seat = await self._seat(ctx)
            tool = await self._tool(ctx, seat, params.name)
            if not seat.selection.startswith(AGENT_PREFIX):
                seat.principal.require(self._catalogue.scopes[tool.name])
                if (decision := seat.decide(tool.name)).effect != "allow":
                    raise denied(decision)
            arguments = tool.arguments.model_validate(params.arguments or {})
            call = self._call(ctx, seat, params)
            if tool.long and tasks.declared(ctx):
                return await self._tasks.created(call, await tool.long.begin(call, arguments))
            if tool.long and tool.long.required:
                raise tasks.missing()
            value = await _while_heard(seat, call, lambda: self._run(tool, call, arguments))
            return result_of(tool, value, links=call.client.protocol >= _LINKS_SINCE)
        except InputNeeded as needed:
            return needed.result()
        except ValidationError as cause:
            return rendering.tool_error(invalid_fields(cause))
        except AgentsError as error:
            return rendering.tool_error(error)
        except MCPError:
            raise
        except Exception:  # the boundary: a defect becomes an answer, its cause stays in our log
            log.exception("tool %s", params.name)
            return rendering.tool_error(rendering.defect())

    async def _run(self, tool: ToolSpec, call: Call, arguments: BaseModel) -> Any:
        """Runs a tool; one that is in the audit trail only once it is written down."""
        if not self._catalogue.written_down(tool):
            return await tool.function(call, arguments)
        if call.principal.actors and self._catalogue.administers(tool):
            raise Denied(
                "ADMINISTRATION_NEEDS_PERSON",
                "Whoever acts for somebody cannot do this.",
                "Ask an administrator to do it.",
            )
        deed = Deed(call.principal, tool.name, tool.noted(arguments))
        async with audited(self._services.audit, call.space.tenant, deed):
            return await tool.function(call, arguments)

    async def get_task(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        """A task, with its result, its error, or what it asks."""
        call, finder = await self._task(ctx, params)
        return await self._tasks.get(call, params.task_id, finder, forms=shows_forms(ctx))

    async def update_task(self, ctx: Context, params: TaskUpdateParams) -> mcp.EmptyResult:
        """Takes answers to what a task asks."""
        call, _ = await self._task(ctx, params)
        try:
            await self._tasks.update(call, params.task_id, params.input_responses)
        except AgentsError as error:
            raise _protocol_error(error) from error
        return mcp.EmptyResult()

    async def cancel_task(self, ctx: Context, params: TaskParams) -> mcp.EmptyResult:
        """Ends a task."""
        call, _ = await self._task(ctx, params)
        await self._tasks.cancel(call, params.task_id)
        return mcp.EmptyResult()

    async def _task(self, ctx: Context, params: TaskParams) -> tuple[Call, Finder]:
        """The call, and how to find the tool that a run's result is made by. Raises `MCPError`.

        On the path of one agent there are only that agent's tasks, and they need what its tool needs.
        """
        tasks.check(ctx, params)
        seat = await self._seat(ctx)
        call = self._call(ctx, seat)
        try:
            if not seat.selection.startswith(AGENT_PREFIX):
                seat.principal.require(scopes.TASKS[ctx.method])
                return call, self._maker
            seat.principal.require(scopes.AGENT_SERVER)
            reference = seat.selection.removeprefix(AGENT_PREFIX)
            tool = await agent_tool(call, reference)
            run = await self._services.dispatcher.find(call.space, params.task_id)
            agent = (await self._services.agents.get(call.space, reference)).value
        except AgentsError as error:
            raise _protocol_error(error) from error
        if run is None or run.requested.agent_id != agent.id:
            raise tasks.unknown()
        return call, lambda _: tool

    def _maker(self, run: Run) -> ToolSpec:
        tool = self._everything.tools.get(run.requested.task)
        return tool if tool and tool.long else self._everything.tools["execution_wait"]

    @property
    def _everything(self) -> View:
        return self._catalogue.view("all") or View({}, {}, {})

    async def list_resources(self, ctx: Context, params: mcp.PaginatedRequestParams | None) -> mcp.ListResourcesResult:
        """The concrete resources that the caller may read."""
        seat = await self._seat(ctx)
        call = self._call(ctx, seat)
        listed = [
            mcp.Resource(
                uri=each.uri,
                name=each.name,
                title=each.title or None,
                description=each.description or None,
                mime_type=resource.mime_type,
            )
            for resource in self._view(seat).resources.values()
            if resource.listing and self._may_read(seat, resource)
            for each in await resource.listing(call)
        ]
        page, cursor = _page(listed, params)
        return mcp.ListResourcesResult(resources=page, next_cursor=cursor)

    async def list_resource_templates(
        self, ctx: Context, params: mcp.PaginatedRequestParams | None
    ) -> mcp.ListResourceTemplatesResult:
        """The templates that the caller may use."""
        seat = await self._seat(ctx)
        templates = [
            mcp.ResourceTemplate(
                uri_template=resource.template,
                name=resource.name,
                title=resource.title,
                description=resource.description,
                mime_type=resource.mime_type,
            )
            for resource in self._view(seat).resources.values()
            if "{" in resource.template and self._may_read(seat, resource)
        ]
        page, cursor = _page(templates, params)
        return mcp.ListResourceTemplatesResult(resource_templates=page, next_cursor=cursor)

    async def read_resource(
        self, ctx: Context, params: mcp.ReadResourceRequestParams
    ) -> mcp.ReadResourceResult | mcp.InputRequiredResult:
        """A resource as JSON. What is not there, not the caller's, or not allowed reads the same."""
        seat = await self._seat(ctx)
        uri = str(params.uri)
        found = self._view(seat).resource(uri)
        if found and self._may_read(seat, found[0]):
            resource, variables = found
            try:
                body = await resource.read(self._call(ctx, seat, params), **variables)
                return mcp.ReadResourceResult(contents=[resource_of(uri, body)])
            except InputNeeded as needed:
                return needed.result()
            except NotFound:
                pass
            except AgentsError as error:
                raise _protocol_error(error) from error
        raise MCPError(mcp.INVALID_PARAMS, "Resource not found", {"uri": uri})

    async def list_prompts(self, ctx: Context, params: mcp.PaginatedRequestParams | None) -> mcp.ListPromptsResult:
        """The prompts that the caller may use."""
        seat = await self._seat(ctx)
        listed = [
            mcp.Prompt(
                name=prompt.name,
                title=prompt.title,
                description=prompt.description,
                arguments=[
                    mcp.PromptArgument(name=name, description=text, required=True)
                    for name, text in prompt.arguments.items()
                ],
            )
            for prompt in (await self._prompts(ctx, seat)).values()
        ]
        page, cursor = _page(listed, params)
        return mcp.ListPromptsResult(prompts=page, next_cursor=cursor)

    async def get_prompt(
        self, ctx: Context, params: mcp.GetPromptRequestParams
    ) -> mcp.GetPromptResult | mcp.InputRequiredResult:
        """A prompt with its arguments filled in."""
        seat = await self._seat(ctx)
        prompt = await self._prompt(ctx, seat, params.name)
        if prompt is None:
            raise MCPError(mcp.INVALID_PARAMS, f"Unknown prompt: {params.name}")
        given = params.arguments or {}
        if missing := sorted(set(prompt.arguments) - set(given)):
            raise MCPError(mcp.INVALID_PARAMS, f"Missing arguments: {', '.join(missing)}")
        try:
            said = await prompt.render(self._call(ctx, seat, params), given)
        except InputNeeded as needed:
            return needed.result()
        except AgentsError as error:
            raise _protocol_error(error) from error
        blocks = contents([said] if isinstance(said, str) else said)
        messages = [mcp.PromptMessage(role="user", content=block) for block in blocks]
        return mcp.GetPromptResult(description=prompt.description, messages=messages)

    async def complete(self, ctx: Context, params: mcp.CompleteRequestParams) -> mcp.CompleteResult:
        """Values for an argument of a prompt or a template, among what the caller may see."""
        seat = await self._seat(ctx)
        target: PromptSpec | ResourceSpec | None
        if isinstance(params.ref, mcp.PromptReference):
            target = await self._prompt(ctx, seat, params.ref.name)
        else:
            target = self._view(seat).resources.get(str(params.ref.uri))
            if target and not self._may_read(seat, target):
                target = None
        completer = target.complete.get(params.argument.name) if target else None
        given = (params.context.arguments if params.context else None) or {}
        call = replace(self._call(ctx, seat), given=given)
        try:
            values = await completer(call, params.argument.value) if completer else []
        except NotFound:
            values = []
        except AgentsError as error:
            raise _protocol_error(error) from error
        return mcp.CompleteResult(
            completion=mcp.Completion(values=values[:100], total=len(values), has_more=len(values) > 100)
        )

    async def listen(self, ctx: Context, params: mcp.SubscriptionsListenRequestParams) -> mcp.SubscriptionsListenResult:
        """Tells what changes, on a stream that stays open."""
        try:
            return await self.subscriptions.listen(ctx, params, await self._audience(ctx, await self._seat(ctx)))
        except AgentsError as error:
            raise _protocol_error(error) from error

    async def subscribe(self, ctx: Context, params: mcp.SubscribeRequestParams) -> mcp.EmptyResult:
        """Tells a connection of the handshake era of one more address; one that cannot be read is not there."""
        uri = str(params.uri)
        try:
            await self.subscriptions.subscribe(ctx, uri, await self._audience(ctx, await self._seat(ctx)))
        except NotFound:
            raise MCPError(mcp.INVALID_PARAMS, "Resource not found", {"uri": uri}) from None
        except AgentsError as error:
            raise _protocol_error(error) from error
        return mcp.EmptyResult()

    async def unsubscribe(self, ctx: Context, params: mcp.UnsubscribeRequestParams) -> mcp.EmptyResult:
        """Tells it of one address less."""
        await self.subscriptions.unsubscribe(ctx, str(params.uri))
        return mcp.EmptyResult()

    async def _began(self, ctx: Context, params: mcp.NotificationParams) -> None:
        await self.subscriptions.began(ctx, await self._audience(ctx, await self._seat(ctx)))

    async def _audience(self, ctx: Context, seat: Seat) -> Audience:
        call = self._call(ctx, seat)

        async def find(uri: str) -> Topic | None:
            found = self._view(seat).resource(uri)
            if found is None or found[0].topic is None or not self._may_read(seat, found[0]):
                return None
            try:
                return await found[0].topic(call, **found[1])
            except NotFound:
                return None

        return Audience(
            principal=seat.principal,
            space=call.space,
            lists=await self._lists(call, seat),
            find=find,
            may=lambda uri: self.may_read(seat, uri),
            held=seat.held,
        )

    async def _lists(self, call: Call, seat: Seat) -> Lists:
        """What makes the lists of a path others, as far as its caller may see them."""
        if seat.agent:
            allowed = seat.principal.allows(scopes.AGENT_SERVER)
            return Lists(await agent_topic(call, seat.agent) if allowed else None, one=True)
        shown = self._shows_agents(seat) or any(
            resource.listing and template.startswith("cb://agents/") and self._may_read(seat, resource)
            for template, resource in self._view(seat).resources.items()
        )
        return Lists(self._services.agents.every_topic(call.space) if shown else None)

    def may_read(self, seat: Seat, uri: str) -> bool:
        """Whether the caller's scopes let this address be read; not whether there is anything."""
        found = self._view(seat).resource(uri)
        return found is not None and self._may_read(seat, found[0])

    async def seat(self, principal: Principal, selection: str) -> Seat:
        """Where a request of this caller comes in."""
        judge = await self._policies.judge(self._tenancy.of(principal), principal)
        return Seat(principal, selection, partial(_decided, judge))

    async def _seat(self, ctx: Context) -> Seat:
        if ctx.request is not None:
            seat: Seat = ctx.request.scope["state"]["seat"]
            return seat
        if self._local is None:
            raise MCPError(mcp.INVALID_REQUEST, "This connection has no caller.")
        return await self.seat(self._local, "all")

    def _view(self, seat: Seat) -> View:
        if seat.agent:
            return agent_resources(seat.agent)
        return self._catalogue.view(seat.selection) or View({}, {}, {})

    def _may_read(self, seat: Seat, resource: ResourceSpec) -> bool:
        return self._allowed(seat, resource.template)

    def _allowed(self, seat: Seat, name: str) -> bool:
        """Whether the caller's scopes and the tenant's policies let a tool, resource or prompt be used."""
        return self._catalogue.allowed(seat.principal, name) and seat.decide(name).effect == "allow"

    async def _prompts(self, ctx: Context, seat: Seat) -> dict[str, PromptSpec]:
        """The path's own, and one for each published agent; of two with the same name the path's own."""
        call = self._call(ctx, seat)
        if seat.agent:
            return await self._agents_prompts(call, seat)
        agents = await prompts.of_agents(call) if self._shows_agents(seat) else {}
        return {**agents, **self._own_prompts(seat)}

    async def _prompt(self, ctx: Context, seat: Seat, name: str) -> PromptSpec | None:
        call = self._call(ctx, seat)
        if seat.agent:
            return (await self._agents_prompts(call, seat)).get(name)
        if name in self._catalogue.scopes or not self._shows_agents(seat):
            return self._own_prompts(seat).get(name)
        return await prompts.named(call, name)

    def _own_prompts(self, seat: Seat) -> dict[str, PromptSpec]:
        offered = self._view(seat).prompts
        return {name: each for name, each in offered.items() if self._allowed(seat, name)}

    async def _agents_prompts(self, call: Call, seat: Seat) -> dict[str, PromptSpec]:
        if not seat.principal.allows(scopes.AGENT_SERVER):
            return {}
        try:
            return await agent_prompts(call, seat.agent)
        except AgentsError as error:
            raise _protocol_error(error) from error

    def _shows_agents(self, seat: Seat) -> bool:
        """Whether the path is one where agents are executed, and the caller may look at them."""
        return "agent_execute" in self._view(seat).tools and seat.principal.allows(scopes.AGENT_PROMPTS)

    async def _tools(self, ctx: Context, seat: Seat) -> dict[str, ToolSpec]:
        if seat.selection.startswith(AGENT_PREFIX):
            if not seat.principal.allows(scopes.AGENT_SERVER):
                return {}
            try:
                tool = await agent_tool(self._call(ctx, seat), seat.agent)
            except AgentsError as error:
                raise _protocol_error(error) from error
            return {tool.name: tool}
        return {name: tool for name, tool in self._view(seat).tools.items() if self._allowed(seat, name)}

    async def _tool(self, ctx: Context, seat: Seat, name: str) -> ToolSpec:
        if seat.selection.startswith(AGENT_PREFIX):
            seat.principal.require(scopes.AGENT_SERVER)
            tool = (await self._tools(ctx, seat)).get(name)
        else:
            tool = self._view(seat).tools.get(name)
        if tool is None:
            raise MCPError(mcp.INVALID_PARAMS, f"Unknown tool: {name}")
        return tool

    def _call(self, ctx: Context, seat: Seat, params: Asking | None = None) -> Call:
        meta: dict[str, Any] = dict(ctx.meta or {})
        steps = 0

        async def report(message: str) -> None:
            nonlocal steps
            steps += 1
            await ctx.session.report_progress(steps, None, message)

        traceparent = str(meta.get("traceparent", ""))
        depth = meta.get(f"{rendering.META_PREFIX}depth", 0)
        effect_id = meta.get(f"{rendering.META_PREFIX}effect_id", "")
        way, client = asking(ctx, params), client_of(ctx)
        # Agents that the token itself says act come first: the rest of the chain is only the caller's word.
        signed = tuple(self._services.agents.identity(each) for each in seat.principal.actors if ids.is_id(each, "ag"))
        chain = (*signed, *(each for each in chain_of(meta) if each not in signed))
        return Call(
            principal=seat.principal,
            space=self._tenancy.of(seat.principal),
            services=self._services,
            report=report if "progressToken" in meta or "progress_token" in meta else None,
            ask=way.ask if way and client.form else None,
            lead=way.ask if way and client.url else None,
            state=way.state if way else "",
            traceparent=traceparent if trace_id(traceparent) else "",
            depth=max(depth if isinstance(depth, int) and 0 <= depth < 1000 else 0, len(chain)),
            effect_id=effect_id if isinstance(effect_id, str) and ids.is_id(effect_id, "eff") else "",
            client=client,
            cancelled=partial(was_cancelled, ctx),
            upstream=upstream_of(meta),
            chain=chain,
        )


def _decided(judge: Judge, name: str) -> Decision:
    """Whoever may change policies can always do so, or one rule could lock everybody out."""
    return OPEN if name in scopes.POLICIES else judge(Act(action="use_tool", resource=name))


async def _while_heard(seat: Seat, call: Call, work: Callable[[], Awaitable[Any]]) -> Any:
    """Runs a tool for as long as somebody hears its answer.

    In the current era the SDK breaks a call off whose response stream is closed. In the one before it goes on,
    for a client that comes back for the rest of the stream; here nothing is kept of it, so it is broken off too.
    """
    if seat.gone is None or call.client.modern:
        return await work()
    async with background() as watching:
        watching.start_soon(_break_off, seat.gone, watching.cancel_scope)
        return await work()
    raise MCPError(mcp.INTERNAL_ERROR, "The response stream was closed")


async def _break_off(gone: anyio.Event, scope: anyio.CancelScope) -> None:
    await gone.wait()
    scope.cancel()


class _Server(Server[Any]):
    """The SDK's server, which says to clients of the handshake era, too, that lists are told when they change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        options = notification_options or NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(options, experimental_capabilities, extensions)


def _page(items: list[Any], params: mcp.PaginatedRequestParams | None) -> tuple[list[Any], str | None]:
    cursor = (params.cursor if params else None) or "0"
    if not cursor.isdigit() or len(cursor) > 9:
        raise MCPError(mcp.INVALID_PARAMS, "Invalid cursor")
    start = int(cursor)
    end = start + PAGE
    return items[start:end], str(end) if end < len(items) else None


def _protocol_error(error: AgentsError) -> MCPError:
    return MCPError(rendering.JSONRPC_CODE[error.kind], rendering.sentence(error), rendering.public(error))
