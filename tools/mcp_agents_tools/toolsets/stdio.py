"""A tool server as a child process: its own group, next to no environment, lines up to a bound.

The SDK's own stdio transport hands on part of our environment, buffers a line without end and ends its
client at a byte that is not UTF-8; a tool server is foreign code, so none of that will do. Stands below
`upstream`; decides nothing about who may start what (that is `servers`).
"""

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import anyio
import mcp_types as mcp
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

log = logging.getLogger("mcp_agents.toolsets")

LINE_LIMIT: Final = 8 * 1024 * 1024
"""Bytes of one message on the child's output; beyond it the child is cut off."""

_GARBAGE_LIMIT: Final = 100
_LEAVE_SECONDS: Final = 0.5
_KILL_SECONDS: Final = 1.0
_GROUP_SECONDS: Final = 0.25
"""For the killed to be gone; who waits for a parent to take notice of them may stay longer."""
_INHERITED: Final = frozenset({"PATH", "HOME", "SYSTEMROOT"})
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]


@asynccontextmanager
async def child_streams(command: tuple[str, ...], env: dict[str, str]) -> AsyncIterator[Streams]:
    """The message streams of a started child, which dies with its whole process group at the end.

    Raises `OSError` when the program cannot be started and `ValueError` for a NUL in its arguments.
    """
    inherited = {name: value for name, value in get_default_environment().items() if name in _INHERITED}
    process = await anyio.open_process(
        list(command), env={**inherited, **env}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    # Nothing may be awaited between here and the `try`: a cancellation would leak the child.
    to_us, inbox = anyio.create_memory_object_stream[Incoming](0)
    outbox, to_child = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read, process, to_us)
            tasks.start_soon(_write, process, to_child, to_us)
            try:
                yield inbox, outbox
            finally:
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
        for stream in (to_us, inbox, outbox, to_child):
            stream.close()


async def _read(process: Process, to_us: MemoryObjectSendStream[Incoming]) -> None:
    """Lines of the child as messages. Closing `to_us` tells the session that the child is gone."""
    garbage, parts, size = 0, list[bytes](), 0
    with to_us, suppress(*_GONE):
        async for chunk in cast(ByteReceiveStream, process.stdout):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                message = _parsed(b"".join([*parts, end]))
                parts, size = [], 0
                if message is not None:
                    await to_us.send(SessionMessage(message))
                    continue
                garbage += bool(end.strip())
                if garbage > _GARBAGE_LIMIT:
                    log.warning("a stdio tool server wrote more than %d lines that are no messages", _GARBAGE_LIMIT)
                    return
            parts.append(rest)
            size += len(rest)
            if size > LINE_LIMIT:
                log.warning("a stdio tool server wrote a message beyond %d bytes", LINE_LIMIT)
                return


async def _write(
    process: Process, to_child: MemoryObjectReceiveStream[SessionMessage], to_us: MemoryObjectSendStream[Incoming]
) -> None:
    try:
        async with to_child:
            async for item in to_child:
                line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                await cast(ByteSendStream, process.stdin).send(line.encode() + b"\n")
    except _GONE:
        to_us.close()


def _parsed(line: bytes) -> Any:
    """The message on this line, or None for a blank or foreign one."""
    try:
        return mcp.jsonrpc_message_adapter.validate_json(line.decode("utf-8", "replace"), by_name=False)
    except ValueError:
        return None


async def _end(process: Process) -> None:
    """Closes its input, gives it a moment to leave, then ends the group. Every wait is bounded."""
    if process.stdin is not None:
        with suppress(*_GONE):
            await process.stdin.aclose()
    if not await _left(process, _LEAVE_SECONDS):
        _signal_group(process, signal.SIGTERM)
        await _left(process, _KILL_SECONDS)
    # Its children may outlive it; the group is ended in any case.
    _signal_group(process, signal.SIGKILL)
    await _left(process, _KILL_SECONDS)
    with anyio.move_on_after(_GROUP_SECONDS):
        while _signal_group(process, None):
            await anyio.sleep(0.005)
    with suppress(*_GONE):
        await process.aclose()


async def _left(process: Process, seconds: float) -> bool:
    # Not `wait`: it also waits for the pipes, which a grandchild may hold open.
    with anyio.move_on_after(seconds):
        while process.returncode is None:
            await anyio.sleep(0.005)
        return True
    return False


def _signal_group(process: Process, number: signal.Signals | None) -> bool:
    """Sends a signal to the child's group, or only asks; False when nobody is left in it."""
    # The child leads its group, so the group has its number even after it is gone.
    try:
        os.killpg(process.pid, number or 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
