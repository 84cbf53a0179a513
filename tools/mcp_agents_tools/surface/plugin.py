"""What a plugin is: a name, its tools, resources and prompts, and the scopes they need.

Built-in plugins and a third party's are made of the same parts and found by the same entry-point group,
`mcp_agents.plugins` (docs/plugins.md shows one). A plugin declares; `catalogue` collects; the server
speaks the protocol. Nothing here knows MCP's wire types.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.execution.archive import Archive
from mcp_agents.execution.dead_letters import DeadLetters
from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace, Topic
from mcp_agents.kernel.toolserver import ToolServers
from mcp_agents.models.router import ModelRouter
from mcp_agents.scaling.budgets import Budgets
from mcp_agents.scaling.quotas import Quotas


class Arguments(BaseModel):
    """Root of a tool's arguments: what is not declared is refused, with the name of the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The rooms a tool may ask."""

    agents: AgentCatalog
    dispatcher: Dispatcher
    archive: Archive
    dead_letters: DeadLetters
    budgets: Budgets
    quotas: Quotas
    tool_servers: ToolServers
    models: ModelRouter
    clock: Clock


class Reporter(Protocol):
    """Sends progress to whoever waits for this call."""

    async def __call__(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a tool, resource or prompt: who asks, in which space, of which house.

    `report` is None where the client asked for no progress. `given` are the other arguments that a client has
    filled in so far, where it asks for completions of one. What an agent of another deployment sends along when
    it calls one of ours: `upstream`, its run, and `chain`, who called whom before.
    """

    principal: Principal
    space: TenantSpace
    services: Services
    report: Reporter | None
    traceparent: str = ""
    depth: int = 0
    effect_id: str = ""
    upstream: str = ""
    chain: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)


A = TypeVar("A", bound=BaseModel)
ToolFunction = Callable[[Call, Any], Awaitable[Struct]]
Reader = Callable[..., Awaitable[Any]]
Completer = Callable[[Call, str], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """MCP's tool annotations, all four always said. `open_world`: it may touch things outside the house."""

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


READS = Hints(read_only=True, idempotent=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """One tool: `name` is `noun_verb`, `arguments` validates the input, `result` is the output's shape.

    `text` says a result in words for whoever reads no structured content; without it the text is the JSON.
    """

    name: str
    title: str
    description: str
    arguments: type[BaseModel]
    result: type[Struct]
    hints: Hints
    function: ToolFunction
    text: Callable[[Any], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A concrete resource in a listing."""

    uri: str
    name: str
    title: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSpec:
    """A resource template (`cb://agents/{id}`) with its reader, its listing, and completion of its variables.

    `topic` takes the same as `read` and gives what to listen to so as to hear that the resource has changed; it
    raises `NotFound` where reading would. Without it nobody can listen.
    """

    template: str
    name: str
    title: str
    description: str
    read: Reader
    listing: Callable[[Call], Awaitable[list[Listed]]] | None = None
    complete: dict[str, Completer] = field(default_factory=dict)
    topic: Callable[..., Awaitable[Topic]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """A prompt: its arguments by name (required first), and the text it makes of them."""

    name: str
    title: str
    description: str
    arguments: dict[str, str]
    render: Callable[[Call, dict[str, str]], Awaitable[str]]
    complete: dict[str, Completer] = field(default_factory=dict)


F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


class Plugin:
    """A named group of tools, resources and prompts.

    `scopes` maps each of their names to the right it needs; `asks_also` are rights that some of its tools ask
    for in some calls, so that a client can be granted them from the start.
    """

    def __init__(
        self, name: str, *, title: str, scopes: dict[str, str], asks_also: frozenset[str] = frozenset()
    ) -> None:
        self.name, self.title, self.scopes, self.asks_also = name, title, scopes, asks_also
        self.tools: dict[str, ToolSpec] = {}
        self.resources: dict[str, ResourceSpec] = {}
        self.prompts: dict[str, PromptSpec] = {}

    def tool(
        self, name: str, *, title: str, arguments: type[BaseModel], result: type[Struct], hints: Hints
    ) -> Callable[[F], F]:
        """Declares a tool; its description is the function's docstring."""

        def declare(function: F) -> F:
            self.tools[name] = ToolSpec(
                name=name,
                title=title,
                description=_text(function),
                arguments=arguments,
                result=result,
                hints=hints,
                function=function,
            )
            return function

        return declare

    def resource(
        self,
        template: str,
        *,
        name: str,
        title: str,
        listing: Callable[[Call], Awaitable[list[Listed]]] | None = None,
        complete: dict[str, Completer] | None = None,
        topic: Callable[..., Awaitable[Topic]] | None = None,
    ) -> Callable[[F], F]:
        """Declares a resource; the reader takes the call and the template's variables and returns JSON data."""

        def declare(function: F) -> F:
            self.resources[template] = ResourceSpec(
                template=template,
                name=name,
                title=title,
                description=_text(function),
                read=function,
                listing=listing,
                complete=complete or {},
                topic=topic,
            )
            return function

        return declare

    def prompt(
        self, name: str, *, title: str, arguments: dict[str, str], complete: dict[str, Completer] | None = None
    ) -> Callable[[F], F]:
        """Declares a prompt; every argument is required."""

        def declare(function: F) -> F:
            self.prompts[name] = PromptSpec(
                name=name,
                title=title,
                description=_text(function),
                arguments=arguments,
                render=function,
                complete=complete or {},
            )
            return function

        return declare


def _text(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").split())
