"""What a plugin is: a name, its tools, resources and prompts, and the scopes they need.

Built-in plugins and a third party's are made of the same parts and found by the same entry-point group,
`mcp_agents.plugins` (docs/plugins.md shows one). A plugin declares; `catalogue` collects; the server
speaks the protocol. Nothing here knows MCP's wire types.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from mcp_agents.agents.catalog import AgentCatalog
from mcp_agents.execution.answering import Questions
from mcp_agents.execution.archive import Archive
from mcp_agents.execution.conversing import Conversations
from mcp_agents.execution.dead_letters import DeadLetters
from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.execution.posting import Post
from mcp_agents.execution.register import Register
from mcp_agents.execution.run import ExecutionView
from mcp_agents.kernel.administration import Administration
from mcp_agents.kernel.clock import Clock
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace, Topic
from mcp_agents.kernel.toolserver import ToolServers
from mcp_agents.models.router import ModelRouter
from mcp_agents.scaling.budgets import Budgets
from mcp_agents.scaling.quotas import Quotas
from mcp_agents.security.audit import AuditTrail
from mcp_agents.security.policy.engine import PolicyEngine
from mcp_agents.sessions.book import SessionBook
from mcp_agents.sessions.copies import SessionCopies
from mcp_agents.sessions.memory import Memories
from mcp_agents_tools.surface.clients import NOBODY, Client, HandOver


class Arguments(BaseModel):
    """Root of a tool's arguments: what is not declared is refused, with the name of the field.

    `noted` are the fields that the audit trail shows: never a secret. Calls with any are written down before they run,
    as are those that need an administrator's right.
    """

    noted: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The rooms a tool may ask."""

    agents: AgentCatalog
    dispatcher: Dispatcher
    sessions: SessionBook
    conversations: Conversations
    copies: SessionCopies
    memories: Memories
    questions: Questions
    register: Register
    post: Post
    archive: Archive
    dead_letters: DeadLetters
    budgets: Budgets
    quotas: Quotas
    tool_servers: ToolServers
    models: ModelRouter
    policies: PolicyEngine
    administration: Administration
    audit: AuditTrail
    hand_over: HandOver
    clock: Clock


class Reporter(Protocol):
    """Sends progress to whoever waits for this call."""

    async def __call__(self, message: str) -> None: ...


class Form(Struct, frozen=True, kw_only=True):
    """A question to the person behind a client. `schema` is an object schema of MCP's elicitation subset: flat,
    of strings, numbers, booleans and enums. With `url` the person is sent to that page, and what they do there is
    not in the reply."""

    message: str
    schema: dict[str, Any]
    url: str = ""


class Reply(Struct, frozen=True, kw_only=True):
    """What the person did with a form; `content` is filled in only with `accept`, and is not yet checked."""

    action: Literal["accept", "decline", "cancel"]
    content: dict[str, Any] = {}


class Asker(Protocol):
    """Asks the person behind the client, whichever era the client is of, and returns a reply per form.

    A client of the handshake era is sent each form and waited for, in the middle of the call. A client of the
    current era is given the forms as the call's result and makes the same call again with the replies: the
    tool's function **is left at this point** (by an exception that is not its business) **and called again from
    its start**. What was replied to before, under the same key, is then returned at once; `call.state` is what
    was passed as `state` here, and comes back unaltered, or the call is refused: it is sealed, bound to the
    caller and the call's arguments, and good for a day, on any process of the deployment. So: ask before
    doing anything that must not be done twice, or keep in `state` where it was left (the id of a run); use the
    same key for the same question; ask from the task that the function was called in.
    """

    async def __call__(self, forms: Mapping[str, Form], *, state: str = "") -> dict[str, Reply]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a tool, resource or prompt: who asks, in which space, of which house.

    `report` is None where the client asked for no progress, `ask` where it shows no forms; `lead` is the same for
    forms with a `url`, and None where the client leads nobody to a page. `state` is
    what the call left behind when it asked last; see `Asker`. `cancelled` says whether the client has cancelled
    the call in so many words; a call that only loses its client ends too, but nobody wanted it to. `given` are the
    other arguments that a client has filled in so far, where it asks for completions of one. What an agent of
    another deployment sends along when it calls one of ours: `upstream`, its run, and `chain`, who called whom before.
    """

    principal: Principal
    space: TenantSpace
    services: Services
    report: Reporter | None
    ask: Asker | None = None
    lead: Asker | None = None
    state: str = ""
    traceparent: str = ""
    depth: int = 0
    effect_id: str = ""
    client: Client = NOBODY
    cancelled: Callable[[], bool] = lambda: False
    upstream: str = ""
    chain: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)


class Media(Struct, frozen=True, kw_only=True):
    """An image or a sound."""

    kind: Literal["image", "audio"]
    mime_type: str
    data: bytes


class Document(Struct, frozen=True, kw_only=True):
    """A text, or with `data` bytes, of a media type. `uri` names it where it stands among other blocks."""

    mime_type: str
    text: str = ""
    data: bytes | None = None
    uri: str = ""


Block = str | Media | Document
"""A part of what a model or a person is shown."""

A = TypeVar("A", bound=BaseModel)
ToolFunction = Callable[[Call, Any], Awaitable[Any]]
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
class Listed:
    """A concrete resource: in a listing, or as what a result points to."""

    uri: str
    name: str
    title: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Long:
    """What makes a tool one that may run long: its call is answered with a task where the client knows tasks.

    The task is a run. `begin` has it accepted durably (`dispatcher.submit`, with the tool's name as the order's
    `task`) or names one that is there, and returns its execution id; `finish` makes the tool's result of the run
    when it has ended. A `required` tool refuses clients that do not know tasks.
    """

    begin: Callable[[Call, Any], Awaitable[str]]
    finish: Callable[[ExecutionView], Any]
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """One tool: `name` is `noun_verb`, `arguments` validates the input, `result` is the output's shape.

    With `result` None the function returns blocks, and there is nothing structured. `text` says a result in words
    for whoever reads no structured content; without it the text is the JSON. `links` are the resources that a
    result points to.
    """

    name: str
    title: str
    description: str
    arguments: type[BaseModel]
    result: type[Struct] | None
    hints: Hints
    function: ToolFunction
    text: Callable[[Any], str] | None = None
    links: Callable[[Any], list[Listed]] | None = None
    long: Long | None = None

    def noted(self, arguments: BaseModel) -> str:
        """What the audit trail shows of a call."""
        fields = self.arguments.noted if issubclass(self.arguments, Arguments) else ()
        shown = ((name, getattr(arguments, name)) for name in fields)
        return ", ".join(f"{name}={', '.join(value) if isinstance(value, tuple) else value}" for name, value in shown)


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
    mime_type: str = "application/json"
    listing: Callable[[Call], Awaitable[list[Listed]]] | None = None
    complete: dict[str, Completer] = field(default_factory=dict)
    topic: Callable[..., Awaitable[Topic]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """A prompt: its arguments by name (required first), and the text or the blocks it makes of them."""

    name: str
    title: str
    description: str
    arguments: dict[str, str]
    render: Callable[[Call, dict[str, str]], Awaitable[str | Sequence[Block]]]
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
        self,
        name: str,
        *,
        title: str,
        arguments: type[BaseModel],
        result: type[Struct] | None,
        hints: Hints,
        links: Callable[[Any], list[Listed]] | None = None,
        long: Long | None = None,
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
                links=links,
                long=long,
            )
            return function

        return declare

    def resource(
        self,
        template: str,
        *,
        name: str,
        title: str,
        mime_type: str = "application/json",
        listing: Callable[[Call], Awaitable[list[Listed]]] | None = None,
        complete: dict[str, Completer] | None = None,
        topic: Callable[..., Awaitable[Topic]] | None = None,
    ) -> Callable[[F], F]:
        """Declares a resource; the reader takes the call and the template's variables and returns JSON data, or a
        `Document` where `mime_type` is another."""

        def declare(function: F) -> F:
            self.resources[template] = ResourceSpec(
                template=template,
                name=name,
                title=title,
                description=_text(function),
                read=function,
                mime_type=mime_type,
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
