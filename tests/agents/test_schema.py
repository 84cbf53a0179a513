"""Schemas of tenants: what is taken, what a value is told, and that neither costs more than it may."""

from time import thread_time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.agents.schema import SCHEMA_LIMIT, VALUE_DEPTH, VALUE_LIMIT, check_schema, violations
from mcp_agents.kernel.errors import Invalid

TREE = {
    "type": "object",
    "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "value": {"type": "integer"}},
    "additionalProperties": False,
}
DRAFT_7 = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"pair": {"items": [{"type": "string"}, {"type": "integer"}]}},
}
TWICE = {"type": "object", "allOf": [{"properties": {"x": {"$ref": "#"}}}, {"properties": {"x": {"$ref": "#"}}}]}
"""Every step down doubles what has to be looked at."""


def objects(**parts: Any) -> dict[str, Any]:
    return {"type": "object", **parts}


def nested(depth: int, name: str = "x") -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {name: value}
    return value


def bomb() -> dict[str, Any]:
    """Thirty alternatives of alternatives: a thousand million ways."""
    steps = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    return objects(allOf=[{"$ref": "#/$defs/d0"}], **{"$defs": {**steps, "d30": False}})


def chain(length: int) -> dict[str, Any]:
    """References one behind the other."""
    steps = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    return objects(allOf=[{"$ref": "#/$defs/d0"}], **{"$defs": {**steps, f"d{length}": True}})


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (objects(properties={"a": {"type": "integer"}}, required=["a"]), {"a": 1}, {"a": "x"}),
        (objects(additionalProperties=False), {}, {"a": 1}),
        (objects(properties={"a": {"enum": ["x", None]}}), {"a": None}, {"a": "y"}),
        (objects(properties={"a": {"pattern": "^[a-z]+$"}}), {"a": "abc"}, {"a": "ABC"}),
        (objects(patternProperties={"^n_": {"type": "number"}}), {"n_a": 1.5}, {"n_a": "1"}),
        (objects(properties={"a": {"$ref": "#/$defs/s"}}, **{"$defs": {"s": {"type": "string"}}}), {"a": ""}, {"a": 1}),
        (objects(properties={"a~/": True, "b": {"$ref": "#/properties/a~0~1"}}), {"b": 1}, []),
        (objects(**{"if": {"required": ["a"]}, "then": {"required": ["b"]}}), {"a": 1, "b": 1}, {"a": 1}),
        (objects(properties={"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}), {"a": None}, {"a": 1}),
        (objects(properties={"a": {"items": {"minimum": 0}, "maxItems": 2}}), {"a": [0, 1]}, {"a": [1, -1]}),
        (objects(properties={"a": {"const": {"x": [1]}}}), {"a": {"x": [1]}}, {"a": {"x": [2]}}),
        (TREE, {"left": {"right": {"value": 1}}}, {"left": {"right": {"value": "1"}}}),
        (DRAFT_7, {"pair": ["a", 1]}, {"pair": [1, "a"]}),
        (TWICE, nested(5), {"x": {"x": 1}}),
    ],
)  # fmt: skip
def test_a_schema_says_of_a_value_what_it_should(schema: dict[str, Any], good: Any, bad: Any) -> None:
    """A value that conforms has nothing wrong with it, another has."""
    check_schema(schema)
    assert violations(schema, good) == []
    assert violations(schema, bad)


def test_a_violation_names_its_place_and_what_is_wrong() -> None:
    """In words that a model can act on, and bounded."""
    schema = objects(properties={"a": {"items": {"type": "integer"}}})
    assert violations(schema, {"a": [1, "two"]}) == ['a/1: "two" is not of type "integer"']
    many = violations(schema, {"a": ["x" * 1000] * 20})
    assert len(many) == 16
    assert max(map(len, many)) < 320


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({}, "type"),
        ({"type": "array"}, "type"),
        ({"type": "objekt"}, "type"),
        (objects(properties={"a": {"type": "objekt"}}), "compile"),
        (objects(properties={"a": 1}), "neither an object nor a boolean"),
        (objects(properties=[]), "properties is not an object"),
        (objects(anyOf={}), "anyOf is not a list"),
        (objects(properties={"a": {"pattern": "("}}), "compile"),
        (objects(properties={"a": {"pattern": "(?=x)y"}}), "compile"),
        (objects(properties={"a": {"pattern": r"(a)\1"}}), "compile"),
        (objects(properties={"a": {"pattern": "((a{1000}){1000}){1000}"}}), "compile"),
        (objects(properties={"a": {"$ref": "http://127.0.0.1:1/schema"}}), "$ref"),
        (objects(properties={"a": {"$ref": "file:///etc/passwd"}}), "$ref"),
        (objects(properties={"a": {"$ref": "#name"}}), "$ref"),
        (objects(properties={"a": {"$ref": "#/$defs/none"}}), "leads nowhere"),
        (objects(properties={"a": {"$ref": 1}}), "$ref"),
        (objects(**{"$ref": "#"}), "leads back to itself"),
        (objects(properties={"a": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}}), "leads back"),
        (objects(**{"$schema": "http://127.0.0.1:1/meta"}), "$schema"),
        (objects(**{"$schema": {"a": 1}}), "$schema"),
        (objects(properties={"a": {"$id": "http://x/", "$ref": "#/a"}}), "$id is not supported"),
        (objects(**{"$dynamicRef": "#a"}), "$dynamicRef is not supported"),
        (objects(unevaluatedProperties=False), "unevaluatedProperties is not supported"),
        (objects(properties={"a": {"enum": ["x" * SCHEMA_LIMIT]}}), "larger than 64 KiB"),
        (objects(properties=nested(40, "properties")), "nested deeper"),
        (bomb(), "multiply"),
        (chain(1500), "steps"),
    ],
)  # fmt: skip
def test_a_schema_that_is_wrong_or_cannot_be_checked_safely_is_refused(schema: dict[str, Any], says: str) -> None:
    """With one code and the reason, before anything of it was run or fetched."""
    with pytest.raises(Invalid) as refusal:
        check_schema(schema)
    assert refusal.value.code == "SCHEMA_INVALID"
    assert says in refusal.value.public


COSTLY = {
    "patterns": (
        objects(properties={"a": {"pattern": "^(a+)+$"}, "b": {"pattern": "(x+x+)+y"}}),
        {"a": "a" * 20_000 + "!", "b": "x" * 20_000},
    ),
    "a counted pattern": (objects(properties={"a": {"pattern": "(a|b)*[ab]{40}c"}}), {"a": "ab" * 30_000}),
    "recursion that doubles": (TWICE, nested(VALUE_DEPTH)),
    "recursion that doubles, not so deep": (TWICE, {"x": {"x": {"x": {"x": {"x": {"x": {"x": {"x": 1}}}}}}}}),
    "many parts that refer to each other": (
        objects(properties={f"x{n}" if n else "x": {"$ref": "#"} for n in range(2500)}),
        {**nested(VALUE_DEPTH), "x1": 1},
    ),
    "many faults": (objects(properties={"a": {"items": {"type": "integer"}}}), {"a": ["x"] * 60_000}),
    "many alternatives of many items": (
        objects(properties={"a": {"items": {"anyOf": [{"const": n} for n in range(3000)]}}}),
        {"a": [-1] * 6000},
    ),
    "as many as are checked": (
        objects(properties={"a": {"items": {"anyOf": [{"const": n} for n in range(1000)]}}}),
        {"a": [-1] * 1200},
    ),
    "too deep": (objects(properties={"x": False}), nested(VALUE_DEPTH + 1)),
    "too large": (objects(), {"a": "x" * VALUE_LIMIT}),
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_value_makes_a_check_costly(name: str) -> None:
    """It is refused with a reason, and in a time that a loop can stand."""
    schema, value = COSTLY[name]
    check_schema(schema)
    began = thread_time()
    assert violations(schema, value)
    assert thread_time() - began < 2


def test_a_long_way_of_references_is_no_crash() -> None:
    """Each step is small, all together are too many for the value's depth."""
    schema = objects(properties={"x": {"$ref": "#/$defs/d0"}}, **chain(20))
    schema["$defs"]["d20"] = {"$ref": "#"}
    schema.pop("allOf")
    check_schema(schema)
    assert violations(schema, nested(3)) == []
    assert violations(schema, nested(VALUE_DEPTH)) == [
        "The value is too large and too deeply nested to be checked against this schema."
    ]


SIMPLE = st.recursive(
    st.sampled_from(["string", "integer", "boolean", "null"]).map(lambda kind: {"type": kind}),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda parts: {"type": "object", "properties": parts, "additionalProperties": False}
        ),
        inner.map(lambda part: {"type": "array", "items": part, "maxItems": 2}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"oneOf": parts}),
    ),
    max_leaves=8,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), SIMPLE), st.dictionaries(st.sampled_from("abc"), JSON))
def test_the_verdict_is_that_of_an_independent_validator(parts: dict[str, Any], value: dict[str, Any]) -> None:
    """Over schemas and values of every shape."""
    schema = objects(properties=parts)
    check_schema(schema)
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (violations(schema, value) == []) is expected
