"""A tool server as it is stored, and how its secrets are sealed into it and taken out.

Shapes and pure conversions only: who may add what is `servers`, what is open is `hub`. Values of the
environment, tokens and client secrets are in the record only sealed, each under its own purpose.
"""

from datetime import datetime
from secrets import token_hex
from typing import Any

from msgspec import Struct

from mcp_agents.kernel.tenancy import TenantSpace
from mcp_agents.kernel.toolserver import (
    AuthType,
    EffectIdPlace,
    Owner,
    ToolServer,
    ToolServerSpec,
    Transport,
    UpstreamAuth,
    UpstreamTool,
)
from mcp_agents.security.secrets import TenantSecrets
from mcp_agents_tools.toolsets.upstream import Target


class StoredTool(Struct, frozen=True, kw_only=True):
    """A tool as its server last described it."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool
    idempotent: bool
    fingerprint: str
    destructive: bool = True
    open_world: bool = True


class StoredServer(Struct, frozen=True, kw_only=True):
    """A tool server. `sealed_env` and `sealed_secret` open only through the tenant's
    secrets. What people and agents sign in with is apart (`credentials`)."""

    name: str
    transport: Transport
    command: str
    args: tuple[str, ...]
    url: str
    auth_type: AuthType
    client_id: str
    issuer: str
    scope: str
    sealed_env: dict[str, str]
    sealed_secret: str
    exposes: tuple[str, ...]
    trust_annotations: bool
    added_by: str
    tools: tuple[StoredTool, ...]
    created_at: datetime
    updated_at: datetime
    effect_header: str = ""
    effect_argument: str = ""
    credentials: Owner = "tenant"
    id: str = ""
    """New with every adding: a server of the same name that comes later is another one."""
    v: int = 1

    @property
    def key(self) -> str:
        """What credentials are kept under."""
        return self.id or self.name


def stored_tools(tools: list[UpstreamTool]) -> tuple[StoredTool, ...]:
    """Listed tools as they are stored."""
    return tuple(StoredTool(**{name: getattr(tool, name) for name in StoredTool.__struct_fields__}) for tool in tools)


async def sealed_server(
    spec: ToolServerSpec, tools: list[UpstreamTool], secrets: TenantSecrets, space: TenantSpace, by: str, now: datetime
) -> StoredServer:
    """The record of a server that was just added. A token of somebody's own is not in it."""
    shared = spec.auth.token if spec.auth.credentials != "user" else ""
    secret = shared or spec.auth.client_secret
    return StoredServer(
        name=spec.name,
        transport=spec.transport,
        command=spec.command,
        args=spec.args,
        url=spec.url,
        auth_type=spec.auth.type,
        client_id=spec.auth.client_id,
        issuer=spec.auth.issuer,
        scope=spec.auth.scope,
        sealed_env={
            name: await secrets.seal(space, _env_purpose(spec.name, name), value) for name, value in spec.env.items()
        },
        sealed_secret=await secrets.seal(space, secret_purpose(spec.name), secret) if secret else "",
        exposes=spec.exposes,
        trust_annotations=spec.trust_annotations,
        added_by=by,
        tools=stored_tools(tools),
        created_at=now,
        updated_at=now,
        effect_header=spec.effect_id.header,
        effect_argument=spec.effect_id.argument,
        credentials=spec.auth.credentials,
        id=token_hex(8),
    )


async def target_of(
    server: StoredServer, command: tuple[str, ...], secrets: TenantSecrets, space: TenantSpace
) -> Target:
    """How to connect, with the secrets in clear. `command` is what the policy made of the stored one."""
    env = {
        name: await secrets.unseal(space, _env_purpose(server.name, name), text)
        for name, text in server.sealed_env.items()
    }
    sealed = server.sealed_secret
    secret = await secrets.unseal(space, secret_purpose(server.name), sealed) if sealed else ""
    auth = UpstreamAuth(
        type=server.auth_type,
        credentials=server.credentials,
        token=secret if server.auth_type == "bearer" else "",
        client_id=server.client_id,
        client_secret=secret if server.auth_type != "bearer" else "",
        issuer=server.issuer,
        scope=server.scope,
    )
    return Target(
        transport=server.transport,
        command=command,
        env=env,
        url=server.url,
        auth=auth,
        effect_header=server.effect_header,
    )


def public_view(server: StoredServer, revision: int) -> ToolServer:
    """What anybody of the tenant may see."""
    return ToolServer(
        name=server.name,
        transport=server.transport,
        target=" ".join((server.command, *server.args)) if server.transport == "stdio" else server.url,
        auth_type=server.auth_type,
        credentials=server.credentials,
        env_names=tuple(sorted(server.sealed_env)),
        trust_annotations=server.trust_annotations,
        effect_id=EffectIdPlace(header=server.effect_header, argument=server.effect_argument),
        tools=tuple(
            UpstreamTool(**{name: getattr(tool, name) for name in StoredTool.__struct_fields__})
            for tool in server.tools
        ),
        created_at=server.created_at,
        updated_at=server.updated_at,
        revision=revision,
    )


def _env_purpose(server: str, name: str) -> str:
    return f"tool-server/{server}/env/{name}"


def secret_purpose(server: str) -> str:
    """What the secret of a server's record is sealed for."""
    return f"tool-server/{server}/secret"
