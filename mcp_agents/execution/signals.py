"""What travels about a run without being stored: pieces of text on `delta`, and cancelling on `control`.

Signals may be lost; the log is what counts. The loop and the dispatcher send them, followers and workers
hear them.
"""

from typing import Final

import msgspec
from msgspec import Struct

DELTA: Final = "delta"
CONTROL: Final = "control"


class Delta(Struct, frozen=True):
    """A piece of a turn's text: `offset` is its place in the turn, in characters."""

    turn: int
    offset: int
    text: str


class Cancel(Struct, frozen=True):
    """The run has been cancelled in its log: whoever holds it should stop now."""

    execution_id: str


encode: Final = msgspec.json.Encoder().encode
decode_delta: Final = msgspec.json.Decoder(Delta).decode
decode_cancel: Final = msgspec.json.Decoder(Cancel).decode
