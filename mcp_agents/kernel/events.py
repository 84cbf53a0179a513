"""What can happen in a run: one tagged union, and the commits that carry it.

A **commit** is one message of the log: one to n events that belong together, written at a decision
point. Every event has a number `seq` (contiguous within its execution, the cursor of every reader), a
time and a digest chained to the one before, so that a damaged or missing part is noticed instead of
guessed over. Nothing else holds the state of a run; `execution.run` folds it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from mcp_agents.kernel.errors import KINDS, AgentsError, Fault
from mcp_agents.kernel.job import Priority
from mcp_agents.kernel.messages import Spend, ToolCall, Usage
from mcp_agents.kernel.principal import Principal


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Root of the union; the tag is the public event name."""


class Caller(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who asked and with which rights, as recorded; the worker acts as this and nobody else."""

    subject: str
    client: str = ""
    scopes: str = ""
    roles: str = ""
    actors: tuple[str, ...] = ()
    grant: str = ""

    @staticmethod
    def of(principal: Principal) -> "Caller":
        """The recordable part of a principal."""
        return Caller(
            subject=principal.subject,
            client=principal.client,
            scopes=" ".join(sorted(principal.scopes)),
            roles=" ".join(sorted(principal.roles)),
            actors=principal.actors,
            grant=principal.grant,
        )

    def principal(self, tenant: str) -> Principal:
        """The principal of a run that this caller asked for."""
        return Principal(
            tenant=tenant,
            subject=self.subject,
            client=self.client,
            scopes=frozenset(self.scopes.split()),
            roles=frozenset(self.roles.split()),
            actors=self.actors,
            grant=self.grant,
        )


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as data, public by construction."""

    kind: str
    code: str
    public: str
    next_step: str = ""
    retryable: bool = False

    @staticmethod
    def of(error: AgentsError) -> "Problem":
        """The public part of an error."""
        return Problem(
            kind=error.kind,
            code=error.code,
            public=error.public,
            next_step=error.next_step,
            retryable=error.retryable,
        )

    def error(self) -> AgentsError:
        """The error again, for a caller that wants it raised."""
        return KINDS.get(self.kind, Fault)(self.code, self.public, self.next_step)


class Portion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run may use of its parent's limits; None: as much as its own agent allows. Money in micro-USD."""

    cost_micro_usd: int | None = None
    tokens: int | None = None
    max_depth: int | None = None
    seconds: float | None = None


class Parent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run that started this one as a tool, its agent, and the call that did it. `session`: whose turn all of it is
    part of; `joined`: somebody other than its caller had told it something."""

    execution_id: str
    agent_id: str
    effect_id: str
    session: str = ""
    joined: bool = False


class Compact(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run is to summarize before its turn: the turns in its session's log behind `after`, up to and with `upto`,
    whose number is `through`, in at most `room` tokens; `last`: no other turn comes after them. With the summary its
    model is shown the turns behind `shown_after`. `alone`: the summary is all that the run is for."""

    after: int
    upto: int
    through: int
    room: int
    shown_after: int
    last: bool = False
    alone: bool = False


class InSession(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which turn of which session a run is, and what its model is shown of the session: the turns in its log behind
    `after`, up to and with `upto`, but those `without`; a summary of those before; and the texts that were pinned when
    the run was accepted. `holds` is what the summary had to hold, each with what it is."""

    id: str
    number: int
    after: int = 0
    upto: int = 0
    without: tuple[int, ...] = ()
    pinned: tuple[str, ...] = ()
    summary: str = ""
    holds: tuple[tuple[str, str], ...] = ()
    compact: Compact | None = None


class Requested(Event, frozen=True, kw_only=True, tag="requested"):
    """The run was accepted. `agent` is the agent as it stood (an `agents.spec.Agent` document).

    `upstream` is the run of another deployment that called this agent; `chain` names, one digest each, the
    agents that called each other to get here, this one last.
    """

    agent_id: str
    agent: Raw
    prompt: str
    caller: Caller
    traceparent: str
    context: Any = None
    stream: bool = True
    tools_enabled: bool = True
    metadata: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    output_schema: dict[str, Any] | None = None
    priority: Priority = "normal"
    submitted: bool = False
    task: str = ""
    """The tool whose call this run answers as a task; it makes the task's result."""
    depth: int = 0
    parent: Parent | None = None
    portion: Portion = Portion()
    upstream: str = ""
    chain: tuple[str, ...] = ()
    session: InSession | None = None


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """A worker took the run. `attempt` above 1: another one had it before and was lost.

    `job` is the number of the job it holds; 0: the process that accepted the run began it at once, under the
    lease of `worker` itself.
    """

    worker: str
    attempt: int
    job: int = 0


class Decision(Event, frozen=True, kw_only=True, tag="decision"):
    """Something was chosen: `what` (`model`), which, and why, with the measured figures in words."""

    what: str
    choice: str
    reason: str


class ModelAnswered(Event, frozen=True, kw_only=True, tag="model_answered"):
    """One paid answer. Once this is in the log it is never bought again.

    `heard` is how many `steered` messages the model had been sent when it answered.
    """

    turn: int
    model: str
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    cost_micro_usd: int = 0
    model_ms: int = 0
    dropped: tuple[str, ...] = ()
    heard: int = 0


class ContextCompacted(Event, frozen=True, kw_only=True, tag="context_compacted"):
    """A model wrote a summary of a session's turns up to the one numbered `through`. With something `missing` it was
    not taken, and the run goes on without it. Paid as any answer, and never bought again."""

    through: int
    text: str = ""
    tokens: int = 0
    missing: tuple[str, ...] = ()
    holds: tuple[tuple[str, str], ...] = ()
    model: str = ""
    usage: Usage = Usage()
    cost_micro_usd: int = 0
    model_ms: int = 0


class BudgetReserved(Event, frozen=True, kw_only=True, tag="budget_reserved"):
    """The worst case of a model call was set aside in every budget that applies, before it was made.

    `call` is its number in the run, counting calls whose answer was lost.
    """

    call: int
    micro_usd: int
    tokens: int


class BudgetSettled(Event, frozen=True, kw_only=True, tag="budget_settled"):
    """What a model call cost takes the place of its reservation. `lost`: its answer was lost with its worker
    and may have been paid, so that all of the reservation counts as spent."""

    call: int
    micro_usd: int
    tokens: int
    lost: bool = False


class BudgetWarning(Event, frozen=True, kw_only=True, tag="budget_warning"):
    """A budget passed one of its warning thresholds, a fraction of its limit."""

    scope: str
    subject: str
    period: str
    threshold: float


class ToolClaimed(Event, frozen=True, kw_only=True, tag="tool_claimed"):
    """A call is about to be sent. On disk before it is sent."""

    effect_id: str
    call_id: str
    tool: str
    digest: str
    repeatable: bool = False
    child: str = ""


class HandedOff(Event, frozen=True, kw_only=True, tag="handed_off"):
    """The run waits: for these runs, which it started as tools, and for what people were asked. No worker is held."""

    to: tuple[str, ...]


class ApprovalRequested(Event, frozen=True, kw_only=True, tag="approval_requested"):
    """A call waits for a person before it is claimed: what it would do (`digest`), and how the person is asked.

    `binding` is a digest of what the approval holds for; `by` is `other` where the caller may not decide it.
    """

    approval_id: str
    call_id: str
    tool: str
    digest: str
    binding: str
    message: str
    expires_at: datetime
    by: Literal["any", "other"] = "any"
    reason: str = ""
    url: str = ""


class ApprovalDecided(Event, frozen=True, kw_only=True, tag="approval_decided"):
    """A person with the right said whether the call may be sent. `mark` is what the writer knows its event by."""

    approval_id: str
    by: str
    approved: bool
    reason: str = ""
    mark: str = ""


class InputRequested(Event, frozen=True, kw_only=True, tag="input_requested"):
    """A person is asked; when nothing else is under way the run waits for it.

    `effect`: whether this call took effect. `question`: what the agent asks with the tool call `call_id`; the
    answer is to match `schema`.
    """

    effect_id: str
    question: str
    kind: Literal["effect", "question"] = "effect"
    call_id: str = ""
    schema: dict[str, Any] = {}
    expires_at: datetime | None = None


class InputReceived(Event, frozen=True, kw_only=True, tag="input_received"):
    """A person with the right answered: whether the call took effect, and perhaps what it returned (`text`), or
    what the agent asked for (`content`). `declined`: there will be no answer."""

    effect_id: str
    by: str
    happened: bool = False
    text: str = ""
    content: dict[str, Any] = {}
    declined: bool = False
    mark: str = ""


class Steered(Event, frozen=True, kw_only=True, tag="steered"):
    """Somebody with the right added to what the run was asked; the model hears it at its next turn."""

    by: str
    message: str
    mark: str = ""


class ToolDone(Event, frozen=True, kw_only=True, tag="tool_done"):
    """The tool answered; `text` is what the model is told. `spent` is what a run started as a tool cost,
    `asked_seconds` how long it waited for people."""

    effect_id: str
    text: str
    structured: Any = None
    tool_ms: int = 0
    spent: Spend = Spend()
    asked_seconds: float = 0.0


class ToolFailed(Event, frozen=True, kw_only=True, tag="tool_failed"):
    """The call did not succeed, and that much is certain; the model is told and may mend it.

    `effect_id` is empty for a call that was never sent (malformed arguments, an unknown tool).
    """

    call_id: str
    code: str
    message: str
    effect_id: str = ""
    tool_ms: int = 0
    spent: Spend = Spend()
    asked_seconds: float = 0.0


class ToolUnknown(Event, frozen=True, kw_only=True, tag="tool_unknown"):
    """The call may have happened: its end was lost. Never repeated silently."""

    effect_id: str
    reason: str = ""


class Retry(Event, frozen=True, kw_only=True, tag="retry"):
    """Something is done a second time, said aloud: a model call or a repeatable tool call."""

    what: str
    reason: str


class Completed(Event, frozen=True, kw_only=True, tag="completed"):
    """The final answer."""

    text: str
    structured: Any = None


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """The run ended without an answer."""

    problem: Problem


class TimedOut(Event, frozen=True, kw_only=True, tag="timeout"):
    """The run used up its time."""

    problem: Problem


class Cancelled(Event, frozen=True, kw_only=True, tag="cancelled"):
    """Somebody with the right ended the run."""

    by: str
    reason: str = ""


AnyEvent = (
    Requested
    | Started
    | Decision
    | ModelAnswered
    | ContextCompacted
    | BudgetReserved
    | BudgetSettled
    | BudgetWarning
    | ToolClaimed
    | HandedOff
    | ApprovalRequested
    | ApprovalDecided
    | InputRequested
    | InputReceived
    | Steered
    | ToolDone
    | ToolFailed
    | ToolUnknown
    | Retry
    | Completed
    | Failed
    | TimedOut
    | Cancelled
)
Posted = ApprovalDecided | InputReceived | Steered
"""The events that come from outside while a run is under way; each has a `mark` of its own."""
FinalEvent = Completed | Failed | TimedOut | Cancelled
"""The events that end a run; each log holds exactly one, as its last."""


class Entry(NamedTuple):
    """One event with its place in the log."""

    seq: int
    at: datetime
    event: AnyEvent


class _Line(Struct, frozen=True):
    seq: int
    at: datetime
    digest: str
    event: Raw


class _Commit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    v: int = 1
    id: str
    entries: tuple[_Line, ...] = ()
    object: str = ""


class Tip(NamedTuple):
    """Where a log ends: the stream sequence to expect, the last event number, the last digest."""

    sequence: int = 0
    seq: int = 0
    digest: str = ""


START: Final = Tip()
_encode: Final = msgspec.json.Encoder().encode
_decode_commit: Final = msgspec.json.Decoder(_Commit).decode
_decode_event: Final = msgspec.json.Decoder(AnyEvent).decode


def _digest(previous: str, seq: int, at: datetime, event: bytes) -> str:
    return blake2b(f"{previous}|{seq}|{at.isoformat()}|".encode() + event, digest_size=16).hexdigest()


def encode_commit(
    tip: Tip, events: Iterable[AnyEvent], *, at: datetime, append_id: str
) -> tuple[bytes, Tip, list[Entry]]:
    """The message that appends `events` behind `tip`, the tip they make (its sequence still to come), the entries."""
    seq, digest = tip.seq, tip.digest
    lines: list[_Line] = []
    entries: list[Entry] = []
    for event in events:
        seq += 1
        raw = _encode(event)
        digest = _digest(digest, seq, at, raw)
        lines.append(_Line(seq, at, digest, Raw(raw)))
        entries.append(Entry(seq, at, event))
    return _encode(_Commit(id=append_id, entries=tuple(lines))), Tip(tip.sequence, seq, digest), entries


def encode_reference(append_id: str, name: str) -> bytes:
    """The message that stands for a commit too large to travel, kept under `name` in the object store."""
    return _encode(_Commit(id=append_id, object=name))


class Reference(NamedTuple):
    """A stored message that only names the object in which its commit is."""

    name: str


def decode_reference(payload: bytes) -> Reference | None:
    """The object that a stored message stands for, if it does."""
    commit = _decode_commit(payload)
    return Reference(commit.object) if commit.object else None


def decode_commit(tip: Tip, payload: bytes, sequence: int) -> tuple[Tip, list[Entry]] | Reference:
    """The entries of a stored message. Raises `Fault` when they do not continue `tip` exactly."""
    try:
        commit = _decode_commit(payload)
        if commit.object:
            return Reference(commit.object)
        seq, digest = tip.seq, tip.digest
        entries: list[Entry] = []
        for line in commit.entries:
            digest = _digest(digest, line.seq, line.at, bytes(line.event))
            if line.seq != seq + 1 or line.digest != digest:
                raise _damaged()
            seq = line.seq
            entries.append(Entry(seq, line.at, _decode_event(line.event)))
    except msgspec.MsgspecError as cause:
        raise _damaged() from cause
    return Tip(sequence, seq, digest), entries


def _damaged() -> Fault:
    return Fault(
        "LOG_DAMAGED",
        "The record of this run is damaged, so it cannot go on.",
        "Start the run again; an operator can restore the record from a backup.",
    )


def event_name(event: AnyEvent) -> str:
    """The public name, such as `model_answered`."""
    name = type(event).__struct_config__.tag
    return str(name)


def public_body(event: AnyEvent) -> dict[str, Any]:
    """The event as JSON-ready data without its tag; what readers are shown."""
    body: dict[str, Any] = msgspec.json.decode(_encode(event))
    body.pop("type", None)
    return body


def ends(events: Sequence[Entry]) -> bool:
    """Whether the last entry is a final event."""
    return bool(events) and isinstance(events[-1].event, FinalEvent)
