"""What an agent is: its fields, their bounds, and the stored record.

`AgentDraft` is what a person or a client writes (pydantic, the wire); `Agent` is the record the house
keeps (frozen, fast). Whether a model or a tool exists is asked by the catalog, not here.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mcp_agents.kernel import ids
from mcp_agents.kernel.routing import Routing, Strategy

Label = Annotated[str, Field(min_length=1, max_length=64)]
UnknownEffects = Literal["tell_model", "ask_person", "verify"]
"""What is done about a call that may or may not have happened."""
Annotation = Literal["destructive", "not_read_only", "open_world"]
"""What a tool server says of a tool, as a rule about approvals reads it."""

AGENT_BINDING = "agent:"
"""Begins a binding to another agent; what follows is its id, or on the way in its name."""


class AgentLimits(BaseModel):
    """Per-run limits of an agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_turns: int = Field(12, ge=1, le=200, description="Model calls in one run.")
    max_tool_calls: int = Field(50, ge=0, le=1000, description="Tool calls in one run.")
    timeout_seconds: int = Field(600, ge=1, le=86_400, description="Wall time of one run.")
    max_cost_micro_usd: int | None = Field(
        None, ge=0, description="Money of one run in micro-USD, that of the agents it calls included; null: no limit."
    )
    max_total_tokens: int | None = Field(
        None, ge=1, description="Input and output tokens of one run and the agents it calls; null: no limit."
    )
    max_depth: int = Field(8, ge=0, le=32, description="How deep agents may call each other in one run.")
    max_children: int = Field(20, ge=0, le=1000, description="Agents that one run may call.")


class AgentRouting(BaseModel):
    """What an agent wishes about the choice among models; what is absent is not wished."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: Strategy | None = Field(None, description="How to choose, in place of the virtual model's own way.")
    fallback_models: tuple[str, ...] = Field(
        (), max_length=20, description="Models to ask, in this order, when the chosen one fails."
    )
    preferred_providers: tuple[str, ...] = Field((), max_length=20, description="Providers to prefer, in this order.")
    max_latency_ms: int | None = Field(None, ge=1, description="Only models measured to be this fast.")
    max_cost_per_1k_tokens: int | None = Field(
        None, ge=0, description="Only models whose blended price for 1,000 tokens is at most this, in micro-USD."
    )
    task_type: str = Field("", max_length=64, description="The task to choose a model for.")


class AgentApproval(BaseModel):
    """A rule about calls for which a person is asked first. What is absent fits every call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str = Field(
        "",
        max_length=200,
        description="The tool as it is bound, or a pattern: `bank/transfer`, `bank/*`, `*/delete_*`, `agent:*`.",
    )
    annotation: Annotation | None = Field(
        None,
        description="Only tools that are destructive, not read-only, or reach the open world. What a server says of "
        "its tools counts only where it was added with trust_annotations; else they are all three.",
    )
    label: str = Field("", max_length=64, description="Only agents, as tools, that have this tag.")
    argument: str = Field(
        "",
        max_length=200,
        pattern=r"^([^.\s]+(\.[^.\s]+)*)?$",
        description="The path of an argument whose amount counts: `amount`, `order.total`, `lines.*.price`.",
    )
    above: float | None = Field(
        None, allow_inf_nan=False, description="Only calls whose amount is above this, or is no number."
    )
    approve: Literal["always", "never"] = Field("always", description="Whether a person is asked, or nobody.")
    by: Literal["any", "other"] = Field(
        "any", description="Who may decide: anybody with the right, or only somebody other than who asked for the run."
    )

    @model_validator(mode="after")
    def _whole(self) -> "AgentApproval":
        if bool(self.argument) != (self.above is not None):
            raise ValueError("argument and above belong together")
        return self


class AgentPolicy(BaseModel):
    """What a run does where the house leaves a choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unknown_effects: UnknownEffects = Field(
        "tell_model",
        description="When it is not known whether a tool call took effect: tell the model, ask a person, or call "
        "`verify_tool`.",
    )
    verify_tool: str = Field(
        "", max_length=200, description="For `verify`: the `server/tool` that finds out; one the agent is bound to."
    )
    approvals: tuple[AgentApproval, ...] = Field(
        (), max_length=50, description="Which calls a person approves first. The first rule that fits a call counts."
    )
    approval_seconds: int = Field(
        86_400, ge=1, le=30 * 86_400, description="How long a person has to answer; then the agent goes on without."
    )
    summary_model: str = Field(
        "", max_length=200, description="The model that summarizes its sessions; without one, its own."
    )


class AgentDraft(BaseModel):
    """The fields of an agent that its owner writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Unique in the tenant: 1 to 64 of a-z, 0-9, _ and -.")
    description: str = Field("", max_length=2000, description="What it is for; people and other agents choose by it.")
    system_prompt: str = Field("", max_length=100_000, description="The instructions the model gets first.")
    virtual_model: str = Field("auto", min_length=1, max_length=200, description="A configured or virtual model name.")
    temperature: float | None = Field(None, ge=0, le=2, description="Sampling temperature; absent: the model's own.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Output tokens of one model call.")
    tools: tuple[str, ...] = Field(
        (),
        max_length=200,
        description="Bindings: `server/tool`, `server/*`, `builtin/*` or `agent:{id or name}`.",
    )
    capabilities: tuple[Label, ...] = Field((), max_length=50, description="What it can do, for discovery.")
    tags: tuple[Label, ...] = Field((), max_length=50, description="Free labels.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Stored and returned, never shown to the model.")
    limits: AgentLimits = Field(default_factory=lambda: AgentLimits.model_validate({}), description="Per-run limits.")
    routing: AgentRouting = Field(
        default_factory=lambda: AgentRouting.model_validate({}), description="Wishes about the choice among models."
    )
    policy: AgentPolicy = Field(
        default_factory=lambda: AgentPolicy.model_validate({}), description="What a run does in doubt."
    )
    output_schema: dict[str, Any] | None = Field(
        None, description="JSON Schema of an object that every answer must be; absent: answers are text."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ids.AGENT_NAME.fullmatch(value) or ids.is_id(value, "ag"):
            raise ValueError("a name is 1 to 64 of a-z, 0-9, _ and -, and does not look like an id")
        return value

    @model_validator(mode="after")
    def _verifiable(self) -> "AgentDraft":
        tool = self.policy.verify_tool
        if self.policy.unknown_effects == "verify" and not tool:
            raise ValueError("policy.verify_tool is needed where policy.unknown_effects is verify")
        if tool and not _binds(self.tools, tool):
            raise ValueError("policy.verify_tool is not one of the tools this agent is bound to")
        return self


class Limits(Struct, frozen=True, kw_only=True):
    """`AgentLimits` as stored."""

    max_turns: int = 12
    max_tool_calls: int = 50
    timeout_seconds: int = 600
    max_cost_micro_usd: int | None = None
    max_total_tokens: int | None = None
    max_depth: int = 8
    max_children: int = 20


class ApprovalRule(Struct, frozen=True, kw_only=True):
    """`AgentApproval` as stored."""

    tool: str = ""
    annotation: Annotation | None = None
    label: str = ""
    argument: str = ""
    above: float | None = None
    approve: Literal["always", "never"] = "always"
    by: Literal["any", "other"] = "any"


class Policy(Struct, frozen=True, kw_only=True):
    """`AgentPolicy` as stored."""

    unknown_effects: UnknownEffects = "tell_model"
    verify_tool: str = ""
    approvals: tuple[ApprovalRule, ...] = ()
    approval_seconds: int = 86_400
    summary_model: str = ""
    """What writes summaries of its sessions; "": the model that it runs on."""

    @property
    def asks_persons(self) -> bool:
        """Whether there are people who decide for this agent."""
        return self.unknown_effects == "ask_person" or any(rule.approve == "always" for rule in self.approvals)


class Agent(Struct, frozen=True, kw_only=True):
    """A stored agent. `version` counts its changes from 1; the record's revision is the store's.

    `changed` and `summary` say what made this version of the one before, `updated_by` whose act it was.
    """

    id: str
    tenant_id: str
    name: str
    description: str
    system_prompt: str
    virtual_model: str
    temperature: float | None
    max_tokens: int | None
    tools: tuple[str, ...]
    capabilities: tuple[str, ...]
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    limits: Limits
    created_at: datetime
    updated_at: datetime
    is_active: bool
    version: int
    routing: Routing = Routing()
    policy: Policy = Policy()
    output_schema: dict[str, Any] | None = None
    updated_by: str = ""
    changed: tuple[str, ...] = ()
    summary: str = ""
    v: int = 1


def _binds(tools: tuple[str, ...], tool: str) -> bool:
    """Whether `tool` (`server/tool`) is among the bindings, by itself or by its server's `*`."""
    server, _, name = tool.partition("/")
    return bool(name) and name != "*" and (tool in tools or f"{server}/*" in tools)
