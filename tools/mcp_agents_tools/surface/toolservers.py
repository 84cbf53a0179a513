"""The plugin `toolservers`: the MCP servers whose tools a tenant's agents may borrow."""

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from mcp_agents.kernel.policy import require_reach
from mcp_agents.kernel.tenancy import Topic
from mcp_agents.kernel.toolserver import BUILTIN, EffectIdPlace, ToolServer, ToolServerSpec, UpstreamAuth, UpstreamTool
from mcp_agents_tools.surface import scopes
from mcp_agents_tools.surface.plugin import READS, Arguments, Call, Form, Hints, Listed, Plugin

plugin = Plugin(
    "toolservers",
    title="Tool servers",
    scopes=scopes.TOOLSERVERS,
    asks_also=frozenset({"toolservers:admin"}),  # a program of one's own, or trusting its annotations
)

_NAME = Field(min_length=1, max_length=40, description="The server's name in this tenant.")


class ToolView(Struct, frozen=True, kw_only=True):
    """A tool of a server; `binding` is what an agent's `tools` takes."""

    binding: str
    name: str
    title: str
    description: str
    read_only: bool
    idempotent: bool
    fingerprint: str


class EffectIdView(Struct, frozen=True, kw_only=True):
    """Where else than in `_meta` the server takes the effect id; empty where it does not."""

    header: str
    argument: str


class ToolServerView(Struct, frozen=True, kw_only=True):
    """A tool server without its secrets."""

    name: str
    transport: Literal["stdio", "http"]
    target: str
    auth_type: str
    credentials: str
    env_names: tuple[str, ...]
    trust_annotations: bool
    effect_id: EffectIdView
    tools: tuple[ToolView, ...]
    created_at: datetime
    updated_at: datetime
    revision: int


class ToolServerList(Struct, frozen=True, kw_only=True):
    """The tenant's tool servers by name."""

    tool_servers: tuple[ToolServerView, ...]


class ToolList(Struct, frozen=True, kw_only=True):
    """Tools that agents can be bound to."""

    tools: tuple[ToolView, ...]


class Removed(Struct, frozen=True, kw_only=True):
    """What was removed."""

    name: str
    removed: bool = True


class AuthArgument(BaseModel):
    """How to sign in at the server. Secrets are stored encrypted and never returned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["none", "bearer", "client_credentials", "authorization_code", "token_exchange"] = Field(
        "none",
        description="The kind of sign-in. authorization_code: people sign in there (tool_server_authorize); "
        "token_exchange: each run shows a token of its own.",
    )
    credentials: Literal["tenant", "user", "agent"] = Field(
        "tenant", description="For `bearer` and `authorization_code`: whose sign-in a call carries."
    )
    token: str = Field("", max_length=8192, description="For `bearer`: the token; yours, with user.", repr=False)
    client_id: str = Field("", max_length=512, description="Our client id there.")
    client_secret: str = Field("", max_length=1024, description="Our secret there.", repr=False)
    issuer: str = Field("", max_length=2048, description="The only authorization server that is asked.")
    scope: str = Field("", max_length=2048, description="Scopes to ask for, separated by spaces.")


class EffectIdArgument(BaseModel):
    """Where the server takes an idempotency key, so that a call that is sent again is known there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    header: str = Field("", max_length=64, description="For `http`: a header, such as `Idempotency-Key`.")
    argument: str = Field(
        "", max_length=64, description="A top-level argument of its tools; the model does not see it."
    )


class ToolServerAddition(Arguments):
    """A tool server to add."""

    noted = ("name", "transport", "trust_annotations")

    name: str = Field(min_length=1, max_length=40, pattern="^[a-z0-9_-]+$", description="A name, unique in the tenant.")
    transport: Literal["stdio", "http"] = Field(description="`stdio` runs a command, `http` calls a URL.")
    command: str = Field("", max_length=1024, description="For `stdio`: the program.")
    args: tuple[str, ...] = Field((), max_length=100, description="For `stdio`: its arguments.")
    env: dict[str, str] = Field(
        default_factory=dict, description="For `stdio`: its environment; values are secrets.", repr=False
    )
    url: str = Field("", max_length=2048, description="For `http`: the MCP endpoint.")
    auth: AuthArgument = Field(default_factory=lambda: AuthArgument.model_validate({}), description="How to sign in.")
    exposes: tuple[str, ...] = Field((), max_length=200, description="Only these tools; absent: all of them.")
    trust_annotations: bool = Field(
        False, description="Believe its readOnlyHint and idempotentHint. Needs toolservers:admin."
    )
    effect_id: EffectIdArgument = Field(
        default_factory=lambda: EffectIdArgument.model_validate({}),
        description="Where else than in `_meta` each call's effect id goes.",
    )


class ToolServerRef(Arguments):
    """One tool server."""

    name: str = _NAME


class ToolServerRemoval(Arguments):
    """Which tool server to remove."""

    noted = ("name",)

    name: str = _NAME
    expected_revision: int | None = Field(None, ge=1, description="The revision you read.")


class Authorizing(Arguments):
    """Whose credential for which server."""

    noted = ("name", "agent", "remove")

    name: str = _NAME
    agent: str = Field("", max_length=64, description="An agent's id or name, where agents have their own.")
    token: str = Field("", max_length=8192, description="For `bearer`: the token.", repr=False)
    remove: bool = Field(False, description="Forgets the credential instead.")


class AuthorizedView(Struct, frozen=True, kw_only=True):
    """`set` or `removed`; `sign_in`: open `url` in a browser within ten minutes and sign in there."""

    name: str
    state: Literal["set", "removed", "sign_in"]
    url: str


class Nothing(Arguments):
    """No arguments."""


class ToolListing(Arguments):
    """Which tools to list."""

    server: str = Field("", max_length=40, description="Only the tools of this server.")
    q: str = Field("", max_length=200, description="Only tools whose name or description holds this text.")


def _view(server: ToolServer) -> ToolServerView:
    made = {"effect_id", "tools"}
    plain = {name: getattr(server, name) for name in ToolServerView.__struct_fields__ if name not in made}
    place = EffectIdView(header=server.effect_id.header, argument=server.effect_id.argument)
    return ToolServerView(**plain, effect_id=place, tools=_tools(server.name, server.tools))


def _tools(server: str, tools: tuple[UpstreamTool, ...]) -> tuple[ToolView, ...]:
    return tuple(
        ToolView(
            binding=f"{server}/{tool.name}",
            name=tool.name,
            title=tool.title,
            description=tool.description,
            read_only=tool.read_only,
            idempotent=tool.idempotent,
            fingerprint=tool.fingerprint,
        )
        for tool in tools
    )


@plugin.tool(
    "tool_server_add",
    title="Add a tool server",
    arguments=ToolServerAddition,
    result=ToolServerView,
    hints=Hints(open_world=True),
)
async def tool_server_add(call: Call, args: ToolServerAddition) -> ToolServerView:
    """Connects to an MCP server, lists its tools and stores it, so that agents can be bound to them as
    `name/tool` or `name/*`. Nothing is stored when the server cannot be reached."""
    spec = ToolServerSpec(
        name=args.name,
        transport=args.transport,
        command=args.command,
        args=args.args,
        env=args.env,
        url=args.url,
        auth=UpstreamAuth(**args.auth.model_dump()),
        exposes=args.exposes,
        trust_annotations=args.trust_annotations,
        effect_id=EffectIdPlace(header=args.effect_id.header, argument=args.effect_id.argument),
    )
    await require_reach(call.services.policies, call.space, call.principal, spec.url)
    return _view(await call.services.tool_servers.add(call.space, call.principal, spec))


@plugin.tool("tool_server_get", title="Get a tool server", arguments=ToolServerRef, result=ToolServerView, hints=READS)
async def tool_server_get(call: Call, args: ToolServerRef) -> ToolServerView:
    """Returns one tool server with its tools, as they were last listed."""
    return _view(await call.services.tool_servers.get(call.space, args.name))


@plugin.tool("tool_server_list", title="List tool servers", arguments=Nothing, result=ToolServerList, hints=READS)
async def tool_server_list(call: Call, args: Nothing) -> ToolServerList:
    """Lists the tenant's tool servers with their tools."""
    return ToolServerList(
        tool_servers=tuple(_view(server) for server in await call.services.tool_servers.all(call.space))
    )


@plugin.tool(
    "tool_server_refresh",
    title="Refresh a tool server",
    arguments=ToolServerRef,
    result=ToolServerView,
    hints=Hints(idempotent=True, open_world=True),
)
async def tool_server_refresh(call: Call, args: ToolServerRef) -> ToolServerView:
    """Connects again and stores what the server offers now."""
    known = await call.services.tool_servers.get(call.space, args.name)
    url = known.target if known.transport == "http" else ""
    await require_reach(call.services.policies, call.space, call.principal, url)
    return _view(await call.services.tool_servers.refresh(call.space, call.principal, args.name))


@plugin.tool(
    "tool_server_authorize",
    title="Sign in at a tool server",
    arguments=Authorizing,
    result=AuthorizedView,
    hints=Hints(destructive=True, idempotent=True, open_world=True),
)
async def tool_server_authorize(call: Call, args: Authorizing) -> AuthorizedView:
    """Sets the credential that you, an agent or the tenant calls a tool server with, or returns the page on which you
    sign in at it. Credentials are stored encrypted, never returned, and used for nobody else."""
    if call.state:  # the client has led the person to the page
        return AuthorizedView(name=args.name, state="sign_in", url=call.state)
    agent = (await call.services.agents.get(call.space, args.agent)).value.id if args.agent else ""
    made = await call.services.tool_servers.authorize(
        call.space, call.principal, args.name, agent=agent, token=args.token, remove=args.remove
    )
    if made.url and call.lead is not None:
        page = Form(message=f"Sign in at {args.name}.", schema={"type": "object", "properties": {}}, url=made.url)
        await call.lead({"sign_in": page}, state=made.url)
    return AuthorizedView(name=args.name, state=made.state, url=made.url)


@plugin.tool(
    "tool_server_remove",
    title="Remove a tool server",
    arguments=ToolServerRemoval,
    result=Removed,
    hints=Hints(destructive=True, idempotent=True),
)
async def tool_server_remove(call: Call, args: ToolServerRemoval) -> Removed:
    """Removes a tool server and its secrets; agents bound to it lose those tools."""
    await call.services.tool_servers.remove(call.space, args.name, expected_revision=args.expected_revision)
    return Removed(name=args.name)


@plugin.tool("tool_list", title="List tools", arguments=ToolListing, result=ToolList, hints=READS)
async def tool_list(call: Call, args: ToolListing) -> ToolList:
    """Lists the tools that agents can be bound to, over all tool servers; `builtin` are the house's own."""
    needle = args.q.casefold()
    own = _tools(BUILTIN, call.services.tool_servers.builtin())
    if args.server == BUILTIN:
        tools = own
    elif args.server:
        tools = _view(await call.services.tool_servers.get(call.space, args.server)).tools
    else:
        servers = sorted(await call.services.tool_servers.all(call.space), key=lambda server: server.name)
        tools = own + tuple(tool for server in servers for tool in _view(server).tools)
    return ToolList(tools=tuple(tool for tool in tools if needle in f"{tool.binding}\n{tool.description}".casefold()))


async def _listed(call: Call) -> list[Listed]:
    return [Listed(uri="cb://tools", name="tools", title="Tools", description="Every tool agents can be bound to.")]


async def _topic(call: Call) -> Topic:
    return call.space.bucket_topic("cb_tool_servers")


@plugin.resource("cb://tools", name="tools", title="Tools", listing=_listed, topic=_topic)
async def tools_resource(call: Call) -> Any:
    """Every tool that agents can be bound to."""
    return msgspec.to_builtins((await tool_list(call, ToolListing.model_validate({}))).tools)
