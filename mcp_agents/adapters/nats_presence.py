"""Who has the house open, and whether it may be opened: two words that processes of one deployment have for each other.

Every process that has the house open answers on one subject. And while a restore replaces the streams, a stream of its
own says so: it outlives whoever restores, so that a restore that was broken off is finished before anybody serves half
a store. Below: the link; above: the composer, the embedded server and `nats_snapshot`.
"""

from contextlib import suppress
from typing import Final

import nats.errors
from nats.aio.msg import Msg

from mcp_agents.adapters.nats_link import NatsLink, Refused
from mcp_agents.kernel.errors import Conflict

RESTORING: Final = "CB_RESTORING"
_SUBJECT: Final = "cb.restoring.file"
_WHO: Final = "cb.house.who"
_HEARD_SECONDS: Final = 1.0
_NO_STREAM: Final = 10059


async def be_present(link: NatsLink) -> None:
    """Answers for this process for as long as the link lives."""

    async def here(message: Msg) -> None:
        if message.reply:
            await link.client.publish(message.reply, b"here")

    await link.client.subscribe(_WHO, cb=here)


async def present(link: NatsLink) -> int:
    """How many processes have the house open."""
    count = 0
    async with link.exchange(_WHO, b"") as answers:
        with suppress(nats.errors.TimeoutError):
            while True:
                answer = await answers.next(_HEARD_SECONDS)
                if (answer.headers or {}).get("Status") == "503":
                    return count
                count += 1
    return count


async def restoring(link: NatsLink) -> str:
    """What the streams are being replaced by; empty when they are not."""
    try:
        await link.api(f"STREAM.INFO.{RESTORING}")
    except Refused as refused:
        if refused.code != _NO_STREAM:
            raise
        return ""
    found = await link.last(RESTORING, _SUBJECT)
    return found[1].data.decode() if found else "unknown"


async def begin_restoring(link: NatsLink, what: str, replicas: int) -> None:
    """Says so; may be said again."""
    config = {
        "name": RESTORING,
        "subjects": [_SUBJECT],
        "storage": "file",
        "num_replicas": replicas,
        "allow_direct": True,
        "max_msgs_per_subject": 1,
    }
    await link.api(f"STREAM.CREATE.{RESTORING}", config)  # one that is there with this configuration is as good
    await link.request(_SUBJECT, what.encode())


async def end_restoring(link: NatsLink) -> None:
    """Takes the word back."""
    await link.api(f"STREAM.DELETE.{RESTORING}")


async def require_whole(link: NatsLink) -> None:
    """Raises `Conflict` (`RESTORE_UNFINISHED`) while the streams are being replaced."""
    if await restoring(link):
        raise Conflict(
            "RESTORE_UNFINISHED",
            "A restore of this store was begun and has not ended; nothing is served from half of it.",
            "Run `mcp-agents restore` with the same file again; it begins anew and may be repeated.",
        )
