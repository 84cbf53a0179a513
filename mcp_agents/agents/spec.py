"""What an agent is: its fields, their bounds, and the stored record.

`AgentDraft` is what a person or a client writes (pydantic, the wire); `Agent` is the record the house
keeps (frozen, fast). Whether a model or a tool exists is asked by the catalog, not here.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mcp_agents.kernel import ids

Label = Annotated[str, Field(min_length=1, max_length=64)]


class AgentLimits(BaseModel):
    """Per-run limits of an agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_turns: int = Field(12, ge=1, le=200, description="Model calls in one run.")
    max_tool_calls: int = Field(50, ge=0, le=1000, description="Tool calls in one run.")
    timeout_seconds: int = Field(600, ge=1, le=86_400, description="Wall time of one run.")
    max_cost_micro_usd: int | None = Field(None, ge=0, le=10**15, description="What one run may cost; null: any.")
    max_total_tokens: int | None = Field(None, ge=1, le=10**15, description="Input and output of one run; null: any.")
    max_depth: int = Field(8, ge=0, le=8, description="How deep agents may call each other.")
    max_children: int = Field(20, ge=0, le=1000, description="Runs of other agents that one run may start.")


class AgentDraft(BaseModel):
    """The fields of an agent that its owner writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Unique in the tenant: 1 to 64 of a-z, 0-9, _ and -.")
    description: str = Field("", max_length=2000, description="What it is for; people and other agents choose by it.")
    system_prompt: str = Field("", max_length=100_000, description="The instructions the model gets first.")
    virtual_model: str = Field("auto", min_length=1, max_length=200, description="A configured or virtual model name.")
    temperature: float | None = Field(None, ge=0, le=2, description="Sampling temperature; absent: the model's own.")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000, description="Output tokens of one model call.")
    tools: tuple[str, ...] = Field((), max_length=200, description="Bindings: `server/tool` or `server/*`.")
    capabilities: tuple[Label, ...] = Field((), max_length=50, description="What it can do, for discovery.")
    tags: tuple[Label, ...] = Field((), max_length=50, description="Free labels.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Stored and returned, never shown to the model.")
    limits: AgentLimits = Field(default_factory=lambda: AgentLimits.model_validate({}), description="Per-run limits.")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ids.AGENT_NAME.fullmatch(value) or ids.is_id(value, "ag"):
            raise ValueError("a name is 1 to 64 of a-z, 0-9, _ and -, and does not look like an id")
        return value


class Limits(Struct, frozen=True, kw_only=True):
    """`AgentLimits` as stored."""

    max_turns: int = 12
    max_tool_calls: int = 50
    timeout_seconds: int = 600
    max_cost_micro_usd: int | None = None
    max_total_tokens: int | None = None
    max_depth: int = 8
    max_children: int = 20


class Agent(Struct, frozen=True, kw_only=True):
    """A stored agent. `version` counts its changes from 1; the record's revision is the store's."""

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
    v: int = 1
