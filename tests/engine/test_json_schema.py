"""Everything a schema's grammar allows is JSON that the schema allows."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.engine.gbnf import check
from pliant.engine.json_rules import integer_range
from pliant.engine.json_schema import schema_to_gbnf
from pliant.engine.sampling import Sampler, SamplingParams
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import SamplingError

MAX_TOKENS = 400


def random_sentence(tokenizer: Tokenizer, schema: Any, seed: int) -> str | None:
    """What a model without any sense but for UTF-8 would write; None if it finds no end."""
    random = np.random.default_rng(seed)
    ascii_only = np.array([tokenizer.piece(t).isascii() for t in range(tokenizer.size)])
    sampler = Sampler(SamplingParams(json_schema=schema), tokenizer)
    text = b""
    for step in range(MAX_TOKENS):
        logits = random.normal(size=tokenizer.size).astype(np.float32)
        logits[~ascii_only] -= 50
        # Ever more eager to close what is open.
        logits[tokenizer.encode('"}]', add_bos=False)] += step / 40
        token = sampler.sample(logits)
        if token is None or token in tokenizer.eog:
            return text.decode("utf-8", "replace")
        sampler.accept(token)
        text += tokenizer.piece(token)
    return None


def is_person(value: Any) -> bool:
    return (
        list(value) in (["name", "age"], ["name"], ["name", "age", "tags"], ["name", "tags"])
        and isinstance(value["name"], str)
        and len(value["name"]) <= 5
        and 0 <= value.get("age", 0) <= 120
        and all(tag in ("a", 'b"\\\n', "ß") for tag in value.get("tags", []))
        and len(value.get("tags", [1])) in (1, 2)
    )


PERSON = {
    "type": "object",
    "title": "a person",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {
            "type": "array",
            "items": {"enum": ["a", 'b"\\\n', "ß"]},
            "minItems": 1,
            "maxItems": 2,
        },
    },
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "right": {"allOf": [{"$ref": "#/$defs/a~1b%20c"}]},
            },
            "required": ["left"],
        },
        "a/b c": {"const": {"x": [1, None]}},
    },
}


def is_tree(value: Any) -> bool:
    return value is None or (
        set(value) <= {"left", "right"}
        and is_tree(value["left"])
        and value.get("right") in (None, {"x": [1, None]})
    )


SCHEMAS: list[tuple[Any, Callable[[Any], bool]]] = [
    (PERSON, is_person),
    (json.dumps(PERSON), is_person),
    (TREE, is_tree),
    ({"type": "boolean"}, lambda value: isinstance(value, bool)),
    ({"type": "number"}, lambda value: isinstance(value, (int, float))),
    ({"type": ["integer", "null"]}, lambda value: value is None or isinstance(value, int)),
    ({"type": "integer", "exclusiveMinimum": -3, "maximum": 3}, lambda value: -3 < value <= 3),
    ({"type": "string", "minLength": 3, "maxLength": 4}, lambda value: 3 <= len(value) <= 4),
    ({"type": "string", "format": "date"}, lambda v: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", v))),
    ({"type": "string", "format": "time"}, lambda v: v[2] == v[5] == ":"),
    ({"type": "string", "format": "date-time"}, lambda v: v[10] == "T"),
    ({"type": "string", "format": "uuid"}, lambda v: len(v) == 36),
    ({"type": "string", "enum": ["a", 3]}, lambda value: value == "a"),
    ({"prefixItems": [{"const": 1}, {"const": 2}]}, lambda value: value == [1, 2]),
    ({"type": "array", "items": {"const": 1}, "minItems": 3}, lambda v: v == [1] * len(v) >= [1]),
    ({"type": "array", "maxItems": 0}, lambda value: value == []),
    ({"additionalProperties": {"const": 1}}, lambda value: set(value.values()) <= {1}),
    ({"type": "object", "additionalProperties": False}, lambda value: value == {}),
    ({"type": "object", "required": ["x"]}, lambda value: list(value) == ["x"]),
    ({"properties": {"n": {"const": 1}, "m": {"const": 2}}, "required": ["m"]}, lambda v: v["m"]),
    ({}, lambda value: True),
    (True, lambda value: True),
]


@pytest.mark.parametrize(("schema", "allows"), SCHEMAS)
def test_what_the_grammar_lets_through_fits_the_schema(
    tokenizer: Tokenizer, schema: Any, allows: Callable[[Any], bool]
) -> None:
    check(schema_to_gbnf(schema))
    sentences = [random_sentence(tokenizer, schema, seed) for seed in range(8)]
    finished = [json.loads(sentence) for sentence in sentences if sentence is not None]
    assert finished
    for value in finished:
        assert allows(value), value


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "not JSON"),
        ({"x": {1, 2}}, "not JSON"),
        ({"const": float("nan")}, "not JSON"),
        ('{"const": NaN}', "not JSON"),
        ('{"enum": [1e999]}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        (" " * 200_000, "131072"),
        (False, "not a schema"),
        ({"type": "text"}, "unknown type"),
        ({"type": "string", "pattern": "^a$"}, "pattern"),
        ({"pattern": "^a$"}, "pattern"),
        ({"type": "number", "minimum": 0}, "minimum"),
        ({"type": "integer", "multipleOf": 2}, "multipleOf"),
        ({"type": "integer", "minimum": 0.5}, "minimum"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no integer"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "array", "minItems": -1}, "minItems"),
        ({"type": "array", "minItems": 5000}, "1000"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "maxItems"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "maxLength"),
        ({"type": "object", "minProperties": 1}, "minProperties"),
        ({"type": "object", "required": [["a"]]}, "list of names"),
        ({"type": "object", "required": "a"}, "list of names"),
        ({"not": {}}, "not is"),
        ({"if": {}, "then": {}}, "if is"),
        ({"anyOf": []}, "anyOf"),
        ({"anyOf": [{"type": "null"}], "minLength": 3}, "minLength"),
        ({"allOf": [{}, {}]}, "allOf"),
        ({"enum": []}, "no value"),
        ({"type": "string", "enum": [1]}, "no value"),
        ({"$ref": "https://example.org/schema"}, "does not point into"),
        ({"$ref": "#/$defs/x"}, "nowhere"),
        ({"$ref": "#"}, "left-recursive"),
        ({"properties": {"a": {"items": {"pattern": "x"}}}}, "#/properties/a/items"),
    ],
)
def test_refuses_what_a_grammar_cannot_hold_to(schema: Any, message: str) -> None:
    with pytest.raises(SamplingError, match=re.escape(message)):
        SamplingParams(json_schema=schema).gbnf()


@pytest.mark.parametrize("format_", ["unheard of", [], {}, 3])
def test_formats_that_nobody_knows_are_annotations(format_: object) -> None:
    assert schema_to_gbnf({"type": "string", "format": format_}) == schema_to_gbnf(
        {"type": "string"}
    )


def test_deep_schemas_are_refused() -> None:
    schema: Any = {"type": "null"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SamplingError, match="deeper"):
        schema_to_gbnf(schema)


@given(st.integers(-1500, 1500), st.integers(0, 1200))
def test_integer_ranges_hold_exactly_their_integers(low: int, size: int) -> None:
    pattern = re.sub(r'[ "]', "", integer_range(low, low + size) or "")
    expression = re.compile(pattern)
    for value in range(low - 15, low + size + 16):
        assert bool(expression.fullmatch(str(value))) == (low <= value <= low + size), value


@pytest.mark.parametrize(
    ("low", "high", "inside", "outside"),
    [
        (5, None, (5, 10, 10**14), (4, 0, -5)),
        (None, -5, (-5, -(10**14)), (-4, 0, 5)),
        (None, None, (0, 7, -7, 10**14), ()),
    ],
)
def test_open_integer_ranges(
    low: int | None, high: int | None, inside: tuple[int, ...], outside: tuple[int, ...]
) -> None:
    expression = re.compile(re.sub(r'[ "]', "", integer_range(low, high) or ""))
    assert all(expression.fullmatch(str(value)) for value in inside)
    assert not any(expression.fullmatch(str(value)) for value in outside)
