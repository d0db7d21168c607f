import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.slo import LevelLatency
from pliant.slo.fit import Sample, fit_level, interpolate, non_negative_least_squares

POINTS = [(32, 0), (128, 0), (256, 0), (512, 0), (128, 896)]
DEEP = [16, 500, 1000]


def _samples(truth: LevelLatency) -> tuple[list[Sample], list[Sample]]:
    prefill = [Sample(n, start, truth.prefill_ms(n, start)) for n, start in POINTS]
    return prefill, [Sample(1, kv, truth.decode_ms(kv)) for kv in DEEP]


coefficient = st.one_of(st.just(0.0), st.floats(1e-3, 10))


@given(coefficient, coefficient, coefficient, coefficient, st.floats(0.1, 10))
def test_synthetic_coefficients_are_recovered(
    chunk: float, token: float, pair: float, step: float, step_kv: float
) -> None:
    truth = LevelLatency(0.5, chunk, token + 1e-3, pair / 1000, step, step_kv / 1000)
    fitted = fit_level(0.5, *_samples(truth))
    for name in ("chunk_ms", "token_ms", "pair_ms", "step_ms", "step_kv_ms"):
        assert getattr(fitted, name) == pytest.approx(getattr(truth, name), rel=1e-4, abs=1e-5)


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 100), min_size=5, max_size=5))
def test_coefficients_are_never_negative(times: list[float]) -> None:
    prefill = [Sample(n, start, t) for (n, start), t in zip(POINTS, times, strict=True)]
    decode = [Sample(1, kv, t) for kv, t in zip(DEEP, times[:3], strict=True)]
    fitted = fit_level(1.0, prefill, decode)
    assert min(fitted.chunk_ms, fitted.token_ms, fitted.pair_ms) >= 0
    assert min(fitted.step_ms, fitted.step_kv_ms) >= 0
    assert fitted.prefill_ms(64, 0) > 0


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
    low, high = LevelLatency(0.2, 1, 2, 3, 4, 5), LevelLatency(1.0, 3, 4, 5, 6, 7)
    middle = interpolate([(1.0, high), (0.25, low)], cost=0.625, ratio=0.6)
    assert middle == LevelLatency(0.6, 2, 3, 4, 5, 6)
