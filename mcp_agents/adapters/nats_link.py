"""One connection to NATS, and the few exchanges every port over it is made of.

A durable write is fenced by the expected sequence of its subject and identified by an id of its own, so
that a lost acknowledgement is settled by reading, never by guessing (`store`). Ports stand above; the
subjects they use come from the kernel. It creates no stream: that is `nats_topology`.
"""

import asyncio
import json
import logging
import secrets
from base64 import b64decode
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import anyio
import msgspec
import nats
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_client import ListeningClient
from mcp_agents.kernel.errors import Unavailable

log = logging.getLogger("mcp_agents.nats")

REQUEST_TIMEOUT: Final = 1.0
"""Seconds for one exchange. A request in flight when the server dies waits this long, so it is short."""
PATIENCE: Final = 15.0
"""Seconds over which a durable write or a read is tried again before it is `Unavailable`."""

_APPEND_ID: Final = "Cb-Append-Id"
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_WRONG_SEQUENCE: Final = (10071, 10164)
_TRANSIENT: Final = (
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.StaleConnectionError,
    nats.errors.OutboundBufferLimitError,
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where NATS listens and how to sign in."""

    url: str
    user: str = ""
    password: str = ""


class _Ack(Struct, frozen=True):
    """What JetStream answers to a write: where it was stored, or why it was not."""

    seq: int = 0
    error: dict[str, Any] | None = None


_decode_ack: Final = msgspec.json.Decoder(_Ack).decode


class Taken(Exception):
    """The subject's last sequence is not the expected one; `sequence` is what is there now (0: nothing)."""

    def __init__(self, sequence: int) -> None:
        super().__init__(str(sequence))
        self.sequence = sequence


class Refused(Exception):
    """JetStream answered with an error that trying again does not mend."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code


def unavailable() -> Unavailable:
    """What a caller is told while NATS does not answer."""
    return Unavailable(
        "STORE_UNAVAILABLE",
        "The store does not answer; nothing was lost.",
        "Try again shortly; an operator can run `mcp-agents doctor`.",
        retry_after_ms=2000,
    )


class NatsLink:
    """Requests, durable writes and batched reads over one connection."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._on_gap: list[Callable[[], None]] = []
        self._inbox = client.new_inbox()
        self.exchanges: dict[str, Exchange] = {}
        self._exchange_number = 0

    async def open(self) -> None:
        """Subscribes the one inbox that all exchanges with several answers share."""
        await self.client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def _answered(self, message: Msg) -> None:
        if exchange := self.exchanges.get(message.subject):
            exchange.arrived(message)

    def exchange(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> "Exchange":
        """One request with any number of answers, on the shared inbox; a context manager."""
        self._exchange_number += 1
        reply = f"{self._inbox}.{self._exchange_number}"
        return Exchange(self, reply, subject, payload, headers)

    def on_gap(self, notify: Callable[[], None]) -> None:
        """Calls `notify` whenever live messages may have been missed (a reconnect, a slow reader)."""
        self._on_gap.append(notify)

    def gap(self) -> None:
        """Tells everyone who follows live messages to read again."""
        for notify in self._on_gap:
            notify()

    async def heard(self) -> None:
        """Returns when the server knows of every subscription made so far. Raises `Unavailable`."""
        try:
            await self.client.flush()
        except nats.errors.Error as cause:
            raise unavailable() from cause

    async def request(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """One exchange, tried again over `PATIENCE` while the server is away. Raises `Unavailable`."""
        try:  # the way it nearly always goes
            return await self._once(subject, payload, headers)
        except _TRANSIENT as cause:
            log.debug("request on %s will be tried again: %s", subject, type(cause).__name__)
        with anyio.move_on_after(PATIENCE):
            while True:
                await anyio.sleep(0.05)
                with suppress(*_TRANSIENT):
                    return await self._once(subject, payload, headers)
        raise unavailable()

    async def _once(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> Msg:
        async with self.exchange(subject, payload, headers) as answers:
            answer = await answers.next(REQUEST_TIMEOUT)
        if answer.headers and answer.headers.get("Status") == "503":
            raise nats.errors.NoRespondersError
        return answer

    async def api(self, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A JetStream API call. Raises `Refused` with the server's error code."""
        answer = json.loads((await self.request(f"$JS.API.{call}", json.dumps(body or {}).encode())).data)
        if "error" in answer:
            error = answer["error"]
            raise Refused(error.get("err_code", error.get("code", 0)), error.get("description", ""))
        result: dict[str, Any] = answer
        return result

    async def store(
        self, stream: str, subject: str, payload: bytes, expected: int, headers: dict[str, str] | None = None
    ) -> int:
        """Writes durably when `expected` is the subject's last sequence; returns the new sequence.

        Sends the same append id until it is acknowledged; when the server says that something else is
        there, reads it: with our id it is ours and has landed, otherwise `Taken`.
        """
        append_id = secrets.token_hex(16)
        fenced = {**(headers or {}), _EXPECTED: str(expected), _APPEND_ID: append_id}
        patient_until = anyio.current_time() + PATIENCE
        while True:
            ack = _decode_ack((await self.request(subject, payload, fenced)).data)
            error = ack.error
            if error is None:
                return ack.seq
            if error.get("err_code") not in _WRONG_SEQUENCE:
                if error.get("code") == 503:  # no leader, no room: it may pass
                    if anyio.current_time() > patient_until:
                        raise unavailable()
                    await anyio.sleep(0.05)
                    continue
                raise Refused(error.get("err_code", 0), error.get("description", ""))
            found = await self._first_after(stream, subject, expected)
            if found is None:
                last = await self.last(stream, subject)
                raise Taken(last[0] if last else 0)
            sequence, found_id = found
            if found_id == append_id:
                return sequence
            raise Taken(sequence)

    async def _first_after(self, stream: str, subject: str, sequence: int) -> tuple[int, str] | None:
        """The sequence and append id of the subject's first message behind `sequence`, from the leader."""
        query = {"seq": sequence + 1, "next_by_subj": subject}
        try:
            message = (await self.api(f"STREAM.MSG.GET.{stream}", query))["message"]
        except Refused as refused:
            if refused.code == 10037:  # no message found
                return None
            raise
        raw = b64decode(message.get("hdrs", "")).decode("utf-8", "replace")
        found = [line.partition(":")[2].strip() for line in raw.splitlines() if line.startswith(_APPEND_ID)]
        return int(message["seq"]), found[0] if found else ""

    async def last(self, stream: str, subject: str) -> tuple[int, Msg] | None:
        """The subject's last message and its sequence, or None."""
        message = await self.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"")
        headers = message.headers or {}
        if "Status" in headers:
            if headers["Status"] == "404":
                return None
            raise Refused(int(headers["Status"]), headers.get("Description", ""))
        return int(headers["Nats-Sequence"]), message

    async def each(
        self, stream: str, subject: str, after: int, batch: int = 256
    ) -> AsyncGenerator[tuple[int, Msg], None]:
        """Every stored message of `subject` (wildcards allowed) behind `after`, in order, in batches."""
        while True:
            query = json.dumps({"seq": after + 1, "next_by_subj": subject, "batch": batch}).encode()
            messages = await self._gather(f"$JS.API.DIRECT.GET.{stream}", query)
            more = 0
            for message in messages:
                headers = message.headers or {}
                if "Status" in headers:
                    more = int(headers.get("Nats-Num-Pending", "0"))
                    continue
                after = int(headers["Nats-Sequence"])
                yield after, message
            if not more:
                return

    async def _gather(self, subject: str, payload: bytes) -> list[Msg]:
        """All answers to one request up to the status message that ends them; tried again as a whole."""
        with suppress(*_TRANSIENT):
            return await self._gather_once(subject, payload)
        with anyio.move_on_after(PATIENCE):
            while True:
                await anyio.sleep(0.05)
                with suppress(*_TRANSIENT):
                    return await self._gather_once(subject, payload)
        raise unavailable()

    async def _gather_once(self, subject: str, payload: bytes) -> list[Msg]:
        messages: list[Msg] = []
        async with self.exchange(subject, payload) as answers:
            while True:
                messages.append(await answers.next(REQUEST_TIMEOUT))
                if "Status" in (messages[-1].headers or {}):
                    return messages


class Exchange:
    """A request under way, and its answers as they come. Entering it sends the request."""

    __slots__ = ("_bell", "_headers", "_link", "_payload", "_reply", "_subject", "_waiting")

    def __init__(
        self, link: NatsLink, reply: str, subject: str, payload: bytes, headers: dict[str, str] | None
    ) -> None:
        self._link, self._reply = link, reply
        self._subject, self._payload, self._headers = subject, payload, headers
        self._waiting: deque[Msg] = deque()
        self._bell: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._link.exchanges[self._reply] = self
        await self._link.client.publish(self._subject, self._payload, reply=self._reply, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        del self._link.exchanges[self._reply]

    def arrived(self, message: Msg) -> None:
        """Takes in an answer."""
        self._waiting.append(message)
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def next(self, timeout: float) -> Msg:
        """The next answer. Raises nats' `TimeoutError` when none comes within `timeout` seconds."""
        if not self._waiting:
            loop = asyncio.get_running_loop()
            self._bell = loop.create_future()
            expiry = loop.call_later(timeout, _expire, self._bell)
            try:
                await self._bell
            finally:
                expiry.cancel()
        return self._waiting.popleft()


def _expire(bell: "asyncio.Future[None]") -> None:
    if not bell.done():
        bell.set_exception(nats.errors.TimeoutError())


@asynccontextmanager
async def connect(endpoint: Endpoint, name: str) -> AsyncIterator[NatsLink]:
    """A connection that comes back by itself, closed on the way out. Raises `Unavailable` if it cannot start."""
    link: list[NatsLink] = []

    async def noticed(error: BaseException | None = None) -> None:
        if isinstance(error, nats.errors.SlowConsumerError) or error is None:
            for each in link:
                each.gap()
        else:
            log.debug("nats: %s", error)

    client = ListeningClient()
    try:
        with anyio.fail_after(5):
            await client.connect(
                endpoint.url,
                name=name,
                user=endpoint.user or None,
                password=endpoint.password or None,
                error_cb=noticed,
                reconnected_cb=noticed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds; the library takes fractions
                connect_timeout=2,
                allow_reconnect=True,
                pending_size=64 * 1024 * 1024,
            )
    except (nats.errors.Error, OSError, TimeoutError) as cause:
        with suppress(nats.errors.Error, OSError):
            await client.close()
        raise Unavailable(
            "NATS_UNREACHABLE",
            f"NATS at {_without_credentials(endpoint.url)} does not answer.",
            "Check [nats] url and that the server runs; leave it empty for the embedded server.",
        ) from cause
    made = NatsLink(client)
    link.append(made)
    await made.open()
    try:
        yield made
    finally:
        with anyio.move_on_after(5, shield=True), suppress(nats.errors.Error, OSError):
            await client.close()


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]
