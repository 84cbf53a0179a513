"""The tool servers of a tenant: who may add which, what is stored of them, how they are reached.

Fills the kernel's `ToolServers`. A server is reached and listed before anything is stored. What a stdio
server may be is settled here once when it is added and again whenever it is started. Below stand `hub` and
`records`; `toolbox` asks it for records and targets.
"""

import re
import sys
from dataclasses import replace
from typing import Final, Literal

import msgspec

from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.errors import AgentsError, Conflict, Denied, Invalid, NotFound, Unavailable, WrongRevision
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import Records, TenantSpace, Versioned
from mcp_agents.kernel.toolserver import (
    BUILTIN,
    Authorized,
    ToolServer,
    ToolServerSpec,
    UpstreamAuth,
    UpstreamTool,
)
from mcp_agents.security.secrets import TenantSecrets
from mcp_agents_tools.toolsets import builtin
from mcp_agents_tools.toolsets.credentials import Secret, owner_name
from mcp_agents_tools.toolsets.hub import UpstreamHub
from mcp_agents_tools.toolsets.listing import takes
from mcp_agents_tools.toolsets.oauth import Registered, require_secure
from mcp_agents_tools.toolsets.records import (
    StoredServer,
    public_view,
    sealed_server,
    secret_purpose,
    stored_tools,
    target_of,
)
from mcp_agents_tools.toolsets.sign_ins import SignIns, owner_of
from mcp_agents_tools.toolsets.upstream import ConnectFailed, Reason, Target

StdioPolicy = Literal["off", "sandboxed", "trusted"]

DEMO_COMMAND: Final = "mcp-agents-demo-tools"
ADMIN: Final = "toolservers:admin"
WRITE: Final = "toolservers:write"
RECORD_LIMIT: Final = 512 * 1024
"""Bytes of a stored server with its tools."""

_NAME: Final = re.compile(r"[a-z0-9_-]{1,40}")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ARGUMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_HEADER: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_OUR_HEADERS: Final = re.compile(
    r"(mcp|content|accept|proxy|sec|access-control|x-forwarded|if)(-.*)?"
    r"|authorization|cookie|host|connection|keep-alive|upgrade|te|trailer|transfer-encoding|expect|range|via"
    r"|forwarded|origin|referer|user-agent|date|last-event-id|traceparent|tracestate|baggage",
    re.IGNORECASE,
)
"""Headers that mean something to HTTP, to MCP or to whoever stands between; none of them may hold an effect id."""
_LISTER: Final = "toolservers"
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
# -P: the working folder is not searched for modules, or a file lying there would run instead.
_DEMO: Final = (sys.executable, "-P", "-m", "mcp_agents_tools.demo_server")


class StoredToolServers:
    """Tool servers in the bucket `cb_tool_servers`, one record per name.

    Args:
        secrets: encrypts environment values, tokens and client secrets.
        sign_ins: whose sign-in a call carries.
        stdio: `off`, `sandboxed` (no sandbox exists yet, so only the packaged demo server runs) or `trusted`.
    """

    def __init__(
        self, hub: UpstreamHub, secrets: TenantSecrets, sign_ins: SignIns, clock: Clock, *, stdio: StdioPolicy
    ) -> None:
        self.sign_ins = sign_ins
        self._hub, self._secrets, self._clock, self._stdio = hub, secrets, clock, stdio

    async def add(self, space: TenantSpace, principal: Principal, spec: ToolServerSpec) -> ToolServer:
        """See the port. Raises `Invalid`, `Denied`, `Conflict` (`TOOL_SERVER_EXISTS`), `Unavailable`."""
        _check_shape(spec)
        _require_person_for_secrets(principal, spec)
        if spec.trust_annotations:
            principal.require(ADMIN)
        if spec.transport == "stdio":
            self._check_stdio(spec.command)
            if spec.command != DEMO_COMMAND:
                principal.require(ADMIN)
        else:
            await self._check_urls(spec.url, spec.auth)
            self._check_own(spec)
        if await self._records(space).get(spec.name) is not None:
            raise _exists(spec.name)
        tools = await self._first_listed(space, principal, spec)
        record = await sealed_server(spec, tools, self._secrets, space, principal.subject, self._clock.now())
        _check_size(record)
        try:
            revision = await self._records(space).create(spec.name, value=record)
        except WrongRevision as cause:
            raise _exists(spec.name) from cause
        if spec.auth.type == "bearer" and spec.auth.credentials == "user":
            secret = Secret(token=spec.auth.token)
            await self.sign_ins.credentials.put(space, record.key, owner_of("user", principal), secret)
        return public_view(record, revision)

    async def _first_listed(self, space: TenantSpace, principal: Principal, spec: ToolServerSpec) -> list[UpstreamTool]:
        """The tools of a server that is not stored yet; none where somebody has to sign in first."""
        if spec.auth.type == "authorization_code":
            await self.sign_ins.discover(spec.url, spec.auth.issuer)
            return []
        command = _command(spec.command, spec.args) if spec.transport == "stdio" else ()
        target = Target(transport=spec.transport, command=command, env=spec.env, url=spec.url, auth=spec.auth)
        if spec.auth.type == "token_exchange":
            draft = await sealed_server(spec, [], self._secrets, space, principal.subject, self._clock.now())
            sign_in = await self.sign_ins.prepared(space, _listing(principal), draft)
            target = replace(target, source=sign_in.source)
        tools = _exposed(await self._listed(target), spec.exposes)
        _check_argument(spec, tools)
        return tools

    def builtin(self) -> tuple[UpstreamTool, ...]:
        """See the port."""
        return builtin.TOOLS

    async def get(self, space: TenantSpace, name: str) -> ToolServer:
        """Raises `NotFound` (`TOOL_SERVER_UNKNOWN`)."""
        found = await self.stored(space, name)
        return public_view(found.value, found.revision)

    async def all(self, space: TenantSpace) -> list[ToolServer]:
        """By name."""
        return [public_view(found.value, found.revision) for found in await self._records(space).all()]

    async def refresh(self, space: TenantSpace, principal: Principal, name: str) -> ToolServer:
        """Lists again. Raises like `add`, and `Conflict` (`REVISION_CONFLICT`) when it was changed meanwhile."""
        found = await self.stored(space, name)
        sign_in = await self.sign_ins.prepared(space, _listing(principal), found.value)
        listed = await self._listed(replace(await self.target(space, found.value), source=sign_in.source))
        tools = stored_tools(_exposed(listed, found.value.exposes, missing_is_wrong=False))
        if tools == found.value.tools:
            return public_view(found.value, found.revision)
        now = max(self._clock.now(), found.value.updated_at)
        fresh = msgspec.structs.replace(found.value, tools=tools, updated_at=now)
        _check_size(fresh)
        try:
            revision = await self._records(space).update(name, value=fresh, revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        return public_view(fresh, revision)

    async def remove(self, space: TenantSpace, name: str, *, expected_revision: int | None) -> None:
        """Raises `NotFound` and `Conflict` (`REVISION_CONFLICT`)."""
        found = await self.stored(space, name)
        if expected_revision not in (None, found.revision):
            raise _moved_on()
        try:
            await self._records(space).delete(name, revision=found.revision)
        except WrongRevision as cause:
            raise _moved_on() from cause
        await self.sign_ins.credentials.remove_all(space, found.value.key)
        await self._hub.forget(space.tenant, name)

    async def authorize(
        self, space: TenantSpace, principal: Principal, name: str, *, agent: str = "", token: str = "", remove: bool
    ) -> Authorized:
        """See the port."""
        if principal.actors:
            raise Denied(
                "AUTHORIZE_NEEDS_PERSON", "Whoever acts for somebody cannot do this.", "Ask that person to do it."
            )
        server = (await self.stored(space, name)).value
        if server.auth_type not in ("bearer", "authorization_code"):
            raise _no_authorizing("This tool server takes no credentials of people or agents.")
        if agent and server.credentials != "agent":
            raise _no_authorizing("This tool server takes no credentials of agents.")
        if server.credentials == "user":
            owner = owner_of("user", principal)
        else:
            principal.require(WRITE)
            owner = owner_name("agent", agent) if agent else owner_name("tenant")
        credentials = self.sign_ins.credentials
        if remove:
            await credentials.remove(space, server.key, owner)
            await self._hub.forget(space.tenant, name)
            return Authorized(state="removed")
        if server.auth_type == "authorization_code":
            if token:
                raise _no_authorizing("This tool server takes no token: people sign in at it.")
            secret, sealed = "", server.sealed_secret
            if sealed:
                secret = await self._secrets.unseal(space, secret_purpose(name), sealed)
            us = Registered(client_id=server.client_id, secret=secret)
            whom = f"the agent {agent}" if agent else "you" if server.credentials == "user" else "everybody here"
            return Authorized(state="sign_in", url=await self.sign_ins.begin(space, principal, server, us, owner, whom))
        if not _TOKEN.fullmatch(token):
            raise _no_authorizing("It needs a token of visible ASCII characters.")
        if owner == owner_name("tenant"):
            raise _no_authorizing("The token of the whole tenant is set when the tool server is added.")
        await credentials.put(space, server.key, owner, Secret(token=token))
        return Authorized(state="set")

    async def stored(self, space: TenantSpace, name: str) -> Versioned[StoredServer]:
        """The record itself, for `toolbox`. Raises `NotFound` (`TOOL_SERVER_UNKNOWN`)."""
        found = await self._records(space).get(name) if _NAME.fullmatch(name) else None
        if found is None:
            raise NotFound("TOOL_SERVER_UNKNOWN", "There is no such tool server.", "List them with tool_server_list.")
        return found

    async def target(self, space: TenantSpace, server: StoredServer) -> Target:
        """How to reach a stored server, secrets in clear. Raises `Denied` or `Unavailable` as the policy is now."""
        if server.transport == "http":
            return await target_of(server, (), self._secrets, space)
        self._check_stdio(server.command)
        return await target_of(server, _command(server.command, server.args), self._secrets, space)

    async def _listed(self, target: Target) -> list[UpstreamTool]:
        try:
            async with self._hub.visit(target) as upstream:
                return await upstream.list_tools()
        except ConnectFailed as failure:
            # Not chained: what lies below may quote an address, a header or an environment.
            raise _not_connected(failure.reason) from None

    async def _check_urls(self, url: str, auth: UpstreamAuth) -> None:
        await self._hub.egress.check(url)
        if auth.issuer:
            await self._hub.egress.check(auth.issuer)
        for each in (url, auth.issuer):
            if auth.type != "none" and each:
                require_secure(self._hub.egress, each)

    def _check_own(self, spec: ToolServerSpec) -> None:
        """Our own agents are called with the run's own token: with any other the chain of who acts would end here, and
        an agent could do all that a person may."""
        own = self.sign_ins.is_ours(spec.url) or self.sign_ins.is_ours(spec.auth.issuer)
        if own and spec.auth.type not in ("none", "token_exchange"):
            raise Invalid(
                "TOOL_SERVER_OWN_SIGN_IN",
                "This server's own agents are called with a token of the run's own, not with a sign-in of somebody's.",
                "Use auth type token_exchange.",
            )

    def _check_stdio(self, command: str) -> None:
        if self._stdio == "off":
            raise Denied(
                "STDIO_OFF",
                "This server starts no tool servers as processes.",
                'Add an http tool server, or ask the operator to set [tools] stdio = "trusted".',
            )
        if self._stdio == "sandboxed" and command != DEMO_COMMAND:
            raise Unavailable(
                "SANDBOX_MISSING",
                "Tool servers as processes must run in a sandbox here, and this installation has no sandbox driver.",
                f"Add an http tool server, use the packaged {DEMO_COMMAND}, or ask the operator to set "
                '[tools] stdio = "trusted" if every administrator may run programs on this machine.',
            )

    def _records(self, space: TenantSpace) -> Records[StoredServer]:
        return space.records("cb_tool_servers", StoredServer)


def _listing(principal: Principal) -> Principal:
    """The caller as whoever only lists tools: not the person, who could do more."""
    return principal.acting(_LISTER)


def _require_person_for_secrets(principal: Principal, spec: ToolServerSpec) -> None:
    """An agent adds servers that anybody may talk to; what carries a secret or runs a program is for people to add."""
    if principal.actors and (
        spec.auth.type != "none" or spec.trust_annotations or spec.command not in ("", DEMO_COMMAND)
    ):
        raise Denied(
            "TOOL_SERVER_NEEDS_PERSON",
            "An agent cannot add a tool server that carries a sign-in, is trusted, or runs a program.",
            "Ask a person to add it.",
        )


def _command(command: str, args: tuple[str, ...]) -> tuple[str, ...]:
    return _DEMO if command == DEMO_COMMAND else (command, *args)


def _check_shape(spec: ToolServerSpec) -> None:
    """What can be said about a spec without asking anybody."""
    if not _NAME.fullmatch(spec.name):
        raise _invalid("A tool server's name is 1 to 40 of a-z, 0-9, _ and -.")
    if spec.name == BUILTIN:
        raise _invalid(f"The name {BUILTIN} belongs to the tools of the house itself.")
    _check_effect_id(spec)
    if spec.transport == "stdio":
        _check_process(spec)
    elif not spec.url or spec.command or spec.args or spec.env:
        raise _invalid("An http tool server takes a url, and no command, args or env.")
    if spec.auth.type == "bearer" and not _TOKEN.fullmatch(spec.auth.token):
        raise _invalid("Sign-in by bearer needs a token of visible ASCII characters.")
    given = spec.auth.client_id and spec.auth.client_secret and spec.auth.issuer
    if spec.auth.type == "client_credentials" and not given:
        raise _invalid("Sign-in by client_credentials needs client_id, client_secret and issuer.")
    if spec.auth.type == "authorization_code" and spec.auth.client_secret and not spec.auth.issuer:
        raise _invalid("A client_secret needs the issuer that it may be shown to.")
    if spec.auth.type == "token_exchange" and spec.auth.issuer and not spec.auth.client_id:
        raise _invalid("Sign-in by token_exchange at an issuer needs client_id.")
    if spec.auth.credentials != "tenant" and spec.auth.type not in ("bearer", "authorization_code"):
        raise _invalid("Only bearer and authorization_code know credentials of users or agents.")


def _check_effect_id(spec: ToolServerSpec) -> None:
    header, argument = spec.effect_id.header, spec.effect_id.argument
    if header and spec.transport != "http":
        raise _invalid("Only an http tool server takes the effect id in a header.")
    if header and (not _HEADER.fullmatch(header) or _OUR_HEADERS.fullmatch(header)):
        raise _invalid("The header for the effect id is 1 to 64 of A-Z, a-z, 0-9 and -, and none that is in use.")
    if argument and not _ARGUMENT.fullmatch(argument):
        raise _invalid("The argument for the effect id is 1 to 64 of A-Z, a-z, 0-9, _, . and -.")


def _check_argument(spec: ToolServerSpec, tools: list[UpstreamTool]) -> None:
    argument = spec.effect_id.argument
    if argument and not any(takes(tool.input_schema, argument) for tool in tools):
        raise _invalid(f"None of the server's tools takes an argument {argument} for the effect id.")


def _check_process(spec: ToolServerSpec) -> None:
    if not spec.command or spec.url or spec.auth.type != "none":
        raise _invalid("A stdio tool server takes a command, and no url or auth.")
    # The demo server runs for callers who may not run programs: no variable may turn it into something else.
    if spec.command == DEMO_COMMAND and (spec.args or spec.env):
        raise _invalid("The packaged demo server takes no args and no env.")
    texts = (spec.command, *spec.args, *spec.env.values())
    if any("\0" in text for text in texts) or not all(_ENV_NAME.fullmatch(name) for name in spec.env):
        raise _invalid("The command, an argument or a name or value of env holds characters that are not allowed.")


def _check_size(record: StoredServer) -> None:
    if len(msgspec.json.encode(record)) > RECORD_LIMIT:
        raise Invalid(
            "TOOL_SERVER_TOO_LARGE",
            f"What the server says about its tools is more than {RECORD_LIMIT // 1024} KiB.",
            "Name the tools you need in exposes.",
        )


def _exposed(
    tools: list[UpstreamTool], exposes: tuple[str, ...], *, missing_is_wrong: bool = True
) -> list[UpstreamTool]:
    if not exposes:
        return tools
    missing = sorted(set(exposes) - {tool.name for tool in tools})
    if missing and missing_is_wrong:
        raise Invalid(
            "TOOL_NOT_FOUND",
            f"The server does not offer: {', '.join(missing)}.",
            "Correct exposes, or leave it out to take every tool.",
        )
    return [tool for tool in tools if tool.name in exposes]


def _not_connected(reason: Reason) -> AgentsError:
    if reason is Reason.DENIED:
        return Denied("EGRESS_DENIED", "The tool server's address is off limits.", "Use a public address.")
    if reason is Reason.NOT_MCP:
        return Invalid(
            "TOOL_SERVER_NOT_MCP",
            "There is something there, but it does not speak MCP as it should.",
            "Check the command or URL; an http URL must be the MCP endpoint itself.",
        )
    return Unavailable(
        "TOOL_SERVER_UNREACHABLE",
        f"The tool server is not available. {reason.value}",
        "Check the command or URL and the sign-in, and that it is running.",
    )


def _invalid(says: str) -> Invalid:
    return Invalid("TOOL_SERVER_INVALID", says, "Correct it and call again.")


def _no_authorizing(says: str) -> Invalid:
    return Invalid("AUTHORIZE_INVALID", says, "See tool_server_get for how it signs in.")


def _exists(name: str) -> Conflict:
    return Conflict(
        "TOOL_SERVER_EXISTS", f"There is already a tool server named {name}.", "Choose another name or remove it first."
    )


def _moved_on() -> Conflict:
    return Conflict("REVISION_CONFLICT", "It was changed by somebody else.", "Read it again and repeat the change.")
