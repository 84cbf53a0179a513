"""The streams and buckets of the house on JetStream, declared once.

`ensure` creates what is missing and changes nothing that is there but the bounds and subjects of the job
queue, and those never so that a job is lost. On the embedded server nothing is created before the store's
key has been proved right: a wrong key makes an existing stream look missing, and creating it again would
delete its files (`nats_embedded` asks first).
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from mcp_agents.adapters.nats_link import NatsLink, Refused
from mcp_agents.kernel.store import BUCKETS
from mcp_agents.kernel.tenancy import LOG_SHARDS

log = logging.getLogger("mcp_agents.nats")

JOBS: Final = "CB_JOBS"
QUEUED: Final = "cb.agent.queued"
"""Where the job stream says on core NATS, behind this prefix, which lane has just stored a job."""
OPENED: Final = "cb.agent.opened"
"""Where a publisher says so of a lane that it has not published to lately."""
OBJECTS: Final = "OBJ_cb_objects"
AUDIT: Final = "CB_AUDIT"
SESSIONS: Final = "CB_SESSIONS"
LEASE_SECONDS: Final = 5
MAX_LANES: Final = 2_000
"""Lanes that may have a consumer at the same time; each costs the server about 30 KB."""

_SECOND: Final = 1_000_000_000
_LANE_IDLE_SECONDS: Final = 600
_EXECUTE: Final = "cb.agent.execute"
_ONE_FOR_ALL: Final = "workers"
"""The one consumer of all jobs that a store of version 0.1 has; lanes of their own cannot stand beside it."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many jobs may wait or run: of one agent and priority, and in all."""

    per_lane: int = 10_000
    total: int = 100_000


def log_stream(shard: int) -> str:
    """The stream that holds one shard of the execution logs."""
    return f"CB_EVENTS_{shard}"


def bucket_stream(bucket: str) -> str:
    """The stream behind a key-value bucket."""
    return f"KV_{bucket}"


def jobs_stream(replicas: int, limits: QueueLimits) -> dict[str, Any]:
    """The configuration of the work queue."""
    return {
        "storage": "file",
        "num_replicas": replicas,
        "allow_direct": True,
        "name": JOBS,
        "retention": "workqueue",
        "duplicate_window": 120 * _SECOND,
        **_adjustable(limits),
    }


def _adjustable(limits: QueueLimits) -> dict[str, Any]:
    return {
        "subjects": [f"{_EXECUTE}.*.*", f"{_EXECUTE}.*.*.high", f"{_EXECUTE}.*.*.low"],
        # Idle workers hear of a job once it is stored: asking for one that was only sent might come too early.
        "republish": {"src": f"{_EXECUTE}.>", "dest": f"{QUEUED}.>", "headers_only": True},
        "discard": "new",
        "discard_new_per_subject": True,
        "max_msgs_per_subject": limits.per_lane,
        "max_msgs": limits.total,
        "max_consumers": 2 * MAX_LANES,  # left out, the server allows 1,000
    }


def streams(replicas: int, limits: QueueLimits | None = None) -> list[dict[str, Any]]:
    """The configuration of every stream, as the JetStream API takes it."""
    common: dict[str, Any] = {"storage": "file", "num_replicas": replicas, "allow_direct": True}
    logs = [
        {
            **common,
            "name": log_stream(shard),
            "subjects": [f"cb.agent.events.{shard}.*.*"],
            "republish": {
                "src": f"cb.agent.events.{shard}.*.*",
                "dest": "cb.agent.log.{{wildcard(1)}}.{{wildcard(2)}}",
            },
            "deny_delete": True,
        }
        for shard in range(LOG_SHARDS)
    ]
    buckets = [
        {
            **common,
            "name": bucket_stream(bucket),
            "subjects": [f"$KV.{bucket}.>"],
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "allow_msg_ttl": True,
            "deny_delete": True,
            "discard": "new",
            # Told of what was stored, not of what was sent: a cache that heard of a write before it landed
            # would read the old record once more and keep it.
            "republish": {"src": f"$KV.{bucket}.>", "dest": f"cb.changed.{bucket}.>", "headers_only": True},
        }
        for bucket in BUCKETS
    ]
    objects = {
        **common,
        "name": OBJECTS,
        "subjects": ["$O.cb_objects.C.>", "$O.cb_objects.M.>"],
        "allow_rollup_hdrs": True,
        "discard": "new",
    }
    sessions = {**common, "name": SESSIONS, "subjects": ["cb.agent.session.*.*"], "deny_delete": True}
    audit = {**common, "name": AUDIT, "subjects": ["cb.agent.audit.*"], "deny_delete": True}
    return [*logs, sessions, audit, *buckets, jobs_stream(replicas, limits or QueueLimits()), objects]


async def existing(link: NatsLink) -> set[str]:
    """The names of the streams that are there."""
    names: set[str] = set()
    while True:
        answer = await link.api("STREAM.NAMES", {"offset": len(names)})
        names.update(answer.get("streams") or ())
        if len(names) >= answer["total"]:
            return names


async def ensure(link: NatsLink, replicas: int, limits: QueueLimits | None = None) -> list[str]:
    """Creates the streams that are missing, adjusts the job queue, and returns the names of all streams."""
    limits = limits or QueueLimits()
    there = await existing(link)
    wanted = streams(replicas, limits)
    for config in wanted:
        if config["name"] not in there:
            await _create(link, f"STREAM.CREATE.{config['name']}", config)
    if JOBS in there:
        await _adjust(link, limits)
    return [config["name"] for config in wanted]


async def _adjust(link: NatsLink, limits: QueueLimits) -> None:
    """Brings the bounds and subjects of an existing job queue to what is wanted now."""
    await remove_lane(link, _ONE_FOR_ALL)  # its jobs stay in the stream and are found by lane
    info = await link.api(f"STREAM.INFO.{JOBS}", {"subjects_filter": f"{_EXECUTE}.>"})
    config, wanted = info["config"], _adjustable(limits)
    deepest = max((info["state"].get("subjects") or {}).values(), default=0)
    bound = config.get("max_msgs_per_subject", -1)
    if deepest > limits.per_lane // 2 and (bound <= 0 or bound > limits.per_lane):
        # The server would delete what is above a smaller bound. Half of it is kept free for what arrives meanwhile.
        log.warning("a lane holds %d jobs: the bound of %d is left for a later start", deepest, limits.per_lane)
        wanted["max_msgs_per_subject"] = bound
        wanted["discard_new_per_subject"] = bound > 0
    if any(config.get(key) != value for key, value in wanted.items()):
        await link.api(f"STREAM.UPDATE.{JOBS}", {**config, **wanted})


async def make_lane(link: NatsLink, name: str, subject: str) -> None:
    """Makes the consumer of one lane, unless it is there."""
    config = {
        "durable_name": name,
        "name": name,
        "filter_subject": subject,
        "ack_policy": "explicit",
        "ack_wait": LEASE_SECONDS * _SECOND,
        "max_ack_pending": -1,
        "max_waiting": 4096,
        "deliver_policy": "all",
        "replay_policy": "instant",
        # Only without leases and without anybody who asks; what still waits is found by its subject.
        "inactive_threshold": _LANE_IDLE_SECONDS * _SECOND,
    }
    await _create(link, f"CONSUMER.CREATE.{JOBS}.{name}.{subject}", {"stream_name": JOBS, "config": config})


async def leased(link: NatsLink, name: str) -> int:
    """How many jobs of a lane are leased; an acknowledgement that is still on its way counts as a lease."""
    try:
        info = await link.api(f"CONSUMER.INFO.{JOBS}.{name}")
    except Refused as refused:
        if refused.code != 10014:  # no such consumer
            raise
        return 0
    return int(info["num_ack_pending"])


async def remove_lane(link: NatsLink, name: str) -> None:
    """Removes a lane's consumer, if it is there; its jobs stay."""
    try:
        await link.api(f"CONSUMER.DELETE.{JOBS}.{name}")
    except Refused as refused:
        if refused.code != 10014:  # no such consumer
            raise


async def job_counts(link: NatsLink, pattern: str = f"{_EXECUTE}.>") -> dict[str, int]:
    """The job subjects that match and hold anything, each with how many jobs."""
    return await subjects(link, JOBS, pattern)


async def subjects(link: NatsLink, stream: str, pattern: str) -> dict[str, int]:
    """A stream's subjects that match `pattern` and hold anything, each with the number of its messages."""
    found: dict[str, int] = {}
    while True:
        answer = await link.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": len(found)})
        page = answer["state"].get("subjects") or {}
        found.update(page)
        if not page or len(found) >= answer.get("total", 0):
            return found


async def _create(link: NatsLink, call: str, config: dict[str, Any]) -> None:
    try:
        await link.api(call, config)
    except Refused as refused:
        if refused.code not in (10058, 10148):  # already there: another process was first
            raise
