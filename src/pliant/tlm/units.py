"""A text as what compression keeps or drops: words, and ranges that stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.tlm.names import are_names
from pliant.tlm.protect import Protect, has_number, whole_ranges
from pliant.tlm.words import word_ranges


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters `start` to `end` of a text; space is in no unit, but for a protected range."""

    start: int
    end: int
    is_protected: bool


def units_of(
    text: str,
    protect: Protect,
    markup: Sequence[str] = (),
    *,
    is_message: bool = False,
    asks: bool = True,
) -> list[Unit]:
    """The units of `text` in order; parameters as of `whole_ranges`."""
    whole = whole_ranges(text, protect, markup, is_message=is_message, asks=asks)
    units: list[Unit] = []
    position = 0
    for start, end in [*whole, (len(text), len(text))]:
        units += (Unit(a, b, False) for a, b in word_ranges(text, position, start))
        if start < end:
            units.append(Unit(start, end, True))
        position = end
    return _with_fixed_words(text, units, protect)


def _with_fixed_words(text: str, units: list[Unit], protect: Protect) -> list[Unit]:
    words = [text[unit.start : unit.end] for unit in units]
    names = are_names(words, gaps(text, units)) if protect.names else [False] * len(units)
    return [
        Unit(unit.start, unit.end, True)
        if not unit.is_protected and (is_name or (protect.numbers and has_number(word)))
        else unit
        for unit, word, is_name in zip(units, words, names, strict=True)
    ]


def gaps(text: str, units: Sequence[Unit]) -> list[str]:
    """The space before each unit."""
    ends = [0, *(unit.end for unit in units)]
    return [text[end : unit.start] for end, unit in zip(ends, units, strict=False)]
