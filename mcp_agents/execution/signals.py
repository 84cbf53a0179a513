"""What travels about a run without being stored: pieces of text on `delta`; cancelling, and notes, on `control`.

Signals may be lost; the log is what counts. The loop, the dispatcher and `posting` send them, followers and
workers hear them.
"""

from typing import Final

import msgspec
from msgspec import Struct

from mcp_agents.kernel.events import Posted

DELTA: Final = "delta"
CONTROL: Final = "control"


class Delta(Struct, frozen=True):
    """A piece of a turn's text: `offset` is its place in the turn, in characters."""

    turn: int
    offset: int
    text: str


class Cancel(Struct, frozen=True, tag=True):
    """The run has been cancelled in its log: whoever holds it should stop now."""

    execution_id: str


class Note(Struct, frozen=True, tag=True):
    """An event from outside, for whoever holds the run to append."""

    execution_id: str
    event: Posted


Control = Cancel | Note

encode: Final = msgspec.json.Encoder().encode
decode_delta: Final = msgspec.json.Decoder(Delta).decode
decode_control: Final = msgspec.json.Decoder(Control).decode
