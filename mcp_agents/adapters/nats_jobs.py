"""One worker's side of the work queue: which lanes there are, what waits in them, and whom to ask for how much.

Whose turn it is decides `kernel.fairness`; here is the wire. A worker asks in two ways. Where it knows that
jobs wait it **asks** for them, never for more than it has room for, and gets an answer at once. Where nothing
waits it **stands** in line with a few requests on the lanes used last, `RESERVE` in all, so that a job
there comes without a round trip. What arrives without room, which only standing requests can bring, is given
back at once.

A worker that has been full, or knows a lane on which it cannot stand, also listens to the **news** of every
stored job, so that it knows who waits when a slot frees. Others hear only of lanes that were long unused:
each piece of news costs about as much as a third of a job's own way. News can be lost and leases run out
silently, so the stream's subjects are listed now and then: every second while somebody else's jobs are
there, else every `_IDLE_LOOK_SECONDS`.
"""

import json
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic
from typing import Final, NamedTuple

import anyio
import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mcp_agents.adapters.nats_link import NatsLink, Refused
from mcp_agents.adapters.nats_topology import (
    JOBS,
    MAX_LANES,
    OPENED,
    QUEUED,
    job_counts,
    leased,
    make_lane,
    remove_lane,
)
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.fairness import Turns
from mcp_agents.kernel.job import Delivery, Job, Lane, Weights
from mcp_agents.kernel.tasks import together
from mcp_agents.kernel.tenancy import job_subject, lane_of

log = logging.getLogger("mcp_agents.nats")

RESERVE: Final = 32
"""Jobs that standing requests may bring beyond the room that is asked for."""

_NEXT: Final = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS}"
_EXECUTE: Final = "cb.agent.execute"
_STAND_SECONDS: Final = 10
"""A request that reaches a consumer while it is being removed is never answered: so long may a job then wait."""
_STANDING_HERE: Final = 8
_LOOK_SECONDS: Final = 1.0
_IDLE_LOOK_SECONDS: Final = 10.0
_NEWS_SECONDS: Final = 10.0
_FORGET_SECONDS: Final = 300.0
_ANSWER_SECONDS: Final = 5.0
_FRESH_SECONDS: Final = 0.1
_FRESH_WAIT_SECONDS: Final = 0.02
"""A job may be heard of a moment before its consumer knows of it: then an ask waits so long for the first."""
_MAKING: Final = 16
_MADE_TOGETHER: Final = 128
_TENANT_SHARE: Final = 4
"""One tenant's lanes are at most one in so many of all."""


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """A job's payload."""

    v: int
    execution_id: str


_decode: Final = msgspec.json.Decoder(Wire).decode


class _Origin(NamedTuple):
    """What the reply subject of a delivered message says about it."""

    delivered: int
    sequence: int
    pending: int

    @classmethod
    def of(cls, reply: str) -> "_Origin":
        """Reads `$JS.ACK.[domain.account.]stream.consumer.delivered.sequence.…`; faster than `metadata`."""
        parts = reply.split(".")
        start = 4 if len(parts) == 9 else 6
        return cls(int(parts[start]), int(parts[start + 1]), int(parts[start + 4]))


def lane_name(lane: Lane) -> str:
    """The lane's consumer. A tenant has no underscore and a priority neither, so no two lanes share a name."""
    return f"{lane.tenant}_{lane.agent_id}_{lane.priority}"


def news(prefix: str, lane: Lane) -> str:
    """The core subject behind `prefix` that stands for the lane."""
    return prefix + job_subject(lane).removeprefix(_EXECUTE)


class NatsDelivery:
    """A leased job over its message."""

    def __init__(
        self, link: NatsLink, message: Msg, lane: Lane, origin: _Origin, ended: Callable[[Lane], None]
    ) -> None:
        self._link, self._message, self._lane = link, message, lane
        self._ended: Callable[[Lane], None] | None = ended
        self.job = Job(lane.tenant, lane.agent_id, _decode(message.data).execution_id, lane.priority)
        self.attempt = origin.delivered
        self.number = origin.sequence

    # A signal that is lost costs a redelivery, which the fenced log makes harmless; so none of these raises.

    async def keep(self) -> None:
        with suppress(nats.errors.Error):
            await self._message.in_progress()

    async def done(self) -> None:
        self.leave()
        with suppress(nats.errors.Error):
            await self._message.ack()

    async def release(self, delay: float = 0) -> None:
        self.leave()
        with suppress(nats.errors.Error, AgentsError):
            if delay > 0:
                await self._message.nak(delay=delay)
                return
            # Answered when the job can be had again; only then is it worth telling.
            await self._link.request(self._message.reply, b"-NAK")
            await self._link.client.publish(news(OPENED, self._lane), b"")

    def leave(self) -> None:
        ended, self._ended = self._ended, None
        if ended:
            ended(self._lane)


@dataclass(slots=True)
class _Ask:
    """A request for jobs that are known to wait; what the lane does not have is answered at once."""

    number: int
    left: int
    heard: int
    at: float


@dataclass(slots=True)
class _Known:
    """A lane as this worker sees it."""

    lane: Lane
    subject: str
    number: int
    used: float
    made: bool = False
    resting: bool = False
    """Refused for now; the next look at the stream tries again."""
    waiting: int = 0
    heard: int = 0
    """Jobs that were stored in it as far as we heard: an old "there is none" does not outweigh later news."""
    news_at: float = 0.0
    held: int = 0
    foreign: int = 0
    """Jobs that were stored there and not ours when we last looked."""
    standing: int = 0
    standing_until: float = 0.0
    asks: deque[_Ask] = field(default_factory=deque)

    @property
    def asked(self) -> int:
        return sum(ask.left for ask in self.asks)


class NatsJobs:
    """A stream of jobs with as much asked for as there is room; `tend` keeps its lanes."""

    def __init__(self, link: NatsLink, weights: Weights) -> None:
        self._link = link
        self._turns = Turns(weights)
        self._inbox = link.client.new_inbox()
        self._lanes: OrderedDict[Lane, _Known] = OrderedDict()  # the one used last stands last
        self._by_number: dict[int, _Known] = {}
        self._hungry: dict[Lane, _Known] = {}
        self._running: Counter[Lane] = Counter()  # held or asked for
        self._numbers = 0
        self._asked = 0
        self._standing = 0
        self._room = 0
        self._arrived: deque[Delivery] = deque()
        self._surplus: deque[Delivery] = deque()
        self._bell = anyio.Event()
        self._chores = anyio.Event()
        self._look_at = 0.0
        self._news: Subscription | None = None
        self._news_until = 0.0

    async def take(self, room: int, wait: float) -> Sequence[Delivery]:
        self._room = room
        while len(self._arrived) > room:
            self._give_back(self._arrived.pop())
        with anyio.move_on_after(wait):
            while not self._arrived:
                self._bell = anyio.Event()
                await self._request()
                await self._bell.wait()
        taken = list(self._arrived)
        self._arrived.clear()
        self._room -= len(taken)
        if self._room <= 0:
            self._want_news()
        return taken

    # Asking

    async def _request(self) -> None:
        free = self._room - len(self._arrived) - self._asked
        if free <= 0:
            return
        waiting = {lane: more for lane, known in self._hungry.items() if (more := _more(known)) > 0}
        with suppress(nats.errors.Error):
            for lane, count in self._turns.grant(free, waiting, self._running).items():
                free -= count
                await self._ask(self._lanes[lane], count)
            if free > 0:
                await self._stand(free)

    async def _ask(self, known: _Known, count: int) -> None:
        self._numbers += 1
        known.asks.append(_Ask(self._numbers, count, known.heard, monotonic()))
        self._asked += count
        self._running[known.lane] += count
        request: dict[str, object] = {"batch": count, "no_wait": True}
        if monotonic() - known.news_at < _FRESH_SECONDS:
            request["expires"] = int(_FRESH_WAIT_SECONDS * 1_000_000_000)  # only waited for if there is nothing at all
        await self._pull(known, str(self._numbers), request)

    async def _stand(self, free: int) -> None:
        """Spreads standing requests over the lanes that were used last and where nothing waits."""
        width = min(RESERVE, len(self._lanes))
        share = max(1, min(free, RESERVE, _STANDING_HERE * width) // width) if width else 0
        for known in list(islice(reversed(self._lanes.values()), width)):
            more = min(share - known.standing, RESERVE - self._standing)
            if more <= 0 or known.standing > share // 2 or not known.made or known.resting or known.asks:
                if not (known.standing or known.asks or known.waiting):
                    self._want_news()  # nothing would tell us of a job there
                continue
            known.standing += more
            self._standing += more
            known.standing_until = monotonic() + _STAND_SECONDS + 2
            await self._pull(known, "s", {"batch": more, "expires": _STAND_SECONDS * 1_000_000_000})

    async def _pull(self, known: _Known, kind: str, request: dict[str, object]) -> None:
        reply = f"{self._inbox}.{known.number}.{kind}"
        await self._link.client.publish(f"{_NEXT}.{lane_name(known.lane)}", json.dumps(request).encode(), reply=reply)

    # Answers

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hears answers and news while the context is open; on the way out, what nobody took is given back."""
        client = self._link.client
        subscriptions = [
            await client.subscribe(f"{self._inbox}.*.*", cb=self._answered),
            await client.subscribe(f"{OPENED}.>", cb=self._heard),
        ]
        await self._link.heard()  # news from here on; what was there before is seen by looking
        try:
            yield
        finally:
            with anyio.move_on_after(2, shield=True), suppress(nats.errors.Error):
                for subscription in (*subscriptions, *([self._news] if self._news else [])):
                    await subscription.unsubscribe()
                for delivery in (*self._arrived, *self._surplus):
                    await delivery.release()

    async def _answered(self, message: Msg) -> None:
        headers = message.headers or {}
        if status := headers.get("Status"):
            self._refused(message.subject, status, headers)
        elif lane := lane_of(message.subject):
            await self._delivered(self._known(lane), message)
        self._bell.set()

    async def _delivered(self, known: _Known, message: Msg) -> None:
        if known.standing:
            known.standing -= 1
            self._standing -= 1
            self._turns.took(known.lane)
        elif known.asks:
            known.asks[0].left -= 1
            self._unasked(known, 1)
            if not known.asks[0].left:
                known.asks.popleft()
        origin = _Origin.of(message.reply)
        try:
            delivery = NatsDelivery(self._link, message, known.lane, origin, self._ended)
        except msgspec.MsgspecError:
            log.error("a message on %s is no job and is dropped", known.subject)
            with suppress(nats.errors.Error):
                await message.term()
            return
        known.made = True
        known.held += 1
        self._running[known.lane] += 1
        self._believe(known, max(origin.pending, known.waiting - 1))
        self._touch(known)
        if len(self._arrived) < self._room:
            self._arrived.append(delivery)
        else:
            self._give_back(delivery)

    def _refused(self, inbox: str, status: str, headers: dict[str, str]) -> None:
        """The end of a request that brought less than it might have, or nothing."""
        _, number, kind = inbox.rsplit(".", 2)
        known = self._by_number.get(int(number))
        if known is None:
            return
        if kind != "s" and status in ("404", "408"):
            self._none_left(known, int(kind))
        elif status == "408":
            self._stood_down(known, int(headers.get("Nats-Pending-Messages", known.standing)))
        else:
            self._forget_requests(known)
            known.made = known.made and not (status == "503" or "Deleted" in headers.get("Description", ""))
            known.resting = known.made  # without a leader, or too many ask: not again in the same breath
            self._want_news()
            self._look_within(_LOOK_SECONDS)
            self._chores.set()

    def _none_left(self, known: _Known, number: int) -> None:
        heard = known.heard
        while known.asks and known.asks[0].number <= number:
            ask = known.asks.popleft()
            self._unasked(known, ask.left)
            self._turns.refund(known.lane, ask.left)
            heard = ask.heard
        self._believe(known, known.heard - heard)

    def _stood_down(self, known: _Known, count: int) -> None:
        count = min(count, known.standing)
        known.standing -= count
        self._standing -= count

    def _forget_requests(self, known: _Known) -> None:
        self._stood_down(known, known.standing)
        for ask in known.asks:
            self._unasked(known, ask.left)
        known.asks.clear()

    def _unasked(self, known: _Known, count: int) -> None:
        self._asked -= count
        self._count_running(known.lane, -count)

    def _count_running(self, lane: Lane, change: int) -> None:
        self._running[lane] += change
        if self._running[lane] <= 0:
            del self._running[lane]

    async def _heard(self, message: Msg) -> None:
        """News: a job was stored, or given back, on this lane."""
        lane = lane_of(_EXECUTE + message.subject.removeprefix(QUEUED).removeprefix(OPENED))
        if lane is None:
            return
        known = self._known(lane)
        known.heard += 1
        self._touch(known)
        known.news_at = known.used
        self._look_within(_LOOK_SECONDS)
        self._believe(known, known.waiting + 1)
        if not known.standing:  # else it comes by itself
            self._bell.set()

    def _ended(self, lane: Lane) -> None:
        self._count_running(lane, -1)
        if known := self._lanes.get(lane):
            known.held -= 1

    def _give_back(self, delivery: Delivery) -> None:
        self._surplus.append(delivery)
        self._chores.set()

    def lost(self) -> None:
        """The connection was away: the server has forgotten what we asked for, and news went by."""
        for known in self._lanes.values():
            self._forget_requests(known)
        self._look_at = 0.0
        self._chores.set()
        self._bell.set()

    # What is known

    def _known(self, lane: Lane) -> _Known:
        known = self._lanes.get(lane)
        if known is None:
            self._numbers += 1
            known = _Known(lane, job_subject(lane), self._numbers, monotonic())
            self._lanes[lane] = self._by_number[known.number] = known
            if len(self._lanes) > RESERVE:
                self._want_news()
        return known

    def _touch(self, known: _Known) -> None:
        known.used = monotonic()
        self._lanes.move_to_end(known.lane)

    def _believe(self, known: _Known, waiting: int) -> None:
        known.waiting = waiting
        if waiting > 0:
            self._hungry[known.lane] = known
            if not known.made:
                self._chores.set()
        else:
            self._hungry.pop(known.lane, None)

    def _look_within(self, seconds: float) -> None:
        at = monotonic() + seconds
        if at < self._look_at:
            self._look_at = at
            self._chores.set()

    def _want_news(self) -> None:
        self._news_until = monotonic() + _NEWS_SECONDS
        if not self._news:
            self._chores.set()

    # Chores

    async def tend(self) -> None:
        """Until cancelled: gives back what there was no room for, looks at the stream, makes missing lanes."""
        while True:
            self._chores = anyio.Event()
            try:
                while self._surplus:
                    await self._surplus.popleft().release()
                await self._make_missing()
                await self._listen_as_wanted()
                if monotonic() >= self._look_at:
                    await self._look()
            except (AgentsError, Refused, nats.errors.Error) as error:
                log.warning("the job queue cannot be looked at and will be again: %s", error)
                self._look_at = monotonic() + _LOOK_SECONDS
            with anyio.move_on_after(max(0.0, self._look_at - monotonic())):
                await self._chores.wait()

    async def _listen_as_wanted(self) -> None:
        """Begins or ends to listen to the news, and looks at the stream for what went by in between."""
        wanted = monotonic() < self._news_until or len(self._lanes) > RESERVE
        if wanted and not self._news:
            self._news = await self._link.client.subscribe(f"{QUEUED}.>", cb=self._heard)
            await self._link.heard()
            self._look_at = 0.0
        elif self._news and not wanted:
            subscription, self._news = self._news, None
            await subscription.unsubscribe()
            self._look_at = 0.0

    async def _look(self) -> None:
        """Compares what is stored with what we hold: the rest waits, or is somebody else's and may come back."""
        self._look_at = monotonic() + _IDLE_LOOK_SECONDS
        counts = {
            lane: count for subject, count in (await job_counts(self._link)).items() if (lane := lane_of(subject))
        }
        now = monotonic()
        for lane, count in counts.items():
            self._known(lane).foreign = count - self._known(lane).held
        for known in list(self._lanes.values()):
            self._look_over(known, there=known.lane in counts, now=now)
        self._bell.set()

    def _look_over(self, known: _Known, *, there: bool, now: float) -> None:
        known.resting = False
        lost_answer = known.asks and now - known.asks[0].at > _ANSWER_SECONDS
        if lost_answer or (known.standing and now > known.standing_until):
            self._forget_requests(known)
        if not there:
            known.foreign = 0
            if now - known.used > _FORGET_SECONDS:
                self._forget(known)
        elif known.foreign > 0:
            self._lanes.move_to_end(known.lane)  # a lease there may run out: a good place to stand
            self._look_within(_LOOK_SECONDS)
            if not known.standing:
                self._believe(known, max(known.waiting, known.foreign))

    def _forget(self, known: _Known) -> None:
        if known.held or known.asks:
            return
        self._forget_requests(known)
        self._believe(known, 0)
        self._turns.forget(known.lane)
        del self._lanes[known.lane], self._by_number[known.number]

    async def _make_missing(self) -> None:
        missing = [known for known in self._hungry.values() if not (known.made or known.resting)]
        if not missing:
            return
        if len(missing) > _MADE_TOGETHER:
            self._chores.set()  # the others next
            del missing[_MADE_TOGETHER:]
        made = Counter(known.lane.tenant for known in self._lanes.values() if known.made)
        limit = anyio.CapacityLimiter(_MAKING)
        async with together() as tasks:
            for known in missing:
                if await self._make_way(known.lane.tenant, made):
                    made[known.lane.tenant] += 1
                    tasks.start_soon(self._make, known, limit)
                else:
                    known.resting = True
                    self._look_within(_LOOK_SECONDS)
        for known in missing:  # all at once, so that whose lane was made first has nothing from it
            known.made = not known.resting
        self._bell.set()

    async def _make(self, known: _Known, limit: anyio.CapacityLimiter) -> None:
        async with limit:
            try:
                await make_lane(self._link, lane_name(known.lane), known.subject)
            except (AgentsError, Refused, nats.errors.Error) as error:
                log.warning("no consumer for %s: %s", known.subject, error)
                known.resting = True
                self._look_within(_LOOK_SECONDS)

    async def _make_way(self, tenant: str, made: Counter[str]) -> bool:
        """Whether the tenant may have one more lane, if need be after removing an idle one."""
        if made[tenant] >= MAX_LANES // _TENANT_SHARE:
            of = tenant
        elif made.total() >= MAX_LANES:
            of = ""
        else:
            return True
        while idle := self._idle_lane(of):
            # Removing a consumer forgets its leases and what was acknowledged a moment ago: those jobs would run again.
            if idle_leased := await leased(self._link, lane_name(idle.lane)):
                idle.foreign = idle_leased
                continue
            self._forget_requests(idle)
            idle.made = False
            made[idle.lane.tenant] -= 1
            await remove_lane(self._link, lane_name(idle.lane))
            return True
        return False

    def _idle_lane(self, tenant: str) -> _Known | None:
        """The lane, of that tenant or of any, that was idle for longest, as far as we know."""
        for lane, known in self._lanes.items():
            busy = known.waiting or known.held or known.foreign > 0 or known.asks
            if known.made and not busy and tenant in ("", lane.tenant):
                return known
        return None


def _more(known: _Known) -> int:
    """How many jobs are worth asking for now."""
    return known.waiting - known.asked if known.made and not (known.resting or known.standing) else 0
