"""JSON that every reader reads alike, or not at all. Asked before anything else looks at a request's body.

Libraries differ on doubled keys, NaN, numbers without end, lone surrogates and deep nesting; what one of
them lets through another one stumbles over later, perhaps only when it is read back from the store.
"""

import json
import re
from typing import Any, Final

from mcp_agents.kernel.errors import Invalid

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 64
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')


def parse(body: bytes) -> Any:
    """The value of a JSON document. Raises `Invalid` (`JSON_INVALID`) with what is wrong with it."""
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise _invalid(f"it is nested more than {MAX_DEPTH} deep")
    try:
        value = _decode(body.decode("utf-8"))
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as cause:
        raise _invalid("it is not UTF-8, or holds half of a surrogate pair") from cause
    except RecursionError as cause:
        raise _invalid("it is nested too deep") from cause
    except ValueError as cause:
        raise _invalid("it is malformed") from cause
    return value


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for byte in _STRING.sub(b"", body):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _invalid("an object has a key twice")
    return found


def _number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _invalid(f"a number has more than {MAX_DIGITS} digits")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if len(text) > MAX_DIGITS or value in (float("inf"), float("-inf")):
        raise _invalid("a number is out of range")
    return value


def _constant(text: str) -> float:
    raise _invalid(f"{text} is not JSON")


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_number, parse_float=_fraction, parse_constant=_constant
).decode


def _invalid(why: str) -> Invalid:
    return Invalid("JSON_INVALID", f"The body cannot be read as JSON: {why}.", "Send one plain UTF-8 JSON document.")
