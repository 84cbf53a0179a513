"""What the logs, the tool server and the provider say when everything is at rest: faults, counts, recovery times.

Pure. A **fault** is a sentence about something that must not be; a trial without faults holds none.
"""

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil

from mcp_agents.execution.run import Run
from mcp_agents.execution.worker import MAX_ATTEMPTS
from mcp_agents.kernel.events import (
    Entry,
    FinalEvent,
    ModelAnswered,
    Retry,
    Started,
    ToolClaimed,
    ToolDone,
    ToolUnknown,
)
from tests.soak.cluster import Kill
from tests.soak.work import COUNTED, TEXT


@dataclass(frozen=True)
class Log:
    """One run's log as it was found."""

    tenant: str
    execution_id: str
    entries: list[Entry]


@dataclass(frozen=True)
class Evidence:
    """Everything that was found.

    `told`: the execution ids that clients were told, by key; `ends`: the ends they were told, as status and text.
    `effects`: the effect ids that the tool server saw, one for each time; `asked`: the provider's requests by
    whose they were (`work.asked_by`). `left`: what was found where nothing should be.
    """

    logs: list[Log]
    told: Mapping[str, set[str]]
    ends: Mapping[str, set[tuple[str, str]]]
    effects: list[str]
    asked: Mapping[str, int]
    kills: list[Kill]
    left: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What follows from it. `recovery` are seconds, one for each run that a kill hit, in order."""

    faults: list[str] = field(default_factory=list)
    runs: int = 0
    called: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    effects: int = 0
    repeated: int = 0
    unknown: int = 0
    answers: int = 0
    bought_again: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    recovery: list[float] = field(default_factory=list)


def judge(evidence: Evidence) -> Verdict:
    """The verdict."""
    verdict = Verdict(faults=[f"left behind: {each}" for each in evidence.left])
    by_id = {log.execution_id: log for log in evidence.logs}
    for log in evidence.logs:
        _judge_run(log, verdict)
    _judge_keys(evidence, by_id, verdict)
    _judge_effects(evidence, verdict)
    _judge_purchases(evidence, verdict)
    verdict.runs = len(evidence.logs)
    for log in evidence.logs:
        first, last = (bisect(evidence.kills, log.entries[end].at, key=_at) for end in (0, -1))
        for kill in evidence.kills[first:last]:
            if seconds := _recovered(log, kill):
                verdict.hits[kill.kind] += 1
                verdict.recovery.append(seconds)
    verdict.recovery.sort()
    return verdict


def quantile(seconds: list[float], part: float) -> float:
    """The value that this part of the sorted values does not exceed."""
    return seconds[max(0, ceil(part * len(seconds)) - 1)] if seconds else 0.0


def _judge_run(log: Log, verdict: Verdict) -> None:
    run = Run.folded(log.execution_id, log.entries)
    verdict.called += run.requested.parent is not None
    verdict.statuses[run.status] += 1
    finals = sum(isinstance(entry.event, FinalEvent) for entry in log.entries)
    if finals != 1:
        verdict.faults.append(f"{log.execution_id} is {run.status} with {finals} final events")
    if not isinstance(log.entries[-1].event, FinalEvent):
        verdict.faults.append(f"{log.execution_id} ends with {type(log.entries[-1].event).__name__}")
    if _given_up(run):
        verdict.given_up += 1
        return
    expected = TEXT if run.requested.parent is None else "Counted."
    if (run.status, run.text) != ("completed", expected):
        said = run.problem.code if run.problem else run.text[:60]
        verdict.faults.append(f"{log.execution_id} is {run.status}: {said}")


def _given_up(run: Run) -> bool:
    """Whether it lost its worker as often as a run may, or called one that did."""
    return run.problem is not None and run.problem.code == "ATTEMPTS_EXHAUSTED" and run.attempts >= MAX_ATTEMPTS


def _judge_keys(evidence: Evidence, by_id: Mapping[str, Log], verdict: Verdict) -> None:
    """One key, one run; and the client is told the end that its log has."""
    for key, ids in evidence.told.items():
        if len(ids) > 1:
            verdict.faults.append(f"the key {key} was told {len(ids)} runs: {sorted(ids)}")
        verdict.faults += [f"lost: {each} of {key} has no log" for each in sorted(ids) if each not in by_id]
        if not evidence.ends.get(key):
            verdict.faults.append(f"the client of {key} was never told an end")
    of_key: defaultdict[str, list[Run]] = defaultdict(list)
    for log in evidence.logs:
        run = Run.folded(log.execution_id, log.entries)
        if run.requested.parent is None:
            of_key[run.requested.metadata["key"]].append(run)
    for key, runs in of_key.items():
        if len(runs) > 1:
            verdict.faults.append(f"the key {key} has {len(runs)} runs: {[run.execution_id for run in runs]}")
        for end in evidence.ends.get(key, ()):
            if end != (runs[0].status, runs[0].text):
                verdict.faults.append(f"the client of {key} was told {end}, its log says {runs[0].status}")


def _judge_effects(evidence: Evidence, verdict: Verdict) -> None:
    """No effect twice unless it may be repeated and its log says so; none without a claim; none said and not done."""
    claims: dict[str, ToolClaimed] = {}
    said: Counter[str] = Counter()
    done: set[str] = set()
    for log in evidence.logs:
        for entry in log.entries:
            match entry.event:
                case ToolClaimed(child="") as claim:
                    claims[claim.effect_id] = claim
                case ToolDone(effect_id=effect_id):
                    done.add(effect_id)
                case ToolUnknown():
                    verdict.unknown += 1
                case Retry(what=what) if what.startswith("tool "):
                    said[what.rsplit(" ", 1)[-1]] += 1
                case _:
                    pass
    seen = Counter(evidence.effects)
    verdict.effects, verdict.repeated = len(evidence.effects), len(evidence.effects) - len(seen)
    for effect_id, times in seen.items():
        claim = claims.get(effect_id)
        if claim is None:
            verdict.faults.append(f"the effect {effect_id} has no claim")
        elif times > 1 and not claim.repeatable:
            verdict.faults.append(f"the effect {effect_id} of a tool that may not be repeated happened {times} times")
        elif times > 1 + said[effect_id]:
            verdict.faults.append(f"the effect {effect_id} happened {times} times, said {said[effect_id]} times")
    for effect_id in sorted((done & claims.keys()) - seen.keys()):
        verdict.faults.append(f"the effect {effect_id} is recorded as done and did not happen")


def _judge_purchases(evidence: Evidence, verdict: Verdict) -> None:
    """No answer is bought more often than it was recorded, unless a `retry` event, or the giving up, says so."""
    answers: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for log in evidence.logs:
        run = Run.folded(log.execution_id, log.entries)
        whose = COUNTED if run.requested.parent else run.requested.metadata["key"]
        answers[whose] += sum(isinstance(entry.event, ModelAnswered) for entry in log.entries)
        said[whose] += _given_up(run)  # the answer that its last worker was waiting for
        said[whose] += sum(
            isinstance(entry.event, Retry) and not entry.event.what.startswith("tool ") for entry in log.entries
        )
    verdict.answers = answers.total()
    for whose, asked in evidence.asked.items():
        more = asked - answers[whose]
        verdict.bought_again += max(0, more)
        if more > said[whose]:
            verdict.faults.append(f"{more} answers of {whose} were bought again, said {said[whose]} times")


def _recovered(log: Log, kill: Kill) -> float:
    """Seconds from the kill to the next start of the run by another process; 0 if the kill did not hit it."""
    before = [entry for entry in log.entries if entry.at <= kill.at]
    started = next((entry.event for entry in reversed(before) if isinstance(entry.event, Started)), None)
    if started is None or _pid(started.worker) not in kill.pids:
        return 0.0
    if Run.folded(log.execution_id, before).status != "running":
        return 0.0
    for entry in log.entries[len(before) :]:
        if isinstance(entry.event, Started) and entry.event.worker != started.worker:
            return (entry.at - kill.at).total_seconds()
    return 0.0


def _at(kill: Kill) -> datetime:
    return kill.at


def _pid(station: str) -> int:
    return int(station.rsplit("-", 2)[1])
