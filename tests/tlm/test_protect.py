"""What stays as it is, one kind at a time."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.errors import RequestError
from pliant.tlm.protect import EVERYTHING, Protect, whole_ranges
from pliant.tlm.units import units_of

NOTHING = Protect(*[False] * 7)


def whole(text: str, protect: Protect, *markup: str) -> list[str]:
    ranges = whole_ranges(text, protect, markup, is_message=False, asks=True)
    return [text[start:end] for start, end in ranges]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a `b c` d", ["`b c`"]),
        ("``a ` b`` `c", ["``a ` b``"]),
        ("`a\nb`", []),
        ("x\n```py\nif a:\n\n    b\n```\ny", ["```py\nif a:\n\n    b\n```"]),
        ("x\n~~~\na ` b", ["~~~\na ` b"]),
        ("````\n```\n````\nb", ["````\n```\n````"]),
    ],
)
def test_code(text: str, expected: list[str]) -> None:
    assert whole(text, replace(NOTHING, code=True)) == expected
    assert whole(text, NOTHING) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://a.b/c;d=e,f?g#h now", ["https://a.b/c;d=e,f?g#h"]),
        ("www.example.org or WWW.A.B", ["www.example.org", "WWW.A.B"]),
        ("write to ada.l+x@example.co.uk, please", ["ada.l+x@example.co.uk"]),
        ("看https://a.b/c。这里", ["https://a.b/c"]),
        ("not@this or this.one or a://", []),
    ],
)
def test_urls(text: str, expected: list[str]) -> None:
    assert whole(text, replace(NOTHING, urls=True)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <k> b c </k> d", ["<k> b c </k>"]),
        ("a <k> b <k> c", ["<k> b <k> c"]),
        ("</k> a", []),
        ("x $y$ z $1$", ["$y$", "$1$"]),
    ],
)
def test_markers(text: str, expected: list[str]) -> None:
    assert whole(text, replace(NOTHING, markers=(("<k>", "</k>"), ("$", "$")))) == expected


@pytest.mark.parametrize("marker", ["ab", ("a", ""), ("a",), ("a", 1), ("a", "b", "c"), ()])
def test_a_marker_is_a_pair_of_texts(marker: Any) -> None:
    with pytest.raises(RequestError, match="a marker is a pair of texts"):
        Protect(markers=(marker,))


def test_markup_always_stays_the_longest_name_first() -> None:
    text = "a<|end|>b<|end|>>c"
    assert whole(text, NOTHING, "<|end|>", "<|end|>>", "") == ["<|end|>", "<|end|>>"]


def test_kinds_that_meet_are_one_range() -> None:
    text = 'Say `x` or {"a": "`b c`"}?'
    assert whole(text, EVERYTHING) == [text]
    assert whole(text, replace(EVERYTHING, question=False)) == ["`x`", '{"a": "', "`b c`", '"}']


@pytest.mark.parametrize(
    ("protect", "expected"),
    [
        (replace(NOTHING, numbers=True), ["12:30,", "v2", "٣"]),
        (replace(NOTHING, names=True), ["Ada"]),
        (NOTHING, []),
    ],
)
def test_words(protect: Protect, expected: list[str]) -> None:
    text = "at 12:30, Ada ran v2 of it ٣ times"
    units = units_of(text, [], protect)
    assert [text[u.start : u.end] for u in units if u.is_protected] == expected


@settings(deadline=None)
@given(st.text(st.sampled_from('`~\n <>{}[]":,a1B@./w?\\')), st.booleans(), st.booleans())
def test_ranges_are_in_order_and_units_cover_all_but_space(
    text: str, is_message: bool, asks: bool
) -> None:
    protect = replace(EVERYTHING, markers=(("<", ">"),))
    ranges = whole_ranges(text, protect, ["a1"], is_message=is_message, asks=asks)
    assert all(start < end for start, end in ranges)
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))
    position = 0
    for unit in units_of(text, ranges, protect):
        assert not text[position : unit.start].strip()
        assert position <= unit.start < unit.end
        position = unit.end
    assert not text[position:].strip()
