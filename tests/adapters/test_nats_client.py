"""A connection to the real NATS stays one that hears, whoever stops waiting for what."""

import asyncio
from typing import Any

import anyio
import pytest

from mcp_agents.adapters.nats_link import NatsLink


@pytest.mark.parametrize("steps", range(8))
async def test_a_flush_that_nobody_waits_for_any_more_ends_nothing(link: NatsLink, steps: int) -> None:
    """Cancelled before its ping is written, before its pong came, and about when it comes."""
    for _ in range(3):
        flushing = asyncio.create_task(link.client.flush())
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    with anyio.fail_after(5):
        await link.client.flush()
        assert (await link.api("INFO"))["limits"]
    assert link.client.stats["reconnects"] == 0


async def test_a_client_that_stopped_listening_connects_anew(link: NatsLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw happens once, in the middle of an answer."""
    process: Any = link.client._process_msg
    failed: list[str] = []

    async def fails_once(*arguments: Any) -> None:
        if not failed:
            failed.append("")
            raise RuntimeError("not foreseen")
        await process(*arguments)

    monkeypatch.setattr(link.client, "_process_msg", fails_once)
    with anyio.fail_after(10):
        assert (await link.api("INFO"))["limits"]
    assert link.client.stats["reconnects"] == 1
