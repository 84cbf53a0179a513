"""Identifiers: a prefix and 26 lower-case base-32 characters of a UUIDv7.

Ids sort by the time they were minted and hold only characters that are safe in a NATS subject, a
key and a URL. Not an authority: a name is not a capability, possession proves nothing.
"""

import re
import secrets
from typing import Final, Literal

from mcp_agents.kernel.clock import Clock

Prefix = Literal["ag", "ex", "eff", "apr", "ts", "cl", "us", "inv", "se", "mem"]

_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuv"  # base32hex: sorts like the number it encodes
_ID: Final = re.compile(r"^(ag|ex|eff|apr|ts|cl|us|inv|se|mem)_[0-9a-v]{26}$")
TENANT: Final = re.compile(r"^[a-z0-9-]{1,40}$")
PLATFORM: Final = "_platform"
"""What belongs to no tenant, where a tenant's name stands else; no tenant can be called so."""
AGENT_NAME: Final = re.compile(r"^[a-z0-9_-]{1,64}$")


def mint(prefix: Prefix, clock: Clock) -> str:
    """A new id, such as `ex_06f0…`, whose order is the order of minting to the millisecond."""
    millis = int(clock.now().timestamp() * 1000)
    number = millis << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def minted_at(identifier: str) -> float:
    """When an id was minted, in seconds since the epoch."""
    number = 0
    for character in identifier.partition("_")[2]:
        number = number << 5 | _ALPHABET.index(character)
    return (number >> 80) / 1000


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether `text` has the form of an id with this prefix."""
    return bool(_ID.fullmatch(text)) and text.startswith(f"{prefix}_")
