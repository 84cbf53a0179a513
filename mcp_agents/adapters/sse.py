"""Server-sent events out of bytes, in one pass: the data of each event, as it came.

Names, ids and comments of events are passed over. An event counts once its blank line has come, so what is
left at the end of the bytes is none, as the specification of event streams says. Nothing is read here.

Above it: `openai_wire_model`.
"""

from typing import Final

from mcp_agents.adapters.model_errors import model_error

LONGEST_LINE: Final = 4 << 20
"""Bytes of one line. A whole tool call may come in one event."""


class Events:
    """The events of one stream, fed with its bytes."""

    __slots__ = ("_after_return", "_data", "_pending")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._after_return = False

    def feed(self, received: bytes) -> list[bytes]:
        """The data of the events that these bytes end.

        Raises `Exhausted` (MODEL_ANSWER_TOO_LARGE) for a line that is longer than `LONGEST_LINE`.
        """
        if b"\r" in received or self._after_return:
            received = self._plain(received)
        lines = received.split(b"\n")
        if self._pending:
            self._pending += lines[0]
            if len(self._pending) > LONGEST_LINE:
                raise model_error("MODEL_ANSWER_TOO_LARGE")
            if len(lines) == 1:
                return []
            lines[0] = bytes(self._pending)
            self._pending.clear()
        last = lines.pop()
        found: list[bytes] = []
        data = self._data
        for line in lines:
            if not line:
                if data:
                    found.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
            elif line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        self._pending += last
        return found

    def _plain(self, received: bytes) -> bytes:
        """The bytes with every kind of line end written as one LF, also a CRLF that is cut between two calls."""
        if self._after_return and received.startswith(b"\n"):
            received = received[1:]
            self._after_return = received.endswith(b"\r")
        elif received:
            self._after_return = received.endswith(b"\r")
        return received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
