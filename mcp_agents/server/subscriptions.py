"""Telling clients what has changed: `subscriptions/listen`, and `resources/subscribe` of the handshake era.

What is heard is what the stores say they have written, whichever process wrote it: nothing is sent for the
sake of listeners, and a run without any pays nothing. A listener keeps one mark for each thing that is to be
told, however often it changed, so that a slow client costs no more memory than a quick one.

Which address may be heard is `mcp`'s decision (`Audience.find`), the same as for reading it; when a stream ends
is `streams`' business. An address that may not be heard, is not there, or never changes is left out of what is
acknowledged, without a difference between the three.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import anyio
import mcp_types as mcp
from anyio.abc import TaskGroup
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_to_notification,
)

from mcp_agents.kernel.errors import Exhausted, Invalid, NotFound
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import Change, TenantSpace, Topic
from mcp_agents.server.streams import Held

PER_PROCESS: Final = 1024
PER_CALLER: Final = 128
ADDRESSES: Final = 256
"""The most streams of one process and of one caller, and the most addresses of one stream or session."""

Context = ServerRequestContext[Any, Any]
_TOOLS, _PROMPTS, _RESOURCES = ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()


@dataclass(frozen=True, slots=True)
class Lists:
    """What makes the lists of one path others: every agent's record, or (`one`) that of the path's own agent."""

    topic: Topic | None
    one: bool = False

    def after(self, change: Change) -> tuple[ServerEvent, ...]:
        """The lists that a change has touched."""
        if change.topic != self.topic:
            return ()
        if self.one:
            return (_TOOLS, _PROMPTS)
        return (_PROMPTS, _RESOURCES) if change.new or change.gone else (_PROMPTS,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Who asks to be told.

    `find` gives the topic of an address that may be heard, else None; `may` says whether the caller's scopes
    still let it be read. `held` is the response that stays open; None where the connection is the caller's own.
    """

    principal: Principal
    space: TenantSpace
    lists: Lists
    find: Callable[[str], Awaitable[Topic | None]]
    may: Callable[[str], bool]
    held: Held | None = None


class Listener:
    """What is still to be told, each thing once."""

    def __init__(self, lists: Lists, kinds: Collection[ServerEvent]) -> None:
        self._lists, self._kinds = lists, kinds
        self._uris: dict[Topic, set[str]] = {}
        self._due: dict[ServerEvent, None] = {}
        self._bell = anyio.Event()
        self._closed = False

    def add(self, uri: str, topic: Topic) -> None:
        """Tells of this address from now on."""
        self._uris.setdefault(topic, set()).add(uri)

    def remove(self, uri: str) -> None:
        """Tells no more of this address."""
        for uris in self._uris.values():
            uris.discard(uri)
        self._uris = {topic: uris for topic, uris in self._uris.items() if uris}
        self._due.pop(ResourceUpdated(uri), None)

    def tell(self, change: Change | None) -> None:
        """Notes what a change means here; None: anything may have changed."""
        if change is None:
            self.note(*self._kinds, *(ResourceUpdated(uri) for uris in self._uris.values() for uri in uris))
            return
        self.note(*(event for event in self._lists.after(change) if event in self._kinds))
        self.note(*(ResourceUpdated(uri) for uri in self._uris.get(change.topic, ())))

    def note(self, *events: ServerEvent) -> None:
        """Has these told."""
        self._due.update(dict.fromkeys(events))
        self._bell.set()

    def forget(self) -> None:
        """What has been is not told any more."""
        self._due.clear()

    async def close_at(self, held: Held) -> None:
        """Closes at the response's end; a client whose rights are others now is to look at every list again."""
        await held.ended.wait()
        if held.changed:
            self.note(*self._kinds)
        self._closed = True
        self._bell.set()

    async def events(self) -> AsyncIterator[ServerEvent]:
        """What is to be told, as it comes, until closed."""
        while True:
            while self._due:
                event = next(iter(self._due))
                del self._due[event]
                yield event
            if self._closed:
                return
            self._bell = anyio.Event()
            await self._bell.wait()


class _Session:
    """A connection of the handshake era. It hears as long as it lives, and tells while the client listens."""

    def __init__(self, session: ServerSession, audience: Audience) -> None:
        self._session, self._space, self._lists = session, audience.space, audience.lists
        self._listener = Listener(audience.lists, (_TOOLS, _PROMPTS, _RESOURCES))
        self._heard: dict[str, AsyncExitStack] = {}

    async def add(self, uri: str, topic: Topic) -> None:
        """Hears an address. Raises `Invalid` (`TOO_MANY_ADDRESSES`)."""
        if uri not in self._heard:
            _check_number(len(self._heard) + 1)
            await self._hear(uri, topic)
            self._listener.add(uri, topic)

    async def remove(self, uri: str) -> None:
        """Hears it no more."""
        if stack := self._heard.pop(uri, None):
            self._listener.remove(uri)
            await stack.aclose()

    async def tell(self, may: Callable[[str], bool]) -> None:
        """Sends what changes from now on, until cancelled."""
        if self._lists.topic and "" not in self._heard:
            await self._hear("", self._lists.topic)
        self._listener.forget()
        async for event in self._listener.events():
            match event:
                case ResourceUpdated(uri=uri):
                    if may(uri):
                        await self._session.send_resource_updated(uri)
                case ToolsListChanged():
                    await self._session.send_tool_list_changed()
                case PromptsListChanged():
                    await self._session.send_prompt_list_changed()
                case ResourcesListChanged():
                    await self._session.send_resource_list_changed()

    async def aclose(self) -> None:
        """Hears nothing any more."""
        for name in list(self._heard):
            await self._heard.pop(name).aclose()

    async def _hear(self, name: str, topic: Topic) -> None:
        stack = AsyncExitStack()
        await stack.enter_async_context(self._space.changes((topic,), self._listener.tell))
        self._heard[name] = stack


class _Ear(NamedTuple):
    """A stream that a client of the handshake era holds open to be told."""

    tasks: TaskGroup
    may: Callable[[str], bool]


class Subscriptions:
    """The listeners of one process. `tasks` tells a client whose connection is the process's own (stdio)."""

    def __init__(self, tasks: TaskGroup | None = None) -> None:
        self._tasks = tasks
        self._open: Counter[tuple[str, ...]] = Counter()
        self._sessions: dict[tuple[str, ...], _Session] = {}
        self._ears: dict[tuple[str, ...], _Ear] = {}

    async def listen(
        self, ctx: Context, params: mcp.SubscriptionsListenRequestParams, audience: Audience
    ) -> mcp.SubscriptionsListenResult:
        """One stream: says first what it will tell of, then tells, and ends with a result.

        Raises `Invalid` (`TOO_MANY_ADDRESSES`) and `Exhausted` (`TOO_MANY_STREAMS`).
        """
        asked = params.notifications
        uris = list(dict.fromkeys(asked.resource_subscriptions or ()))
        _check_number(len(uris))
        wanted: dict[ServerEvent, bool | None] = {
            _TOOLS: asked.tools_list_changed,
            _PROMPTS: asked.prompts_list_changed,
            _RESOURCES: asked.resources_list_changed,
        }
        listener = Listener(audience.lists, [kind for kind, flag in wanted.items() if flag])
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        with self._place(audience):
            topics = {uri: topic for uri in uris if (topic := await audience.find(uri))}
            for uri, topic in topics.items():
                listener.add(uri, topic)
            honoured = mcp.SubscriptionFilter(
                tools_list_changed=asked.tools_list_changed or None,
                prompts_list_changed=asked.prompts_list_changed or None,
                resources_list_changed=asked.resources_list_changed or None,
                resource_subscriptions=list(topics) or None,
            )
            said = mcp.SubscriptionsAcknowledgedNotificationParams(notifications=honoured, _meta=meta)
            heard = {*topics.values(), *filter(None, (audience.lists.topic,))}
            async with audience.space.changes(heard, listener.tell), background() as tasks:
                if audience.held:
                    tasks.start_soon(listener.close_at, audience.held)
                await ctx.session.send_notification(
                    mcp.SubscriptionsAcknowledgedNotification(params=said), related_request_id=ctx.request_id
                )
                async for event in listener.events():
                    note = event_to_notification(event, meta)
                    await ctx.session.send_notification(note, related_request_id=ctx.request_id)
        return mcp.SubscriptionsListenResult(_meta=meta)

    async def began(self, ctx: Context, audience: Audience) -> None:
        """A connection of the handshake era is ready to be told."""
        connection = _connection(ctx)
        session = connection.state[_KEY] = _Session(ctx.session, audience)
        connection.exit_stack.push_async_callback(session.aclose)
        if connection.session_id:
            place = (*_caller(audience.principal), connection.session_id)
            self._sessions[place] = session
            connection.exit_stack.callback(self._sessions.pop, place, None)
            self._begin(place)
        elif self._tasks:
            scope = anyio.CancelScope()
            connection.exit_stack.callback(scope.cancel)
            self._tasks.start_soon(_within, scope, session, audience.may)

    async def subscribe(self, ctx: Context, uri: str, audience: Audience) -> None:
        """Tells this connection of an address, too. Raises `NotFound` for one that may not be heard."""
        session = _connection(ctx).state.get(_KEY)
        topic = await audience.find(uri)
        if session is None or topic is None:
            raise NotFound("RESOURCE_UNKNOWN", "There is no such resource to listen to.", "See resources/list.")
        await session.add(uri, topic)

    async def unsubscribe(self, ctx: Context, uri: str) -> None:
        """Tells it no more; nothing happens when it was not told."""
        if session := _connection(ctx).state.get(_KEY):
            await session.remove(uri)

    @asynccontextmanager
    async def telling(self, session_id: str, principal: Principal, may: Callable[[str], bool]) -> AsyncIterator[None]:
        """Tells a connection while its client holds a stream open for that."""
        place = (*_caller(principal), session_id)
        async with background() as tasks:
            if place in self._ears:  # a second stream at once is refused further in
                yield
                return
            self._ears[place] = _Ear(tasks, may)
            try:
                self._begin(place)
                yield
            finally:
                del self._ears[place]

    def _begin(self, place: tuple[str, ...]) -> None:
        """Tells a connection that is ready and heard; a client may open its stream before it is ready."""
        session, ear = self._sessions.get(place), self._ears.get(place)
        if session and ear:
            ear.tasks.start_soon(session.tell, ear.may)

    @contextmanager
    def _place(self, audience: Audience) -> Iterator[None]:
        caller = _caller(audience.principal)
        if self._open.total() >= PER_PROCESS or self._open[caller] >= PER_CALLER:
            raise Exhausted(
                "TOO_MANY_STREAMS",
                f"A caller listens on at most {PER_CALLER} streams, a server serves at most {PER_PROCESS}.",
                "Close one, or ask for more addresses on one stream.",
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


_KEY: Final = "mcp_agents.subscriptions"


def _caller(principal: Principal) -> tuple[str, str, str]:
    """Whose limit counts."""
    return principal.tenant, principal.client, principal.subject


def _connection(ctx: Context) -> Connection:
    return ctx.session._connection  # the SDK has no public way to it from a handler


async def _within(scope: anyio.CancelScope, session: _Session, may: Callable[[str], bool]) -> None:
    with scope:
        await session.tell(may)


def _check_number(addresses: int) -> None:
    if addresses > ADDRESSES:
        raise Invalid(
            "TOO_MANY_ADDRESSES",
            f"A client listens to at most {ADDRESSES} addresses on one stream.",
            "Ask for fewer, or listen on several streams.",
        )
