"""The server that the conformance suite's named fixtures are on: the product's own factory with one more plugin.

The app builder, the door, the gate and OAuth are the product's, and what a plugin can say stands in a plugin like a
third party's: contents of every kind, asking the person at the client, tasks. Tasks are runs of a real agent on the
rule-based model, whose one tool server sleeps. What the product itself does not offer and only the suite asks for
(sampling, roots, log messages, subscriptions of the handshake era) is in `FixtureDoor`, which answers those few calls
by hand. `run` plays the suite against it.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import mcp_types as mcp
import msgspec
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from mcp_agents_tools.surface.catalogue import Catalogue
from mcp_agents_tools.surface.following import execute
from mcp_agents_tools.surface.plugin import (
    READS,
    Arguments,
    Block,
    Call,
    Document,
    Form,
    Hints,
    Listed,
    Long,
    Media,
    Plugin,
    Reply,
)
from pydantic import Field
from starlette.applications import Starlette

from mcp_agents.agents.spec import AgentDraft
from mcp_agents.execution.orders import Order
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.kernel.tenancy import Topic
from mcp_agents.server.callers import Context
from mcp_agents.server.compose import House
from mcp_agents.server.http import app
from mcp_agents.server.mcp import Door, Seat, ToolAnswer
from mcp_agents.server.subscriptions import Lists
from tests.support.served import Served, served
from tests.support.tool_servers.served import mcp_app
from tests.support.tool_servers.served import served as port_of

PATH: Final = "/mcp/conformance"
TENANT: Final = "suite"
AGENT: Final = "worker"
PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92"
    "ef0000000049454e44ae426082"
)
WAV: Final = (
    b"RIFF\x26\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00"
)
WAV_ALL: Final = WAV + b"data\x02\x00\x00\x00\x00\x00"
NAMED: Final = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


plugin = Plugin("conformance", title="Fixtures", scopes={})

Blocks = tuple[Block, ...]
Said = Callable[[Call, Any], Awaitable[Blocks]]


class Nothing(Arguments):
    """No arguments."""


def tool(name: str, arguments: type[Arguments] = Nothing, long: Long | None = None) -> Callable[[Said], Said]:
    """Declares a tool that returns blocks."""
    scopes_of(name)
    hints = Hints(open_world=True) if long else READS
    return plugin.tool(name, title=name, arguments=arguments, result=None, hints=hints, long=long)


def scopes_of(*names: str) -> None:
    """Gives the names their right."""
    for name in names:
        plugin.scopes[name] = "executions:run"


# Contents


@tool("test_simple_text")
async def simple_text(call: Call, args: Nothing) -> Blocks:
    """Returns a text."""
    return ("This is a simple text response for testing.",)


@tool("test_image_content")
async def image_content(call: Call, args: Nothing) -> Blocks:
    """Returns an image."""
    return (Media(kind="image", mime_type="image/png", data=PNG),)


@tool("test_audio_content")
async def audio_content(call: Call, args: Nothing) -> Blocks:
    """Returns a sound."""
    return (Media(kind="audio", mime_type="audio/wav", data=WAV_ALL),)


@tool("test_embedded_resource")
async def embedded_resource(call: Call, args: Nothing) -> Blocks:
    """Returns an embedded resource."""
    text = "This is an embedded resource content."
    return (Document(uri="test://embedded-resource", mime_type="text/plain", text=text),)


@tool("test_multiple_content_types")
async def multiple_content_types(call: Call, args: Nothing) -> Blocks:
    """Returns three kinds of content."""
    data = '{"test":"data","value":123}'
    return (
        "Multiple content types test:",
        Media(kind="image", mime_type="image/png", data=PNG),
        Document(uri="test://mixed-content-resource", mime_type="application/json", text=data),
    )


@tool("test_error_handling")
async def error_handling(call: Call, args: Nothing) -> Blocks:
    """Always fails."""
    raise Invalid("FIXTURE", "This tool intentionally returns an error for testing", "")


@tool("test_tool_with_progress")
async def with_progress(call: Call, args: Nothing) -> Blocks:
    """Reports progress three times."""
    for step in ("0 %", "50 %", "100 %"):
        if call.report:
            await call.report(step)
        await anyio.sleep(0.05)
    return ("done",)


class Region(Arguments):
    """An argument that a client repeats in a header."""

    region: str = Field("", json_schema_extra={"x-mcp-header": "Region"})


@tool("test_custom_header", Region)
async def custom_header(call: Call, args: Region) -> Blocks:
    """Returns what it was given."""
    return (args.region,)


class Contact(Arguments):
    """The schema that the suite prescribes."""

    name: str = ""

    @classmethod
    def model_json_schema(cls, *_: Any, **__: Any) -> dict[str, Any]:
        """It, word for word."""
        text = {"type": "string"}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "address": {"$anchor": "addressDef", "type": "object", "properties": {"street": text, "city": text}}
            },
            "properties": {
                "name": text,
                "address": {"$ref": "#/$defs/address"},
                "contactMethod": {"type": "string", "enum": ["phone", "email"]},
                "phone": text,
                "email": text,
            },
            "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
            "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
            "then": {"required": ["phone"]},
            "else": {"required": ["email"]},
            "additionalProperties": False,
        }


@tool("json_schema_2020_12_tool", Contact)
async def contact(call: Call, args: Contact) -> Blocks:
    """Has a schema of many words."""
    return (args.name,)


# Asking the person at the client


async def answer(call: Call, key: str, message: str, schema: dict[str, Any], state: str = "") -> Reply:
    """What the person says. Raises `Invalid` where the client cannot ask one."""
    if call.ask is None:
        raise Invalid("FIXTURE", "The client shows no forms.", "")
    return (await call.ask({key: Form(message=message, schema=schema)}, state=state))[key]


def told(word: str, reply: Reply) -> str:
    """A reply as the suite wants it said."""
    return f"{word}: action={reply.action}, content={msgspec.json.encode(reply.content).decode()}"


class Message(Arguments):
    """What to show."""

    message: str


@tool("test_elicitation", Message)
async def elicitation(call: Call, args: Message) -> Blocks:
    """Asks for a name and an address."""
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    schema = {"type": "object", "properties": fields, "required": ["username", "email"]}
    return (told("User response", await answer(call, "user", args.message, schema)),)


@tool("test_elicitation_sep1034_defaults")
async def elicitation_defaults(call: Call, args: Nothing) -> Blocks:
    """Asks with a default of every type."""
    fields: dict[str, Any] = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    reply = await answer(call, "defaults", "Defaults?", {"type": "object", "properties": fields})
    return (told("Elicitation completed", reply),)


@tool("test_elicitation_sep1330_enums")
async def elicitation_enums(call: Call, args: Nothing) -> Blocks:
    """Asks with every form of a choice."""
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": f"Option {number}"} for number in (1, 2, 3)]
    names = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    fields: dict[str, Any] = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", **names},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    reply = await answer(call, "choices", "Choose", {"type": "object", "properties": fields})
    return (told("Elicitation completed", reply),)


@tool("test_input_required_result_elicitation")
async def input_elicitation(call: Call, args: Nothing) -> Blocks:
    """Asks for a name."""
    return (f"Hello, {await name_of(call)}!",)


async def name_of(call: Call) -> str:
    """The name the person gives; asked again until it is one."""
    reply = await answer(call, "user_name", "What is your name?", NAMED)
    return str(reply.content.get("name", ""))


@tool("test_streaming_elicitation")
async def streaming_elicitation(call: Call, args: Nothing) -> Blocks:
    """Reports progress and then asks."""
    if call.report:
        await call.report("asking")
    return (f"Hello, {await name_of(call)}!",)


CONFIRM: Final = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


@tool("test_input_required_result_request_state")
async def input_request_state(call: Call, args: Nothing) -> Blocks:
    """Leaves something behind and wants it back."""
    await answer(call, "confirm", "Please confirm", CONFIRM, state="left")
    return ("state-ok" if call.state == "left" else "state-lost",)


@tool("test_input_required_result_tampered_state")
async def input_tampered_state(call: Call, args: Nothing) -> Blocks:
    """Leaves something behind that nobody may change."""
    await answer(call, "confirm", "Please confirm", CONFIRM, state="left")
    return ("confirmed",)


@tool("test_input_required_result_multi_round")
async def input_multi_round(call: Call, args: Nothing) -> Blocks:
    """Asks twice, one after the other."""
    name = await answer(call, "step1", "Step 1: What is your name?", NAMED)
    colours = {"type": "object", "properties": {"color": {"type": "string"}}, "required": ["color"]}
    colour = await answer(call, "step2", "Step 2: What is your favorite color?", colours)
    return (f"{name.content.get('name')} likes {colour.content.get('color')}.",)


# Tasks: runs of one agent


def order(prompt: str, task: str) -> Order:
    """A run of the fixture's agent."""
    return Order(agent=AGENT, prompt=prompt, task=task)


def text_of(view: ExecutionView) -> Blocks:
    """What the agent said."""
    return (view.text or view.status,)


def begins(task: str, prompt: Callable[[Any], str]) -> Callable[[Call, Any], Awaitable[str]]:
    """Begins a run as a task of this tool."""

    async def begin(call: Call, args: Any) -> str:
        return await call.services.dispatcher.submit(call.space, call.principal, order(prompt(args), task))

    return begin


class Who(Arguments):
    """Whom to greet."""

    name: str


@tool("greet", Who)
async def greet(call: Call, args: Who) -> Blocks:
    """Greets, at once."""
    return (f"Hello, {args.name}!",)


class Slow(Arguments):
    """How slow."""

    seconds: float = 1
    label: str = ""


def sleeping(args: Slow) -> str:
    """A prompt whose run takes so long."""
    return f'call clock__sleep with {{"seconds": {args.seconds}}}\nsay computed {args.label}'


@tool("slow_compute", Slow, Long(begin=begins("slow_compute", sleeping), finish=text_of))
async def slow_compute(call: Call, args: Slow) -> Blocks:
    """Takes its time."""
    return text_of(await execute(call, order(sleeping(args), ""), 120))


async def never(call: Call, args: Any) -> Blocks:
    """Is not called: the tool is only there for clients that know tasks."""
    raise NotImplementedError


def fails(view: ExecutionView) -> Blocks:
    """As a tool does that was carried out and went wrong."""
    raise Fault("FIXTURE", "The job failed.", "")


def breaks(view: ExecutionView) -> Blocks:
    """As the protocol itself does."""
    raise MCPError(mcp.INTERNAL_ERROR, "The job broke the protocol.")


def one_second(_: Any) -> str:
    """A prompt whose run takes a second."""
    return sleeping(Slow())


tool("failing_job", Nothing, Long(begin=begins("failing_job", one_second), finish=fails, required=True))(never)
tool("protocol_error_job", Nothing, Long(begin=begins("protocol_error_job", one_second), finish=breaks))(never)


class File(Arguments):
    """What to delete."""

    filename: str


def asks(*messages: str) -> str:
    """A prompt whose run asks all of this at once."""
    fields = {"confirm": {"type": "boolean"}}
    calls = [
        f"builtin__ask_user with {msgspec.json.encode({'message': message, 'schema': {'properties': fields}}).decode()}"
        for message in messages
    ]
    return "call in parallel: " + "; ".join(calls) + "\nsay answered"


def confirming(args: File) -> str:
    """A prompt whose run asks once."""
    return asks(f"Delete {args.filename}?")


tool("confirm_delete", File, Long(begin=begins("confirm_delete", confirming), finish=text_of))(never)
tool("multi_input", Nothing, Long(begin=begins("multi_input", lambda _: asks("One?", "Two?")), finish=text_of))(never)


async def asking_first(call: Call, args: Nothing) -> str:
    """Asks in the call, and begins its run with the answer."""
    name = await name_of(call)
    return await begins("test_tool_with_task", lambda _: f"say Hello, {name}!")(call, args)


tool("test_tool_with_task", Nothing, Long(begin=asking_first, finish=text_of, required=True))(never)


# Resources and prompts


def listing(uri: str, name: str) -> Callable[[Call], Awaitable[list[Listed]]]:
    """Lists one resource."""

    async def listed(call: Call) -> list[Listed]:
        return [Listed(uri=uri, name=name)]

    return listed


TEXT: Final = "test://static-text"
BINARY: Final = "test://static-binary"
WATCHED: Final = "test://watched-resource"
TEMPLATE: Final = "test://template/{id}/data"
PROMPTS: Final = (
    "test_simple_prompt",
    "test_prompt_with_arguments",
    "test_prompt_with_embedded_resource",
    "test_prompt_with_image",
    "test_input_required_result_prompt",
)
scopes_of(TEXT, BINARY, WATCHED, TEMPLATE, *PROMPTS)


@plugin.resource(TEXT, name="text", title="A text", mime_type="text/plain", listing=listing(TEXT, "text"))
async def static_text(call: Call) -> Document:
    """A text."""
    return Document(mime_type="text/plain", text="This is the content of the static text resource.")


@plugin.resource(BINARY, name="binary", title="An image", mime_type="image/png", listing=listing(BINARY, "binary"))
async def static_binary(call: Call) -> Document:
    """Bytes."""
    return Document(mime_type="image/png", data=PNG)


async def _agents_of(call: Call) -> Topic:
    return call.services.agents.every_topic(call.space)


@plugin.resource(WATCHED, name="watched", title="Watched", listing=listing(WATCHED, "watched"), topic=_agents_of)
async def watched(call: Call) -> dict[str, Any]:
    """Something to subscribe to."""
    return {"watched": True}


@plugin.resource(TEMPLATE, name="template", title="A template")
async def template(call: Call, id: str) -> dict[str, Any]:
    """Data of an id."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


@plugin.prompt(PROMPTS[0], title="Simple", arguments={})
async def simple_prompt(call: Call, arguments: dict[str, str]) -> str:
    """A text."""
    return "This is a simple prompt for testing."


async def completed(call: Call, typed: str) -> list[str]:
    """Values of an argument."""
    return [value for value in ("paris", "park", "party") if value.startswith(typed)]


@plugin.prompt(
    PROMPTS[1],
    title="With arguments",
    arguments={"arg1": "First test argument", "arg2": "Second test argument"},
    complete={"arg1": completed},
)
async def prompt_with_arguments(call: Call, arguments: dict[str, str]) -> str:
    """A text with two arguments in it."""
    return f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'"


@plugin.prompt(PROMPTS[2], title="Embedded", arguments={"resourceUri": "URI of the resource to embed"})
async def prompt_with_embedded_resource(call: Call, arguments: dict[str, str]) -> Blocks:
    """A resource and a text."""
    text = "Embedded resource content for testing."
    embedded = Document(uri=arguments["resourceUri"], mime_type="text/plain", text=text)
    return (embedded, "Please process the embedded resource above.")


@plugin.prompt(PROMPTS[3], title="Image", arguments={})
async def prompt_with_image(call: Call, arguments: dict[str, str]) -> Blocks:
    """An image and a text."""
    return (Media(kind="image", mime_type="image/png", data=PNG), "Please analyze the image above.")


@plugin.prompt(PROMPTS[4], title="Asking", arguments={})
async def asking_prompt(call: Call, arguments: dict[str, str]) -> str:
    """Asks before it is made."""
    schema = {"type": "object", "properties": {"context": {"type": "string"}}, "required": ["context"]}
    reply = await answer(call, "user_context", "What context should the prompt use?", schema)
    return f"Use this context: {reply.content.get('context')}"


# What changes lists: an agent, as on the path of one


@tool("test_trigger_tool_change")
async def change_tools(call: Call, args: Nothing) -> Blocks:
    """Changes the tools."""
    return await _changed(call)


@tool("test_trigger_prompt_change")
async def change_prompts(call: Call, args: Nothing) -> Blocks:
    """Changes the prompts."""
    return await _changed(call)


async def _changed(call: Call) -> Blocks:
    name = f"changed-{secrets.token_hex(8)}"
    await call.services.agents.create(call.space, AgentDraft.model_validate({"name": name}))
    return ("changed",)


# What only the suite asks for


class Prompt(Arguments):
    """What to have completed."""

    prompt: str


BY_HAND: Final[dict[str, type[Arguments]]] = {
    "test_tool_with_logging": Nothing,
    "test_logging_tool": Nothing,
    "test_sampling": Prompt,
    "test_missing_capability": Nothing,
    "test_input_required_result_sampling": Nothing,
    "test_input_required_result_list_roots": Nothing,
    "test_input_required_result_multiple_inputs": Nothing,
    "test_input_required_result_capabilities": Nothing,
}
for _name, _arguments in BY_HAND.items():
    tool(_name, _arguments)(never)


class FixtureDoor(Door):
    """The product's door, which answers a few calls of deprecated parts of the protocol by hand."""

    def server(self) -> Any:
        """The product's server with what the handshake era had besides."""
        server = super().server()
        server.add_request_handler("logging/setLevel", mcp.SetLevelRequestParams, _taken)
        return server

    async def _lists(self, call: Call, seat: Seat) -> Lists:
        """As on the path of one agent, where the tools and the prompts change with it; here with any."""
        return Lists(await _agents_of(call), one=True)

    async def call_tool(self, ctx: Context, params: mcp.CallToolRequestParams) -> ToolAnswer:
        """By hand, or as the product does."""
        match params.name:
            case "test_tool_with_logging" | "test_logging_tool":
                return await _logging(ctx)
            case "test_sampling":
                return await _sampling(ctx, params)
            case "test_missing_capability":
                return _needing_sampling(ctx)
            case name if name in BY_HAND:
                return _rounds(ctx, params)
        return await super().call_tool(ctx, params)


async def _taken(ctx: Context, params: Any) -> mcp.EmptyResult:
    return mcp.EmptyResult()


def _text(text: str) -> mcp.CallToolResult:
    return mcp.CallToolResult(content=[mcp.TextContent(type="text", text=text)])


async def _logging(ctx: Context) -> mcp.CallToolResult:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.session.send_log_message("info", said, related_request_id=ctx.request_id)
        await anyio.sleep(0.05)
    return _text("logged")


def _question(text: str, limit: int) -> mcp.CreateMessageRequestParams:
    content = mcp.TextContent(type="text", text=text)
    return mcp.CreateMessageRequestParams(
        messages=[mcp.SamplingMessage(role="user", content=content)], max_tokens=limit
    )


async def _sampling(ctx: Context, params: mcp.CallToolRequestParams) -> mcp.CallToolResult:
    asked = _question(str((params.arguments or {})["prompt"]), 100)
    said = await ctx.session.create_message(asked.messages, max_tokens=100, related_request_id=ctx.request_id)
    return _text(f"LLM response: {said.content}")


def _needing_sampling(ctx: Context) -> mcp.CallToolResult:
    able = ctx.session.client_capabilities
    if able is None or able.sampling is None:
        needs = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(mcp.MISSING_REQUIRED_CLIENT_CAPABILITY, "This needs sampling.", needs)
    return _text("able")


def _rounds(ctx: Context, params: mcp.CallToolRequestParams) -> mcp.CallToolResult | mcp.InputRequiredResult:
    """Asks for what the tool's name says, as far as the client is able to; complete when all of it is there."""
    greeting = mcp.CreateMessageRequest(params=_question("Generate a greeting", 50))
    capital = mcp.CreateMessageRequest(params=_question("What is the capital of France?", 100))
    name = mcp.ElicitRequest(params=mcp.ElicitRequestFormParams(message="What is your name?", requested_schema=NAMED))
    roots = mcp.ListRootsRequest()
    able = ctx.session.client_capabilities or mcp.ClientCapabilities()
    wanted: dict[str, Any]
    match params.name.removeprefix("test_input_required_result_"):
        case "sampling":
            wanted = {"capital_question": capital}
        case "list_roots":
            wanted = {"client_roots": roots}
        case "multiple_inputs":
            wanted = {"user_name": name, "greeting": greeting, "client_roots": roots}
        case _:
            wanted = ({"greeting": greeting} if able.sampling else {}) | (
                {"user_name": name} if able.elicitation else {}
            )
    given = params.input_responses or {}
    if any(key not in given for key in wanted):
        return mcp.InputRequiredResult(input_requests=wanted, request_state=params.name)
    return _text("; ".join(str(given[key].model_dump(mode="json", exclude_none=True)) for key in wanted))


def built(house: House) -> Starlette:
    """The product's HTTP application over the plugins that are installed and this one."""
    house = replace(house, catalogue=Catalogue([*house.catalogue.plugins, plugin]))
    return app(house, FixtureDoor(house))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    """The fixture server on a free port, with the agent that its tasks are runs of, in the tenant `TENANT`."""
    clock = MCPServer("clock", log_level="WARNING")

    @clock.tool()
    async def sleep(seconds: float) -> str:
        """Sleeps."""
        await anyio.sleep(seconds)
        return f"slept {seconds} s"

    async with served(folder, build=built) as server, port_of(mcp_app(clock)) as port, server.remote(TENANT) as remote:
        where = {"transport": "http", "url": f"http://127.0.0.1:{port}/mcp"}
        await remote.call("tool_server_add", {"name": "clock", **where})
        tools = ["clock/*", "builtin/ask_user"]
        await remote.call("agent_create", {"name": AGENT, "virtual_model": "rule-based", "tools": tools})
        yield server
