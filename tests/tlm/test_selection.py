"""Which words stay, held against trying everything."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.tlm.protect import Protect
from pliant.tlm.scores import TokenScore
from pliant.tlm.selection import kept_ranges, longest_fitting, ranked, word_scores
from pliant.tlm.units import Unit, units_of

NOTHING = Protect(*[False] * 7)


def left(text: str, stays: str) -> str:
    """`text` with the words at which `stays` has an x."""
    units = units_of(text, [], NOTHING)
    flags = [mark == "x" for mark in stays]
    return "".join(text[a:b] for a, b in kept_ranges(text, units, flags, 0, len(text)))


@pytest.mark.parametrize(
    ("text", "stays", "expected"),
    [
        ("a b c", "xxx", "a b c"),
        ("a b c", "x-x", "a c"),
        ("a b c", "-x-", "b"),
        (" a b c\n", "-x-", " b\n"),
        # Lines stay apart, and the widest gap wins.
        ("a b\nc d", "x--x", "a\nd"),
        ("a\nb\n\nc d", "x--x", "a\n\nd"),
        ("a b", "--", ""),
        ("\na b ", "--", "\n "),
        ("学校 へ", "x-x", "学 へ"),
        ("a,b,c", "x-x", "a,c"),
        ("", "", ""),
        ("  ", "", "  "),
    ],
)
def test_what_is_left(text: str, stays: str, expected: str) -> None:
    assert left(text, stays) == expected


def test_a_word_scores_the_mean_of_its_tokens() -> None:
    units = [Unit(0, 4, False), Unit(5, 6, False), Unit(7, 9, False), Unit(10, 12, True)]
    tokens = [
        TokenScore(0, 2, 0.2),
        TokenScore(2, 5, 0.6),
        TokenScore(7, 8, math.nan),
        TokenScore(9, 9, 5.0),
        TokenScore(9, 12, 0.8),
    ]
    mean = (0.4 + 0.8) / 2
    assert word_scores(units, tokens) == pytest.approx([0.4, mean, mean, 0.8])
    assert word_scores(units, []) == [0.0] * 4
    assert word_scores([], tokens) == []


def test_ranks_by_score_then_by_place_and_repeated_lines_last() -> None:
    text = "say it now\nno\nsay it now\nno\nsay more"
    units = units_of(text, [], NOTHING)
    scores = [0.9 if text[u.start : u.end] == "now" else 0.5 for u in units]
    order = [text[units[i].start : units[i].end] + str(i) for i in ranked(text, units, scores)]
    assert order == ["now2", "say0", "it1", "no3", "no7", "say8", "more9", "now6", "say4", "it5"]


def test_what_is_protected_has_no_rank() -> None:
    units = [Unit(0, 1, True), Unit(2, 3, False)]
    assert ranked("a b", units, [0.1, 0.9]) == [1]


COSTS = st.lists(st.integers(0, 9), max_size=40)


@settings(deadline=None)
@given(COSTS, COSTS, st.integers(-5, 200), st.integers(0, 1))
def test_the_longest_that_fits(
    costs: list[int], errors: list[int], budget: int, least: int
) -> None:
    """Estimates may be off; what is measured decides."""
    least = min(least, len(costs))
    true = [cost + error for cost, error in zip(costs, [*errors, *[0] * 40], strict=False)]
    total = 7 + sum(true)

    def measure(count: int) -> int:
        assert 0 <= count < len(costs)
        return 7 + sum(true[:count])

    found = longest_fitting(costs, least, min(budget, total - 1), total, measure)
    fitting = [n for n in range(least, len(costs)) if measure(n) <= min(budget, total - 1)]
    # Words that cost nothing may be left out or not: what is left measures the same.
    best = max(fitting, default=least)
    assert found == best or (found < len(costs) and measure(found) == measure(best))


@settings(deadline=None)
@given(COSTS.filter(len), st.integers(0, 200))
def test_good_estimates_take_few_measurements(costs: list[int], budget: int) -> None:
    asked: list[int] = []

    def measure(count: int) -> int:
        asked.append(count)
        return sum(costs[:count])

    longest_fitting(costs, 0, min(budget, sum(costs) - 1), sum(costs), measure)
    assert len(asked) <= 4


@settings(deadline=None)
@given(st.text(st.sampled_from("ab \n,学")), st.randoms(use_true_random=False))
def test_kept_ranges_are_in_order_and_leave_no_space_twice(text: str, random: object) -> None:
    units = units_of(text, [], NOTHING)
    flags = [bool(random.getrandbits(1)) for _ in units]  # type: ignore[attr-defined]
    ranges = kept_ranges(text, units, flags, 0, len(text))
    assert all(a[1] < b[0] for a, b in pairwise(ranges))
    kept = "".join(text[a:b] for a, b in ranges)
    wanted = "".join(text[u.start : u.end] for u, f in zip(units, flags, strict=True) if f)
    assert "".join(kept.split()) == "".join(wanted.split())
    assert kept.count(" ") + kept.count("\n") <= text.count(" ") + text.count("\n")
