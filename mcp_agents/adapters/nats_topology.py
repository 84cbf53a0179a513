"""The streams and buckets of the house on JetStream, declared once.

`ensure` creates what is missing and never changes what is there. On the embedded server nothing is
created before the store's key has been proved right: a wrong key makes an existing stream look missing,
and creating it again would delete its files (`nats_embedded` asks first).
"""

from typing import Any, Final

from mcp_agents.adapters.nats_link import NatsLink, Refused
from mcp_agents.kernel.store import BUCKETS
from mcp_agents.kernel.tenancy import LOG_SHARDS

JOBS: Final = "CB_JOBS"
JOBS_SUBJECTS: Final = "cb.agent.execute.*.*"
WORKERS: Final = "workers"
OBJECTS: Final = "OBJ_cb_objects"
LEASE_SECONDS: Final = 5
MAX_RUNNING: Final = 20_000
"""Unacknowledged jobs over all workers; hard, and caps what can run at once."""

_SECOND: Final = 1_000_000_000


def log_stream(shard: int) -> str:
    """The stream that holds one shard of the execution logs."""
    return f"CB_EVENTS_{shard}"


def bucket_stream(bucket: str) -> str:
    """The stream behind a key-value bucket."""
    return f"KV_{bucket}"


def streams(replicas: int) -> list[dict[str, Any]]:
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
    jobs = {
        **common,
        "name": JOBS,
        "subjects": [JOBS_SUBJECTS],
        "retention": "workqueue",
        "duplicate_window": 120 * _SECOND,
    }
    objects = {
        **common,
        "name": OBJECTS,
        "subjects": ["$O.cb_objects.C.>", "$O.cb_objects.M.>"],
        "allow_rollup_hdrs": True,
        "discard": "new",
    }
    return [*logs, *buckets, jobs, objects]


async def existing(link: NatsLink) -> set[str]:
    """The names of the streams that are there."""
    names: set[str] = set()
    while True:
        answer = await link.api("STREAM.NAMES", {"offset": len(names)})
        names.update(answer.get("streams") or ())
        if len(names) >= answer["total"]:
            return names


async def ensure(link: NatsLink, replicas: int) -> list[str]:
    """Creates the streams and the consumer that are missing; returns the names of all streams."""
    there = await existing(link)
    wanted = streams(replicas)
    for config in wanted:
        if config["name"] not in there:
            await _create(link, f"STREAM.CREATE.{config['name']}", config)
    await _create(
        link,
        f"CONSUMER.CREATE.{JOBS}.{WORKERS}",
        {
            "stream_name": JOBS,
            "config": {
                "durable_name": WORKERS,
                "name": WORKERS,
                "ack_policy": "explicit",
                "ack_wait": LEASE_SECONDS * _SECOND,
                "max_ack_pending": MAX_RUNNING,
                "max_waiting": 4096,
                "deliver_policy": "all",
                "replay_policy": "instant",
            },
        },
    )
    return [config["name"] for config in wanted]


async def _create(link: NatsLink, call: str, config: dict[str, Any]) -> None:
    try:
        await link.api(call, config)
    except Refused as refused:
        if refused.code not in (10058, 10148):  # already there: another process was first
            raise
