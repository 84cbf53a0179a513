"""Port: the tool servers a tenant has added, as records. Calling their tools is `kernel.toolset`.

Filled by `mcp_agents_tools.toolsets`; asked by the surface. Secrets go in and never come out.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace

BUILTIN: Final = "builtin"
"""The server name in bindings to the house's own tools."""

Transport = Literal["stdio", "http"]
AuthType = Literal["none", "bearer", "client_credentials", "authorization_code", "token_exchange"]
Owner = Literal["tenant", "user", "agent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAuth:
    """How we sign in at a tool server. Never the caller's own token.

    - `bearer` needs `token`.
    - `client_credentials` needs `client_id`, `client_secret` and `issuer` (the authorization server the secret may be
      sent to).
    - `authorization_code`: a person signs in at the server's authorization server (`issuer`, or the one that the
      server names); `client_id` and `client_secret` where we are registered there already.
    - `token_exchange`: each run shows a token of its own (`kernel.identity`); with `issuer`, `client_id` and
      `client_secret` it is exchanged there first (RFC 8693).

    `scope` is what to ask for, separated by spaces. `credentials` says whose `bearer` or `authorization_code` counts.
    """

    type: AuthType = "none"
    credentials: Owner = "tenant"
    token: str = field(default="", repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    issuer: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectIdPlace:
    """Where else than in `_meta` a server takes the effect id: an HTTP header, a top-level argument, or both."""

    header: str = ""
    argument: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolServerSpec:
    """What a caller asks to add. `stdio` needs `command` (and `args`, `env`); `http` needs `url`."""

    name: str
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, repr=False)
    url: str = ""
    auth: UpstreamAuth = UpstreamAuth()
    exposes: tuple[str, ...] = ()
    trust_annotations: bool = False
    effect_id: EffectIdPlace = EffectIdPlace()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTool:
    """A tool as its server described it when it was last listed."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    read_only: bool
    idempotent: bool
    fingerprint: str
    destructive: bool = True
    open_world: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolServer:
    """A stored tool server, without its secrets. `target` is the command line or the URL; `tools` is empty until
    somebody has signed in where listing needs that."""

    name: str
    transport: Transport
    target: str
    auth_type: AuthType
    credentials: Owner
    env_names: tuple[str, ...]
    trust_annotations: bool
    effect_id: EffectIdPlace
    tools: tuple[UpstreamTool, ...]
    created_at: datetime
    updated_at: datetime
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorized:
    """What became of `authorize`: `set`, `removed`, or `sign_in`, and then `url` is the page for the person."""

    state: Literal["set", "removed", "sign_in"]
    url: str = ""


class ToolServers(Protocol):
    """Add, look at and remove. Names are unique per tenant: `[a-z0-9_-]{1,40}`, and not `builtin`."""

    def builtin(self) -> tuple[UpstreamTool, ...]:
        """The tools of the house itself, which every tenant can bind as `builtin/{name}`."""
        ...

    async def add(self, space: TenantSpace, principal: Principal, spec: ToolServerSpec) -> ToolServer:
        """Connects, lists, fingerprints and stores. Nothing is stored when any of it fails."""
        ...

    async def get(self, space: TenantSpace, name: str) -> ToolServer:
        """Raises `NotFound` (`TOOL_SERVER_UNKNOWN`)."""
        ...

    async def all(self, space: TenantSpace) -> list[ToolServer]:
        """By name."""
        ...

    async def refresh(self, space: TenantSpace, principal: Principal, name: str) -> ToolServer:
        """Connects and lists again; stores what changed."""
        ...

    async def authorize(
        self, space: TenantSpace, principal: Principal, name: str, *, agent: str = "", token: str = "", remove: bool
    ) -> Authorized:
        """Sets or removes the credential that the caller (or `agent`, an id; or the tenant) calls this server with.

        Raises `NotFound`, `Invalid` (`AUTHORIZE_INVALID`), `Denied` for somebody else's without the right to.
        """
        ...

    async def remove(self, space: TenantSpace, name: str, *, expected_revision: int | None) -> None:
        """Forgets the server, its tools and its secrets."""
        ...
