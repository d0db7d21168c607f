from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.slo import DecodeCost, LevelLatency, PrefillCost
from pliant.slo.fit import Sample, fit_level, interpolate, non_negative_least_squares

LONG = [(64, 0), (128, 0), (256, 0), (512, 0), (128, 896)]
SHORT = [(8, 0), (24, 0), (56, 0), (56, 968)]
STEPS = [16, 500, 1000]

coefficient = st.one_of(st.just(0.0), st.floats(1e-3, 10))
prefills = st.builds(
    lambda chunk, token, pair: PrefillCost(chunk, token + 1e-3, pair / 1000),
    coefficient,
    coefficient,
    coefficient,
)
decodes = st.builds(lambda step, kv: DecodeCost(step, kv / 1000), st.floats(0.1, 10), coefficient)


def _samples(truth: LevelLatency) -> list[Sample]:
    prefill = [Sample(n, start, truth.prefill_ms(n, start)) for n, start in [*LONG, *SHORT]]
    return [*prefill, *(Sample(1, kv, truth.decode.ms(kv)) for kv in STEPS)]


@given(prefills, prefills, decodes)
def test_synthetic_coefficients_are_recovered(
    prefill: PrefillCost, short: PrefillCost, decode: DecodeCost
) -> None:
    truth = LevelLatency(0.5, prefill, short, decode)
    fitted = fit_level(0.5, _samples(truth))
    for part in ("prefill", "short", "decode"):
        expected = astuple(getattr(truth, part))
        assert astuple(getattr(fitted, part)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 100), min_size=12, max_size=12))
def test_coefficients_are_never_negative(times: list[float]) -> None:
    points = [*LONG, *SHORT, *((1, kv) for kv in STEPS)]
    samples = [Sample(n, start, t) for (n, start), t in zip(points, times, strict=True)]
    fitted = fit_level(1.0, samples)
    for part in (fitted.prefill, fitted.short, fitted.decode):
        assert min(astuple(part)) >= 0 < max(astuple(part))


def test_without_long_chunks_the_costs_of_short_ones_stand_for_them() -> None:
    truth = LevelLatency(1.0, PrefillCost(9, 9, 9), PrefillCost(1, 0.5, 0.01), DecodeCost(2, 0.01))
    fitted = fit_level(1.0, [s for s in _samples(truth) if s.num_tokens < 64])
    assert fitted.prefill == fitted.short


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_solution_is_optimal(seed: int) -> None:
    """Karush-Kuhn-Tucker: no gradient on used columns, none that would gain on unused ones."""
    matrix = np.random.default_rng(seed).normal(size=(6, 3))
    solution = non_negative_least_squares(matrix)
    gradient = matrix.T @ (matrix @ solution - 1)
    assert np.all(solution >= 0)
    assert np.allclose(gradient[solution > 0], 0, atol=1e-8)
    assert np.all(gradient[solution == 0] >= -1e-8)


def test_levels_between_are_interpolated_by_cost() -> None:
    low = LevelLatency(0.2, PrefillCost(1, 2, 3), PrefillCost(4, 5, 6), DecodeCost(7, 8))
    high = LevelLatency(1.0, PrefillCost(3, 4, 5), PrefillCost(6, 7, 8), DecodeCost(9, 10))
    middle = interpolate([(1.0, high), (0.25, low)], cost=0.625, ratio=0.6)
    expected = LevelLatency(0.6, PrefillCost(2, 3, 4), PrefillCost(5, 6, 7), DecodeCost(8, 9))
    assert middle == expected
