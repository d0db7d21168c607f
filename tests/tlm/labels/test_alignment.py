"""Alignment against hand-made cases and what must hold for every pair."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.tlm.labels.alignment import Alignment, align


def kept_words(original: str, found: Alignment) -> list[str]:
    return [original[a:b] for (a, b), kept in zip(found.spans, found.kept, strict=True) if kept]


@pytest.mark.parametrize(
    ("original", "compressed", "kept"),
    [
        ("Item 15, report from the City Manager.", "Item 15 report City Manager",
         ["Item", "15,", "report", "City", "Manager."]),
        ("the cat and the dog and the bird", "cat dog bird", ["cat", "dog", "bird"]),
        ("We are reporting on motions", "report motion", ["reporting", "motions"]),
        ("to be or not to be", "not to be", ["not", "to", "be"]),
        ("alpha beta gamma", "gamma alpha", ["alpha", "gamma"]),
        ("alpha beta gamma", "", []),
        ("alpha beta", "delta", []),
        ("yes -- no", "yes -- no", ["yes", "--", "no"]),
    ],
)  # fmt: skip
def test_words_are_followed(original: str, compressed: str, kept: list[str]) -> None:
    assert kept_words(original, align(original, compressed)) == kept


def test_rates() -> None:
    found = align("one two three four", "one TWO five")
    assert found.variation_rate == pytest.approx(1 / 3)
    assert found.alignment_gap == 0.0
    # Both of "one one" are known, but there is one place only.
    doubled = align("one two three four", "one one")
    assert doubled.variation_rate == 0.0
    assert doubled.alignment_gap == pytest.approx(1 / 4)


def test_nothing_to_align() -> None:
    assert align("", "") == Alignment((), (), 0.0, 0.0)
    assert align(" \n", "word").variation_rate == 1.0


def test_a_word_far_away_is_another_one() -> None:
    original = "start " + "filler " * 300 + "end"
    assert kept_words(original, align(original, "start end")) == ["start"]
    assert kept_words(original, align(original, "start end", window=400)) == ["start", "end"]


@given(st.integers(1, 120), st.randoms(use_true_random=False))
def test_dropped_words_are_found_out(count: int, random: random.Random) -> None:
    words = [f"w{index}x" for index in range(count)]
    kept = [random.random() < 0.5 for _ in words]
    short = " ".join(word for word, stays in zip(words, kept, strict=True) if stays)
    found = align("\n".join(words), short, window=200)
    assert list(found.kept) == kept
    assert found.variation_rate == 0.0
    assert found.alignment_gap == 0.0


@given(st.text(alphabet="ab cd.\n", max_size=60), st.text(alphabet="ab cd.\n", max_size=60))
def test_rates_and_spans_of_any_texts(original: str, compressed: str) -> None:
    found = align(original, compressed)
    assert [original[a:b] for a, b in found.spans] == original.split()
    assert len(found.kept) == len(found.spans)
    assert sum(found.kept) <= len(compressed.split())
    assert 0 <= found.variation_rate <= 1
    assert -1 <= found.alignment_gap <= len(compressed.split())
