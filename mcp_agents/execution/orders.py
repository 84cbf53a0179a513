"""What a caller asks for, checked and made into the first event of a log.

Not accepting it: that is `dispatch`. Below: the catalog of agents.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from mcp_agents.agents.spec import Agent
from mcp_agents.kernel.errors import Conflict, Exhausted, Invalid
from mcp_agents.kernel.events import Caller, Parent, Portion, Requested
from mcp_agents.kernel.job import Priority
from mcp_agents.kernel.principal import Principal
from mcp_agents.kernel.trace import new_traceparent

PROMPT_LIMIT: Final = 1_000_000
MAX_DEPTH: Final = 32
"""However deep an agent's own limit lets agents call each other."""

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a caller asks for. `agent` is an id or a name; `submitted` runs on when nobody follows.

    `session_id` is the session whose next turn it is; with `compacts` the run summarizes its turns and does nothing
    else. `context` is data for the model; `output_schema` the JSON Schema
    its answer must match, in place of the agent's own. `task` is the tool whose call the run answers as a task.
    `parent` and `portion` are set where a run is another one's tool. `upstream` is the run that calls from another
    deployment; `chain` the agents, as `AgentCatalog.identity` names them, that called each other to get here.
    """

    agent: str
    prompt: str
    session_id: str = ""
    compacts: bool = False
    context: Any = None
    stream: bool = True
    tools_enabled: bool = True
    idempotency_key: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    output_schema: dict[str, Any] | None = None
    priority: Priority = "normal"
    submitted: bool = False
    task: str = ""
    traceparent: str = ""
    depth: int = 0
    parent: Parent | None = None
    portion: Portion = field(default_factory=Portion)
    upstream: str = ""
    chain: tuple[str, ...] = ()

    def digest(self, agent: Agent) -> str:
        """What makes two orders the same request."""
        what = [agent.id, self.prompt, self.context, self.tools_enabled, self.overrides]
        if self.output_schema is not None:
            what.append(self.output_schema)
        if self.session_id:
            what.append([self.session_id, self.compacts] if self.compacts else self.session_id)
        return sha256(_encode(what)).hexdigest()

    def requested(self, agent: Agent, principal: Principal, identity: str = "") -> Requested:
        """The first event of its run; `identity` is the agent's. Raises `Invalid`, `Conflict` (`AGENT_INACTIVE`),
        `Exhausted` (`DEPTH_EXHAUSTED`, `AGENT_CYCLE`)."""
        if len(self.prompt) > PROMPT_LIMIT:
            raise Invalid("PROMPT_TOO_LONG", f"A prompt is at most {PROMPT_LIMIT} characters.", "Shorten it.")
        deepest = min(MAX_DEPTH, self.portion.max_depth or MAX_DEPTH, agent.limits.max_depth)
        if self.depth > deepest:
            raise Exhausted(
                "DEPTH_EXHAUSTED",
                f"Agents called each other {deepest} deep.",
                "Look for agents that call in a circle, or raise limits.max_depth.",
            )
        if self.parent is None and identity in self.chain:  # inside one deployment depth alone counts
            raise Exhausted(
                "AGENT_CYCLE",
                f"The agent {agent.name} is among those whose calls led here; it is not called again.",
                "Look for agents that call in a circle over several servers.",
            )
        if not agent.is_active:
            raise Conflict("AGENT_INACTIVE", f"The agent {agent.name} is switched off.", "Switch it on first.")
        return Requested(
            agent_id=agent.id,
            agent=Raw(msgspec.json.encode(agent)),
            prompt=self.prompt,
            caller=Caller.of(principal),
            traceparent=self.traceparent or new_traceparent(),
            context=self.context,
            stream=self.stream,
            tools_enabled=self.tools_enabled,
            metadata=self.metadata,
            overrides=self.overrides,
            output_schema=self.output_schema,
            priority=self.priority,
            submitted=self.submitted,
            task=self.task,
            depth=self.depth,
            parent=self.parent,
            portion=self.portion,
            upstream=self.upstream,
            chain=(*self.chain, identity) if identity else self.chain,
        )
