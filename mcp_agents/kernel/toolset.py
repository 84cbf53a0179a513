"""Port: the tools a run may call, and the three ways a call can end.

Filled by `mcp_agents_tools.toolsets` (tool servers over MCP). The loop sees only this: it does not
know what a server, a transport or an annotation is.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool under its model-facing name (`server__tool`); `origin` is its name in bindings (`server/tool`).

    `repeatable`: a call that may have happened can be sent again, because a trusted annotation says
    that it only reads or is idempotent. `read_only`, `destructive` and `open_world` are trusted annotations
    too; without them the worst holds. `labels` are an agent's tags, where the tool is one. `asks`: a call is a
    question to a person, and is never sent. `network` is the host that the tool's server is at, "" where there is none.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    repeatable: bool = False
    origin: str = ""
    read_only: bool = False
    destructive: bool = True
    open_world: bool = True
    labels: tuple[str, ...] = ()
    asks: bool = False
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call about to be sent. `effect_id` travels to the tool server as its idempotency key.

    `timeout` is in seconds; `depth` counts the agents above this run and `chain` names them and the run's own, so
    that circles end. `session_id` is the session whose turn the run is, "" for none; `within` that of the run or of one
    that called it. `joined`: somebody other than its caller has told the run something.
    """

    effect_id: str
    tool: str
    arguments: dict[str, Any]
    execution_id: str
    traceparent: str
    timeout: float
    depth: int = 0
    chain: tuple[str, ...] = ()
    session_id: str = ""
    within: str = ""
    joined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """The tool answered. `structured` is its structured content, if it had any."""

    text: str
    structured: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The tool, or we, said no before any effect or with an error the model can mend; it may try again."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The call may or may not have happened: the connection or the server was lost while it was out."""

    code: str
    message: str


Outcome = Returned | Refused | Broken


class Toolset(Protocol):
    """The tools of one run, opened for its caller."""

    @property
    def tools(self) -> tuple[Tool, ...]: ...

    async def call(self, invocation: Invocation) -> Outcome:
        """Never raises for what a tool or its server does; that is what `Outcome` is for."""
        ...


class Toolsets(Protocol):
    """Opens toolsets and answers for bindings."""

    def open(
        self, space: TenantSpace, principal: Principal, bindings: tuple[str, ...]
    ) -> AbstractAsyncContextManager[Toolset]:
        """The tools that `bindings` (`server/tool`, `server/*`) name, for this caller."""
        ...

    async def unknown(self, space: TenantSpace, bindings: tuple[str, ...]) -> list[str]:
        """The bindings that name no tool of this tenant; saving an agent with one is refused."""
        ...
