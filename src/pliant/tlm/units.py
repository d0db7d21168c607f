"""A text as what compression keeps or drops: words, and ranges that stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.tlm.names import are_names
from pliant.tlm.protect import Protect, Range, has_number
from pliant.tlm.words import word_ranges


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters `start` to `end` of a text; space is in no unit, but for a protected range."""

    start: int
    end: int
    is_protected: bool


def units_of(text: str, whole: Sequence[Range], protect: Protect) -> list[Unit]:
    """The units of `text` in order: the ranges `whole`, and the words between them."""
    units: list[Unit] = []
    position = 0
    for start, end in [*whole, (len(text), len(text))]:
        units += (Unit(a, b, False) for a, b in word_ranges(text, position, start))
        if start < end:
            units.append(Unit(start, end, True))
        position = end
    words = [text[unit.start : unit.end] for unit in units]
    stays = [protect.numbers and has_number(word) for word in words]
    if protect.names:
        names = are_names(words, gaps(text, units))
        stays = [a or b for a, b in zip(stays, names, strict=True)]
    return [
        Unit(unit.start, unit.end, True) if word_stays else unit
        for unit, word_stays in zip(units, stays, strict=True)
    ]


def gaps(text: str, units: Sequence[Unit]) -> list[str]:
    """The space before each unit."""
    ends = [0, *(unit.end for unit in units)]
    return [text[end : unit.start] for end, unit in zip(ends, units, strict=False)]
