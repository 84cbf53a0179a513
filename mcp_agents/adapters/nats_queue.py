"""The `Queue` port on a JetStream work-queue stream with one pull consumer for each lane.

A lease lasts `nats_topology.LEASE_SECONDS` from the delivery or the last `keep`. An acknowledgement is
not fenced, so a worker sends it only after its fenced final append. Publishing needs no consumer: workers
are told of a lane that has not been used lately and make what it lacks (`nats_jobs`).
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from time import monotonic
from typing import Any, Final, NamedTuple

import msgspec
import nats.errors

from mcp_agents.adapters.nats_jobs import NatsJobs, Wire, lane_name, news
from mcp_agents.adapters.nats_link import NatsLink, Refused
from mcp_agents.adapters.nats_topology import JOBS, OPENED, job_counts
from mcp_agents.kernel.errors import Exhausted
from mcp_agents.kernel.job import Depth, Job, Jobs, Lane, Weights
from mcp_agents.kernel.tasks import background
from mcp_agents.kernel.tenancy import lane_of

_STORE_FAILED: Final = 10077
_NO_CONSUMER: Final = 10014
_RETRY_MS: Final = (250, 60_000)
_SAMPLE_SECONDS: Final = 1.0
_SAMPLED_LANES: Final = 1024
_OPENED_SECONDS: Final = 60.0
_OPENED_LANES: Final = 4096


class _Sample(NamedTuple):
    """A lane as it was when somebody last met it full."""

    at: float
    finished: int
    retry_ms: int


class NatsQueue:
    """Jobs over one link."""

    def __init__(self, link: NatsLink) -> None:
        self._link = link
        self._open: set[NatsJobs] = set()
        self._samples: dict[Lane, _Sample] = {}
        self._opened: dict[Lane, float] = {}
        link.on_gap(self._gap)

    async def publish(self, subject: str, job: Job, *, dedup: str) -> None:
        payload = msgspec.json.encode(Wire(v=1, execution_id=job.execution_id))
        answer = json.loads((await self._link.request(subject, payload, {"Nats-Msg-Id": dedup})).data)
        if error := answer.get("error"):
            code, description = error.get("err_code", 0), error.get("description", "")
            if code == _STORE_FAILED and description.startswith("maximum messages"):
                raise Exhausted(
                    "QUEUE_FULL",
                    "As many runs are waiting as may wait; this one was not queued.",
                    "Try again after the time that is given, or start fewer runs at once.",
                    retry_after_ms=await self._retry_ms(job.lane),
                )
            raise Refused(code, description)
        await self._open_lane(job.lane)

    async def _open_lane(self, lane: Lane) -> None:
        """Tells idle workers of a lane that they may not know, now that its job is stored."""
        now = monotonic()
        if now - self._opened.get(lane, -_OPENED_SECONDS) < _OPENED_SECONDS:
            return
        if len(self._opened) >= _OPENED_LANES:
            self._opened.clear()
        self._opened[lane] = now
        with suppress(nats.errors.Error):  # workers also look by themselves
            await self._link.client.publish(news(OPENED, lane), b"")

    @asynccontextmanager
    async def jobs(self, weights: Weights) -> AsyncIterator[Jobs]:
        jobs = NatsJobs(self._link, weights)
        self._open.add(jobs)
        try:
            async with jobs.listening(), background() as tasks:
                tasks.start_soon(jobs.tend)
                yield jobs
        finally:
            self._open.discard(jobs)

    async def counts(self, pattern: str) -> dict[str, int]:
        return await job_counts(self._link, pattern)

    async def purge(self, pattern: str) -> int:
        answer = await self._link.api(f"STREAM.PURGE.{JOBS}", {"filter": pattern})
        return int(answer["purged"])

    async def depths(self) -> list[Depth]:
        leased = {
            each["name"]: int(each["num_ack_pending"]) async for each in self._consumers()
        }  # before the counts: a job that ends in between must not make a lane look negative
        depths = []
        for subject, count in sorted((await self.counts("cb.agent.execute.>")).items()):
            if lane := lane_of(subject):
                running = min(count, leased.get(lane_name(lane), 0))
                depths.append(Depth(*lane, waiting=count - running, running=running))
        return depths

    async def _consumers(self) -> AsyncIterator[dict[str, Any]]:
        offset = 0
        while True:
            answer = await self._link.api(f"CONSUMER.LIST.{JOBS}", {"offset": offset})
            page = answer.get("consumers") or []
            for each in page:
                yield each
            offset += len(page)
            if not page or offset >= answer["total"]:
                return

    async def _retry_ms(self, lane: Lane) -> int:
        """When a full lane may have drained, from how fast it did so lately; asked at most once a second."""
        now = monotonic()
        last = self._samples.get(lane)
        if last and now - last.at < _SAMPLE_SECONDS:
            return last.retry_ms
        try:
            info = await self._link.api(f"CONSUMER.INFO.{JOBS}.{lane_name(lane)}")
        except Refused as refused:
            if refused.code != _NO_CONSUMER:
                raise
            return self._sampled(lane, _Sample(now, 0, _RETRY_MS[1]))  # no worker has been here yet
        leased = int(info["num_ack_pending"])
        finished = int(info["delivered"]["consumer_seq"]) - leased
        if last and finished >= last.finished:
            drained, seconds = finished - last.finished, now - last.at
        else:
            age = datetime.fromisoformat(info["ts"]) - datetime.fromisoformat(info["created"])
            drained, seconds = finished, age.total_seconds()
        depth = int(info["num_pending"]) + leased
        return self._sampled(lane, _Sample(now, finished, retry_after_ms(depth, drained, seconds)))

    def _sampled(self, lane: Lane, sample: _Sample) -> int:
        if len(self._samples) >= _SAMPLED_LANES:
            self._samples.clear()
        self._samples[lane] = sample
        return sample.retry_ms

    def _gap(self) -> None:
        for jobs in self._open:
            jobs.lost()


def retry_after_ms(depth: int, drained: int, seconds: float) -> int:
    """Milliseconds in which `depth` jobs are done if `drained` were done in `seconds`, within bounds."""
    low, high = _RETRY_MS
    if drained <= 0:
        return high
    return min(high, max(low, int(1000 * depth * seconds / drained)))
