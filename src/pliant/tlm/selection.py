"""Which words stay: the ones of the highest scores, as many as the budget allows."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count

from pliant.tlm.scores import TokenScore
from pliant.tlm.units import Unit

Range = tuple[int, int]

# A line of fewer words may stand twice for a reason: "Yes.", "Off".
MIN_REPEATED_WORDS = 3

# Steps by the size of the error; beyond them, an odd tokenizer is met by halving.
_MAX_GUESSES = 8


def word_scores(units: Sequence[Unit], tokens: Sequence[TokenScore]) -> list[float]:
    """For each unit the mean score of the tokens in it, as LLMLingua-2 has it (section 4.2).

    A unit without a token, or whose score is no number, gets the mean of the others: nothing is
    known for or against it.
    """
    ordered = sorted((t for t in tokens if t.start < t.end), key=lambda token: token.start)
    found: list[float | None] = []
    first = 0
    for unit in units:
        while first < len(ordered) and ordered[first].end <= unit.start:
            first += 1
        inside = []
        index = first
        while index < len(ordered) and ordered[index].start < unit.end:
            inside.append(ordered[index].keep)
            index += 1
        score = sum(inside) / len(inside) if inside else math.nan
        found.append(score if math.isfinite(score) else None)
    known = [score for score in found if score is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [mean if score is None else score for score in found]


def ranked(text: str, units: Sequence[Unit], scores: Sequence[float]) -> list[int]:
    """Indices of the units that may go, the one to keep first in front.

    Words of a line that repeats an earlier one go before all others: what they say is there
    already. Of words that score the same, the earlier stays.
    """
    repeats = _in_repeated_lines(text, units)
    free = [index for index, unit in enumerate(units) if not unit.is_protected]
    return sorted(free, key=lambda index: (repeats[index], -scores[index], index))


def kept_ranges(
    text: str, units: Sequence[Unit], stays: Sequence[bool], start: int, end: int
) -> list[Range]:
    """The characters between `start` and `end` that remain, where `units` lie.

    Units that stay, and between two of them one gap: where words went, the first of those with
    the most line breaks, so that lines stay apart. Space at the beginning and at the end remains.
    """
    ranges: list[Range] = []
    gap = (start, units[0].start) if units else (start, start)
    most_breaks = 0
    position = start
    for unit, unit_stays in zip(units, stays, strict=True):
        if ranges and position < unit.start:
            breaks = text.count("\n", position, unit.start)
            if breaks > most_breaks:
                gap, most_breaks = (position, unit.start), breaks
        if unit_stays:
            _extend(ranges, gap)
            _extend(ranges, (unit.start, unit.end))
            gap, most_breaks = (unit.end, unit.end), -1
        position = unit.end
    if not ranges:
        _extend(ranges, gap)
    _extend(ranges, (position, end))
    return ranges


def longest_fitting(
    costs: Sequence[int], least: int, budget: int, total: int, measure: Callable[[int], int]
) -> int:
    """How many of the ranked words fit into `budget` tokens; the next one would not, as far as
    its cost says.

    `costs` are estimates of what each word takes, `total` is what all text takes, and
    `measure(n)` what is left takes with the first n words. At least `least`, fitting or not.
    """
    sums = [0, *accumulate(costs)]
    low, high = least, len(costs)
    guess = bisect_right(sums, budget - (total - sums[-1])) - 1
    for attempt in count():
        if high - low <= 1:
            return low
        if attempt >= _MAX_GUESSES:
            guess = (low + high) // 2
        guess = min(max(guess, low + 1), high - 1)
        excess = measure(guess) - budget
        if excess > 0:
            high = guess
        else:
            low = guess
            if costs[guess] > -excess:
                return low
        wanted = bisect_right(sums, sums[guess] - excess) - 1
        is_upwards = excess <= 0
        guess = max(wanted, guess + 1) if is_upwards else min(wanted, guess - 1)
    raise AssertionError


def _in_repeated_lines(text: str, units: Sequence[Unit]) -> list[bool]:
    """For each unit, whether its line has stood in the text before."""
    seen: set[str] = set()
    repeated: list[bool] = []
    for line in _lines(text, units):
        content = text[line[0].start : line[-1].end]
        is_repeat = len(line) >= MIN_REPEATED_WORDS and content in seen
        seen.add(content)
        repeated += [is_repeat] * len(line)
    return repeated


def _lines(text: str, units: Sequence[Unit]) -> Iterator[list[Unit]]:
    line: list[Unit] = []
    for unit in units:
        if line and "\n" in text[line[-1].end : unit.start]:
            yield line
            line = []
        line.append(unit)
    if line:
        yield line


def _extend(ranges: list[Range], added: Range) -> None:
    if added[0] == added[1]:
        return
    if ranges and ranges[-1][1] == added[0]:
        ranges[-1] = ranges[-1][0], added[1]
    else:
        ranges.append(added)
