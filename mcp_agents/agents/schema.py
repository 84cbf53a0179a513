"""JSON Schemas that tenants write: taken only when checking against them is bounded, and checked so.

A schema is foreign input that is run, so it is not run before its cost is known. References stay inside
the schema, patterns run on an automaton in linear time, and a schema whose parts multiply (alternatives of
alternatives, recursion in several places) is refused, or the value it would be too costly for is. Pure
functions; the catalog asks when an agent is saved, a run asks of every answer.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple

import jsonschema_rs
import msgspec

from mcp_agents.kernel.errors import Invalid

SCHEMA_LIMIT: Final = 64 * 1024
"""Bytes of a schema as JSON."""
SCHEMA_DEPTH: Final = 32
VALUE_LIMIT: Final = 256 * 1024
"""Bytes of a checked value as JSON."""
VALUE_DEPTH: Final = 64

_TOLD: Final = 16
_TELLING: Final = 300
_USUAL_DEPTH: Final = 8
_STEPS: Final = 200
"""Parts within each other, over references; each takes three frames of the interpreter's stack."""
_VISITS: Final = 50_000
"""Parts times depths that are looked at to tell a cost; a fraction of a second."""
_PATH_COST: Final = 100_000
"""Parts of the schema that one path of `_USUAL_DEPTH` through a value may be compared with."""
_VALUE_COST: Final = 5_000_000
"""Bytes of a value times what one path through it may be compared with: below a second, whatever they are."""
_TELLING_COST: Final = 100_000
"""The same for a value of which every fault is told; of a costlier one the first is."""
_PATTERN_COST: Final = 50
_PATTERN_SIZE: Final = 1 << 16
"""Bytes of a compiled pattern, which with the text decide what running it costs."""

_DRAFTS: Final = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema_rs.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
}
_LATEST: Final = "https://json-schema.org/draft/2020-12/schema"
_REFUSED: Final = frozenset(
    {"$id", "id", "$anchor", "$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef"}
    | {"unevaluatedProperties", "unevaluatedItems"}
)
"""Keywords that move what a reference means, or whose cost cannot be told beforehand."""

_HERE_ONE: Final = ("not", "if", "then", "else")
_HERE_MANY: Final = ("allOf", "anyOf", "oneOf")
_HERE_NAMED: Final = ("dependentSchemas", "dependencies")
_BELOW_ONE: Final = ("additionalProperties", "items", "additionalItems", "contains", "propertyNames")
_BELOW_EITHER: Final = ("properties", "prefixItems", "items")
"""Of their parts a child of the value meets one at most."""


class _Unfit(Exception):
    """Why a schema is not taken, as the end of a sentence."""


def check_schema(schema: dict[str, Any]) -> None:
    """Raises `Invalid` (`SCHEMA_INVALID`) unless this is a schema of an object that can be checked safely."""
    try:
        if depth_over(schema, SCHEMA_DEPTH):
            raise _Unfit(f"it is nested deeper than {SCHEMA_DEPTH}")
        encoded = _encoded(schema, SCHEMA_LIMIT)
        if schema.get("type") != "object":
            raise _Unfit('it does not say "type": "object" at its root')
        if _Costs(schema).of(schema, _USUAL_DEPTH) > _PATH_COST:
            raise _Unfit("its alternatives multiply to more than can be checked")
        _compiled(encoded)
    except _Unfit as why:
        raise _invalid(str(why)) from None


def violations(schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with `value`, a sentence each, at most sixteen; empty when it conforms.

    `schema` has passed `check_schema`, or `Invalid` may be raised. A value too large or too deep to be
    checked conforms to nothing.
    """
    if depth_over(value, VALUE_DEPTH):
        return [f"The value is nested deeper than {VALUE_DEPTH}."]
    try:
        size = len(_encoded(value, VALUE_LIMIT))
    except _Unfit:
        return [f"The value is not JSON of at most {VALUE_LIMIT // 1024} KiB."]
    try:
        validator = _compiled(_encoded(schema, SCHEMA_LIMIT))
    except _Unfit as why:
        raise _invalid(str(why)) from None
    try:
        cost = size * _Costs(schema).of(schema, _depth(value))
    except _Unfit:  # taken when it was saved, so that it is this value that leads too far
        cost = _VALUE_COST + 1
    if cost > _VALUE_COST:
        return ["The value is too large and too deeply nested to be checked against this schema."]
    if validator.is_valid(value):
        return []
    if cost > _TELLING_COST:
        return [_first(validator, value)]
    return [_told(error) for error in islice(validator.iter_errors(value), _TOLD)]


def _first(validator: Any, value: Any) -> str:
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return _told(error)
    return "The value does not conform."


class _Parts(NamedTuple):
    """A schema taken apart: what it costs itself, and what is met beside it and below it."""

    own: int
    here: tuple[Any, ...]
    below: tuple[Any, ...]
    either: tuple[tuple[Any, ...], ...]


class _Costs:
    """How many parts of a schema one path through a value meets at worst; raises `_Unfit` on what is refused."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._parts: dict[int, _Parts] = {}
        self._known: dict[tuple[int, int], int] = {}
        self._open: set[tuple[int, int]] = set()

    def of(self, schema: Any, depth: int) -> int:
        """The cost for a value of this depth: what is met here, and on the worst way down."""
        if isinstance(schema, bool):
            return 1
        place = (id(schema), depth)
        if (known := self._known.get(place)) is not None:
            return known
        if place in self._open:
            raise _Unfit("a $ref leads back to itself")
        if len(self._open) >= _STEPS:
            raise _Unfit(f"its references lead through more than {_STEPS} steps")
        if len(self._known) >= _VISITS:
            raise _Unfit("it has too many parts that refer to each other")
        self._open.add(place)
        parts = self._taken_apart(schema)
        cost = parts.own + sum([self.of(part, depth) for part in parts.here])
        if depth > 0:
            cost += sum([self.of(part, depth - 1) for part in parts.below])
            cost += sum([max([self.of(part, depth - 1) for part in group]) for group in parts.either])
        self._open.remove(place)
        self._known[place] = cost
        return cost

    def _taken_apart(self, schema: Any) -> _Parts:
        if not isinstance(schema, dict):
            raise _Unfit("a part of it that should be a schema is neither an object nor a boolean")
        if id(schema) not in self._parts:
            self._parts[id(schema)] = _Parts(
                _own(schema),
                tuple(self._here(schema)),
                tuple(_below_all(schema)),
                tuple(group for group in map(tuple, _below_either(schema)) if group),
            )
        return self._parts[id(schema)]

    def _here(self, schema: dict[str, Any]) -> Iterator[Any]:
        """The parts that the same place of the value is compared with."""
        yield from (schema[word] for word in _HERE_ONE if word in schema)
        for word in _HERE_MANY:
            yield from _list(schema, word)
        for word in _HERE_NAMED:
            yield from (part for part in _mapping(schema, word).values() if not isinstance(part, list))
        if "$ref" in schema:
            yield self._target(schema["$ref"])

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _Unfit("a $ref does not begin with #/, and only what is in the schema itself may be referred to")
        target: Any = self._root
        for part in reference[2:].split("/") if len(reference) > 1 else ():
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise _Unfit(f"the $ref {reference[:100]} leads nowhere")
        return target


def _own(schema: dict[str, Any]) -> int:
    if refused := sorted(_REFUSED & schema.keys()):
        raise _Unfit(f"{refused[0]} is not supported")
    lists = sum(len(schema[word]) for word in ("enum", "required") if isinstance(schema.get(word), list))
    named = schema.get("patternProperties")
    patterns = ("pattern" in schema) + (len(named) if isinstance(named, dict) else 0)
    return 1 + lists + _PATTERN_COST * patterns


def _below_all(schema: dict[str, Any]) -> Iterator[Any]:
    """The parts that every child of the value may be compared with."""
    yield from (schema[word] for word in _BELOW_ONE if word in schema and not isinstance(schema[word], list))
    yield from _mapping(schema, "patternProperties").values()


def _below_either(schema: dict[str, Any]) -> Iterator[Iterable[Any]]:
    yield _mapping(schema, "properties").values()
    yield _list(schema, "prefixItems")
    if isinstance(schema.get("items"), list):
        yield schema["items"]


def _list(schema: dict[str, Any], word: str) -> list[Any]:
    found = schema.get(word, [])
    if not isinstance(found, list):
        raise _Unfit(f"{word} is not a list")
    return found


def _mapping(schema: dict[str, Any], word: str) -> dict[str, Any]:
    found = schema.get(word, {})
    if not isinstance(found, dict):
        raise _Unfit(f"{word} is not an object")
    return found


@lru_cache(maxsize=256)
def _compiled(encoded: bytes) -> Any:
    schema = msgspec.json.decode(encoded)
    named = str(schema.get("$schema", _LATEST)).removesuffix("#")
    if named not in _DRAFTS:
        raise _Unfit("its $schema is none of draft 7, 2019-09 and 2020-12")
    try:
        return _DRAFTS[named](
            schema,
            validate_formats=False,
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_SIZE, dfa_size_limit=1 << 20),
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as cause:
        raise _Unfit(f"it does not compile: {_cut(str(cause).splitlines()[0])}") from None


def _encoded(value: Any, limit: int) -> bytes:
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError) as cause:
        raise _Unfit("it is not JSON") from cause
    if len(encoded) > limit:
        raise _Unfit(f"it is larger than {limit // 1024} KiB")
    return encoded


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [child for parent in level for child in _children(parent)]:
        depth += 1
    return depth


def depth_over(value: Any, limit: int) -> bool:
    """Whether lists and objects in `value` are nested deeper than `limit`. Walks without recursion."""
    level = [value]
    for _ in range(limit + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return False
    return True


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _told(error: Any) -> str:
    place = "/".join(str(part) for part in error.instance_path)
    return f"{_cut(place)}: {_cut(error.message)}" if place else _cut(error.message)


def _cut(text: str) -> str:
    return text if len(text) <= _TELLING else f"{text[:_TELLING]}…"


def _invalid(why: str) -> Invalid:
    return Invalid(
        "SCHEMA_INVALID",
        f"The schema is not taken: {why}.",
        "Correct it: one self-contained JSON Schema of an object, without remote references.",
    )
