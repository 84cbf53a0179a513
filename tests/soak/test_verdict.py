"""The judge of the trial finds every kind of fault it is there for, and none in a run that went well."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mcp_agents.agents.spec import Agent, Limits
from mcp_agents.kernel.events import (
    AnyEvent,
    Caller,
    Completed,
    Entry,
    Failed,
    ModelAnswered,
    Problem,
    Requested,
    Retry,
    Started,
    ToolClaimed,
    ToolDone,
)
from mcp_agents.kernel.messages import ToolCall
from tests.soak.cluster import Kill
from tests.soak.verdict import Evidence, Log, judge, quantile
from tests.soak.work import TEXT

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)
FIRST, SECOND = "host-11-aaaa", "host-22-bbbb"
AGENT = Agent(
    id="ag_1",
    tenant_id="acme",
    name="tool",
    description="",
    system_prompt="",
    virtual_model="scripted",
    temperature=None,
    max_tokens=None,
    tools=(),
    capabilities=(),
    tags=(),
    metadata={},
    limits=Limits(),
    created_at=BEGAN,
    updated_at=BEGAN,
    is_active=True,
    version=1,
)
REQUESTED = Requested(
    agent_id="ag_1",
    agent=Raw(msgspec.json.encode(AGENT)),
    prompt="<tool> of k1.",
    caller=Caller(subject="caller"),
    traceparent="",
    metadata={"key": "k1"},
)
TAKEN = Started(worker=FIRST, attempt=1, job=1)
TAKEN_OVER = Started(worker=SECOND, attempt=2, job=1)
CALLED = ModelAnswered(turn=1, model="m", tool_calls=(ToolCall(call_id="c", tool="t", arguments={}),))
CLAIMED = ToolClaimed(effect_id="eff_1", call_id="c", tool="t", digest="d")
REPEATABLE = msgspec.structs.replace(CLAIMED, repeatable=True)
AGAIN = Retry(what="tool t eff_1", reason="its worker was lost")
DONE = ToolDone(effect_id="eff_1", text="recorded")
ANSWERED = ModelAnswered(turn=2, model="m", text=TEXT)
ENDED = Completed(text=TEXT)
GIVEN_UP = Failed(problem=Problem(kind="exhausted", code="ATTEMPTS_EXHAUSTED", public="It lost its worker 5 times."))
WELL = (REQUESTED, TAKEN, CALLED, CLAIMED, DONE, ANSWERED, ENDED)


def log(*events: AnyEvent, execution_id: str = "ex_1") -> Log:
    """A log whose events came a second after each other."""
    entries = [Entry(seq, BEGAN + timedelta(seconds=seq), event) for seq, event in enumerate(events, 1)]
    return Log("acme", execution_id, entries)


def found(*logs: Log, **other: Any) -> Evidence:
    """What is found of one run that went well, but for these logs and what is `other`."""
    well = Evidence(
        logs=list(logs) or [log(*WELL)],
        told={"k1": {"ex_1"}},
        ends={"k1": {("completed", TEXT)}},
        effects=["eff_1"],
        asked={"k1": 2},
        kills=[],
    )
    return replace(well, **other)


def test_a_run_that_went_well_has_no_fault() -> None:
    """And is counted."""
    verdict = judge(found())
    assert verdict.faults == []
    assert (verdict.runs, verdict.statuses, verdict.effects, verdict.answers) == (1, {"completed": 1}, 1, 2)


@pytest.mark.parametrize(
    ("evidence", "fault"),
    [
        (found(log(*WELL[:-1])), "running with 0 final events"),
        (found(log(*WELL, ENDED)), "completed with 2 final events"),
        (found(log(*WELL, AGAIN)), "ends with Retry"),
        (found(log(*WELL[:-1], Completed(text="Else."))), "ex_1 is completed: Else."),
        (found(log(*WELL[:-1], Failed(problem=Problem(kind="fault", code="INTERNAL", public="")))), "failed: INTERNAL"),
        (found(log(*WELL[:-1], GIVEN_UP)), "failed: ATTEMPTS_EXHAUSTED"),
        (found(told={"k1": {"ex_1"}, "k2": {"ex_2"}}), "lost: ex_2 of k2 has no log"),
        (found(told={"k1": {"ex_1", "ex_2"}}), "the key k1 was told 2 runs"),
        (found(log(*WELL), log(*WELL, execution_id="ex_2"), asked={}), "the key k1 has 2 runs"),
        (found(ends={}), "the client of k1 was never told an end"),
        (found(ends={"k1": {("failed", "")}}), "the client of k1 was told ('failed', '')"),
        (found(effects=["eff_1", "eff_1"]), "may not be repeated happened 2 times"),
        (found(log(*WELL[:3], REPEATABLE, *WELL[4:]), effects=["eff_1"] * 2), "happened 2 times, said 0 times"),
        (found(log(*WELL[:3], REPEATABLE, AGAIN, *WELL[4:]), effects=["eff_1"] * 3), "happened 3 times, said 1 times"),
        (found(effects=["eff_1", "eff_2"]), "the effect eff_2 has no claim"),
        (found(effects=[]), "recorded as done and did not happen"),
        (found(asked={"k1": 3}), "1 answers of k1 were bought again, said 0 times"),
        (found(left=["the lease of host-11-aaaa"]), "left behind: the lease of host-11-aaaa"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_every_kind_of_fault_is_found(evidence: Evidence, fault: str) -> None:
    """In a run that otherwise went well."""
    assert any(fault in each for each in judge(evidence).faults)


def test_what_is_said_by_a_retry_is_no_fault() -> None:
    """A repeatable effect that came again, an answer bought again, and a run given up after five workers."""
    repeated = judge(found(log(*WELL[:3], REPEATABLE, TAKEN_OVER, AGAIN, *WELL[4:]), effects=["eff_1"] * 2))
    assert (repeated.faults, repeated.repeated) == ([], 1)
    lost = Retry(what="model turn 1", reason="its worker was lost")
    bought = judge(found(log(REQUESTED, TAKEN, TAKEN_OVER, lost, *WELL[2:]), asked={"k1": 3}))
    assert (bought.faults, bought.bought_again) == ([], 1)
    last = Started(worker=SECOND, attempt=5, job=1)
    ends = {"k1": {("failed", "")}}
    given_up = judge(found(log(REQUESTED, last, GIVEN_UP), effects=[], ends=ends, asked={"k1": 1}))
    assert (given_up.faults, given_up.given_up) == ([], 1)
    twice = judge(found(log(REQUESTED, last, GIVEN_UP), effects=[], ends=ends, asked={"k1": 2}))
    assert twice.faults == ["2 answers of k1 were bought again, said 1 times"]


def test_a_kill_hits_the_runs_that_its_process_was_carrying_out() -> None:
    """Recovery goes from the kill to the next start elsewhere; a kill before, after, or of another process is none."""
    evidence = found(log(REQUESTED, TAKEN, TAKEN_OVER, *WELL[2:]))

    def kill(after: float, pid: int) -> Kill:
        return Kill(BEGAN + timedelta(seconds=after), "worker", (pid,))

    hit = judge(replace(evidence, kills=[kill(1.5, 11), kill(2.25, 11), kill(2.5, 22), kill(3.5, 11), kill(9, 22)]))
    assert hit.recovery == [0.75]
    assert hit.hits == {"worker": 1}


def test_quantiles_are_values_that_were_seen() -> None:
    """The largest of one is itself."""
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0
    assert quantile([], 0.5) == 0.0
