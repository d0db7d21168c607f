"""JSON structure, held against Python's json."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.tlm.json_structure import json_structure

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.lists(VALUES) | st.dictionaries(st.text(), VALUES)


def structure(text: str) -> str:
    return "".join(text[start:end] for start, end in json_structure(text))


def without_strings(value: Any) -> Any:
    """`value` with empty strings; keys stay."""
    if isinstance(value, str):
        return ""
    if isinstance(value, list):
        return [without_strings(item) for item in value]
    if isinstance(value, dict):
        return {key: without_strings(item) for key, item in value.items()}
    return value


@settings(deadline=None)
@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 2]))
def test_a_document_without_its_strings_is_the_structure(
    document: Any, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert json.loads(structure(text)) == without_strings(document)
    assert structure(f"The answer: {text}\nis above. See [it]") == structure(text)


@settings(deadline=None)
@given(st.text(st.sampled_from('{}[]":, \n\\u0041truefalsnl-1.5eE"ab'), max_size=40))
def test_what_is_found_is_json_and_nothing_is_missed(text: str) -> None:
    """By brute force: the longest stretch that json can read at each bracket outside another."""
    found = json_structure(text)
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    joined = structure(text)
    decoder = json.JSONDecoder(strict=True, parse_constant=_refuse)
    position = 0
    while position < len(joined):
        value, position = decoder.raw_decode(joined, position)
        assert isinstance(value, (dict, list))
    if _is_document(text):
        assert found and found[0][0] == len(text) - len(text.lstrip())
        assert found[-1][1] == len(text.rstrip())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("no json {here} [there]", ""),
        ('{"a": "b"', ""),
        ('{"a": "b",}', ""),
        ("{'a': 1}", ""),
        ("[1, 2] and {}", "[1, 2]{}"),
        ("[01]", ""),
        ("[1.]", ""),
        ("[NaN]", ""),
        ('["\\x"]', ""),
        ('["a\nb"]', ""),
        ('["a\\"b"]', '[""]'),
        # In a document that breaks off, what is whole counts.
        ('{"a": {"b": "c"}, "d": [1, 2], "e": "f', '{"b": ""}[1, 2]'),
        ('[x] {"a": "see [1]"}', '{"a": ""}'),
        ('{[{"a": 1}]', '[{"a": 1}]'),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert structure(text) == expected


def test_depth_costs_nothing() -> None:
    deep = 20_000
    text = "[" * deep + "]" * deep
    assert json_structure(text) == [(0, 2 * deep)]
    assert json_structure("[" * deep) == []
    assert json_structure('{"a":' * deep) == []


def _refuse(name: str) -> None:
    raise ValueError(name)


def _is_document(text: str) -> bool:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    return isinstance(value, (dict, list))
