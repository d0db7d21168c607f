"""Bits under one average: its limit, its order, and what is gained."""

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pliant.contexts.bits import NOISE, Candidate, Spent, assign_bits
from pliant.errors import RequestError

VALUES = 64 * 1024


def candidate(density: float, size: int = 1) -> Candidate:
    nbytes = {bits: size * VALUES * bits * 9 // 64 for bits in (8, 4, 2)}
    return Candidate(density, size * VALUES, nbytes)


def cost(candidates: list[Candidate], bits: list[int]) -> int:
    return sum(c.nbytes[b] for c, b in zip(candidates, bits, strict=True))


def noise(candidates: list[Candidate], bits: list[int]) -> float:
    return sum(c.density * NOISE[b] for c, b in zip(candidates, bits, strict=True))


densities = st.floats(0, 1, allow_nan=False)
candidates = st.lists(st.builds(candidate, densities, st.integers(1, 3)), max_size=20)
averages = st.floats(2.25, 16)


@given(chosen=candidates, average=averages)
def test_the_average_is_kept(chosen: list[Candidate], average: float) -> None:
    bits = assign_bits(chosen, average)
    assert len(bits) == len(chosen)
    assert 8 * cost(chosen, bits) <= average * sum(c.num_values for c in chosen) + 1e-6


@given(chosen=candidates, average=averages)
def test_denser_chunks_never_get_fewer(chosen: list[Candidate], average: float) -> None:
    bits = assign_bits(chosen, average)
    for (a, a_bits), (b, b_bits) in product(zip(chosen, bits, strict=True), repeat=2):
        if a.num_values == b.num_values and a.density > b.density:
            assert a_bits >= b_bits


@settings(max_examples=40)
@given(values=st.lists(densities, min_size=1, max_size=6), average=averages)
def test_little_is_left_to_gain(values: list[float], average: float) -> None:
    """Against every choice there is: what cannot be had is less than one more step."""
    chosen = [candidate(value) for value in values]
    limit = average * VALUES * len(chosen) / 8
    found = noise(chosen, assign_bits(chosen, average))
    every = [list(bits) for bits in product((2, 4, 8), repeat=len(chosen))]
    best = min(noise(chosen, bits) for bits in every if cost(chosen, bits) <= limit)
    assert found <= best + max(values) * NOISE[2]
    assert found <= min(
        noise(chosen, [bits] * len(chosen))
        for bits in (2, 4, 8)
        if cost(chosen, [bits] * len(chosen)) <= limit
    )


@given(old=candidates, new=candidates, average=averages)
def test_later_chunks_keep_the_average_of_all(
    old: list[Candidate], new: list[Candidate], average: float
) -> None:
    taken = cost(old, assign_bits(old, average))
    spent = Spent(sum(c.num_values for c in old), taken)
    bits = assign_bits(new, average, spent)
    num_values = spent.num_values + sum(c.num_values for c in new)
    assert 8 * (taken + cost(new, bits)) <= average * num_values + 1e-6


@given(chosen=candidates, average=averages)
def test_more_room_takes_noise_away(chosen: list[Candidate], average: float) -> None:
    assume(chosen)
    tight = assign_bits(chosen, average, Spent(VALUES, 8 * VALUES))
    assert noise(chosen, assign_bits(chosen, average)) <= noise(chosen, tight) + 1e-9


def test_what_others_took_is_not_there() -> None:
    overspent = Spent(VALUES, 8 * VALUES)
    assert assign_bits([candidate(1.0), candidate(0.5)], 4.5, overspent) == [2, 2]
    saved = Spent(4 * VALUES, 4 * VALUES * 9 // 32)
    assert assign_bits([candidate(1.0), candidate(0.5)], 4.5, saved) == [8, 8]


def test_an_average_below_two_bits_is_refused() -> None:
    for average in (2.0, -1, float("nan")):
        with pytest.raises(RequestError, match="average"):
            assign_bits([candidate(1.0)], average)
