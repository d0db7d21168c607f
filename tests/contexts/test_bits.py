"""Bits under one average: its limit, its order, and what is gained."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.contexts.bits import NOISE, assign_bits
from pliant.errors import RequestError

VALUES = 8192
NBYTES = {bits: VALUES * bits * 9 // 64 for bits in (8, 4, 2)}

densities = st.floats(0, 1, allow_nan=False)
averages = st.floats(2.25, 16)


def cost(bits: list[int]) -> int:
    return sum(NBYTES[number] for number in bits)


def noise(found: list[float], bits: list[int]) -> float:
    return sum(d * NOISE[b] for d, b in zip(found, bits, strict=True))


@given(found=st.lists(densities, max_size=40), average=averages)
def test_the_average_is_kept(found: list[float], average: float) -> None:
    bits = assign_bits(found, NBYTES, VALUES, average)
    assert len(bits) == len(found)
    assert 8 * cost(bits) <= average * VALUES * len(found) + 1e-6


@given(found=st.lists(densities, max_size=40), average=averages)
def test_denser_heads_never_get_fewer(found: list[float], average: float) -> None:
    bits = assign_bits(found, NBYTES, VALUES, average)
    for (a, a_bits), (b, b_bits) in product(zip(found, bits, strict=True), repeat=2):
        assert a <= b or a_bits >= b_bits


@settings(max_examples=40)
@given(found=st.lists(densities, min_size=1, max_size=6), average=averages)
def test_little_is_left_to_gain(found: list[float], average: float) -> None:
    """Against every choice there is: what cannot be had is less than one more step."""
    limit = average * VALUES * len(found) / 8
    least = min(
        noise(found, list(choice))
        for choice in product((2, 4, 8), repeat=len(found))
        if cost(list(choice)) <= limit
    )
    one_step = max(found) * (NOISE[2] - NOISE[8])
    assert noise(found, assign_bits(found, NBYTES, VALUES, average)) <= least + one_step + 1e-9


def test_few_heads_that_look_far_back_get_the_bits_of_the_others() -> None:
    found = [1.0, 0.5, *[0.003] * 30]
    assert assign_bits(found, NBYTES, VALUES, 4.5)[:2] == [8, 8]
    assert set(assign_bits([0.5] * 8, NBYTES, VALUES, 4.5)) == {4}


def test_an_average_below_two_bits_is_refused() -> None:
    for average in (2.0, -1, float("nan")):
        with pytest.raises(RequestError, match="average"):
            assign_bits([1.0], NBYTES, VALUES, average)
