"""The tools of the house itself: `builtin/state_get` and `builtin/state_set`, an agent's memory between runs,
`builtin/search_session`, which looks up what was said earlier in the conversation, `builtin/ask_user`, which asks a
person, and those of `remembering`.

All but the question are called here, in the worker, and reach nothing but the acting agent's own state, its run's own
session, and what it remembers: whose they are follows from the principal and the run, never from an argument. What the
state is and how it is changed is `agents.state`. A question is only declared here: the loop makes it of the call.
`composite` joins these tools with those of tool servers.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from mcp_agents.agents.state import AgentState, AgentStates
from mcp_agents.kernel.errors import Denied, Exhausted, Invalid, NotFound
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.tenancy import TenantSpace, Versioned
from mcp_agents.kernel.toolserver import BUILTIN, UpstreamTool
from mcp_agents.kernel.toolset import Invocation, Outcome, Refused, Returned, Tool
from mcp_agents.sessions.book import SessionBook
from mcp_agents.sessions.memory import Memories
from mcp_agents_tools.toolsets import remembering
from mcp_agents_tools.toolsets.declaring import declared
from mcp_agents_tools.toolsets.remembering import Remembering

_ASK: Final = "ask_user"
_GET: Final = "state_get"
_SET: Final = "state_set"
_SEARCH: Final = "search_session"
_FOUND: Final = 10
_SHOWN: Final = 2_000
"""Characters of one message that are shown."""


_STARRED: Final = (
    declared(
        _ASK,
        "Ask a person",
        "Asks the person you work for something only they can tell, and returns their answer. Ask only what you need "
        "to go on; never for passwords, keys or other secrets. Without `schema` the answer is a text.",
        {
            "type": "object",
            "properties": {
                "message": {"type": "string", "description": "What you want to know, in a sentence or two."},
                "schema": {
                    "type": "object",
                    "description": "What the answer has to look like: a flat JSON Schema of an object, whose "
                    "properties are of type string, number, integer or boolean, with title, description, default, "
                    "enum, and bounds.",
                },
            },
            "required": ["message"],
            "additionalProperties": False,
        },
        read_only=True,
    ),
    declared(
        _SEARCH,
        "Search the conversation",
        "Looks up earlier turns of this conversation that you are not shown any more: those in which a text occurs, "
        "newest first. Search for a word or a short phrase as it was said.",
        {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 1, "description": "The text to look for."}},
            "required": ["text"],
            "additionalProperties": False,
        },
        read_only=True,
    ),
    declared(
        _GET,
        "Read what you remember",
        "Returns the JSON object that you keep from one run to the next; empty at first.",
        {"type": "object", "properties": {}, "additionalProperties": False},
        read_only=True,
    ),
    declared(
        _SET,
        "Remember something",
        "Changes the JSON object that you keep from one run to the next, for yourself in later runs, and returns it. "
        "Members of `changes` are set, objects are merged member by member, null removes a member.",
        {
            "type": "object",
            "properties": {"changes": {"type": "object", "description": "The members to set, merge or remove."}},
            "required": ["changes"],
            "additionalProperties": False,
        },
        read_only=False,
    ),
)
"""What `builtin/*` stands for."""
TOOLS: Final = tuple(sorted((*_STARRED, *remembering.TOOLS), key=lambda tool: tool.name))
"""In the order of their names. All of them may be repeated: a change is applied once per effect id."""

_BY_NAME: Final = {tool.name: tool for tool in TOOLS}


def chosen(binding: str) -> tuple[UpstreamTool, ...]:
    """The tools that a binding names; empty for a binding to anything else, or to a tool there is not. Those of
    `remembering` have to be named one by one."""
    server, _, name = binding.partition("/")
    if server != BUILTIN:
        return ()
    return _STARRED if name == "*" else tuple(tool for tool in TOOLS if tool.name == name)


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the built-in tools reach."""

    states: AgentStates
    sessions: SessionBook
    memories: Memories


class BuiltinToolset:
    """The built-in tools of one run; fills the kernel's `Toolset`. Without an acting agent there are none."""

    def __init__(self, rooms: Rooms, space: TenantSpace, principal: Principal, bindings: tuple[str, ...]) -> None:
        self._states, self._sessions = rooms.states, rooms.sessions
        self._space, self._principal = space, principal
        self._agent_id = principal.actors[-1] if principal.actors else ""
        self._remembering = Remembering(rooms.memories, rooms.sessions, space, principal, self._agent_id)
        names = {tool.name for binding in bindings for tool in chosen(binding)} if self._agent_id else set[str]()
        self._names = {f"{BUILTIN}__{name}": name for name in sorted(names)}

    @property
    def tools(self) -> tuple[Tool, ...]:
        """By name."""
        return tuple(
            Tool(
                name=shown,
                description=_BY_NAME[name].description,
                parameters=_BY_NAME[name].input_schema,
                repeatable=True,
                origin=f"{BUILTIN}/{name}",
                read_only=_BY_NAME[name].read_only,
                destructive=_BY_NAME[name].destructive,
                open_world=False,
                asks=name == _ASK,
            )
            for shown, name in self._names.items()
        )

    async def call(self, invocation: Invocation) -> Outcome:
        """Calls the tool once. Raises only what our own store raises."""
        try:
            name = self._names.get(invocation.tool, "")
            if name in remembering.NAMES:
                return await self._remembering.call(name, invocation)
            if name == _GET:
                return _returned(await self._states.get(self._space, self._agent_id))
            if name == _SET:
                return await self._set(invocation)
            if name == _SEARCH:
                return await self._search(invocation)
        except (Denied, Exhausted, Invalid, NotFound) as error:
            return Refused(code=error.code, message=f"{error.public} {error.next_step}")
        return Refused(code="TOOL_NOT_FOUND", message=f"There is no tool named {invocation.tool[:64]}.")

    async def _search(self, invocation: Invocation) -> Outcome:
        text = invocation.arguments.get("text")
        if not isinstance(text, str) or not text or len(invocation.arguments) != 1:
            return Refused(code="TOOL_REJECTED", message="It takes one argument, `text`, which is a text.")
        if not invocation.session_id:
            return Refused(
                code="SESSION_NONE", message="This run is no part of a conversation; there is nothing earlier."
            )
        session = (await self._sessions.get(self._space, self._principal, invocation.session_id)).value
        turns, more = await self._sessions.turns(self._space, session, limit=_FOUND, q=text)
        found = [
            {"turn": turn.number, "role": message.role, "text": message.text[:_SHOWN]}
            for turn in turns
            for message in turn.messages
            if text.casefold() in message.text.casefold()
        ]
        return Returned(text=msgspec.json.encode(found).decode(), structured={"found": found, "more": more})

    async def _set(self, invocation: Invocation) -> Outcome:
        changes = invocation.arguments.get("changes")
        if not isinstance(changes, dict) or len(invocation.arguments) != 1:
            return Refused(code="TOOL_REJECTED", message="It takes one argument, `changes`, which is an object.")
        return _returned(await self._states.merge(self._space, self._agent_id, changes, invocation.effect_id))


def _returned(found: Versioned[AgentState]) -> Returned:
    state = found.value.state
    return Returned(text=msgspec.json.encode(state).decode(), structured={"state": state, "revision": found.revision})
