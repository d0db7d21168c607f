"""Our encoders of ggml's blocks against ggml's own, by what ggml's decoders make of both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.contexts.blocks import encode_rows
from pliant.ggml.quantize import dequantize, quantize
from pliant.ggml.types import GgmlType, row_size

TYPES = [GgmlType.Q8_0, GgmlType.Q4_K, GgmlType.Q2_K]
# Of the range of a group of numbers, zero included: half a step, and the rounding of its scale.
# At 2 bits the ends of the range are clipped.
MOST_OF_RANGE = {"Q8_0": 0.006, "Q4_K": 0.08, "Q2_K": 0.6}


def make_rows(seed: int, shape: tuple[int, int], scale: float, spikes: int) -> np.ndarray:
    """Noise with a mean, runs of equal numbers and a few spikes."""
    random = np.random.default_rng(seed)
    x = scale * (random.standard_normal(shape) + random.integers(-3, 4))
    x[:, : random.integers(shape[1])] = random.choice([0.0, scale, -scale])
    x.reshape(-1)[random.integers(x.size, size=spikes)] *= 100
    return x.astype(np.float32)


shapes = st.tuples(st.integers(1, 3), st.sampled_from([256, 512]))
rows = st.builds(make_rows, st.integers(0, 2**32), shapes, st.floats(1e-6, 1e3), st.integers(0, 20))


def relative_error(x: np.ndarray, encoded: np.ndarray, type_: GgmlType) -> float:
    return float(np.sqrt(((x - dequantize(encoded, type_)) ** 2).mean() / (x**2).mean()))


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("kind", ["normal", "laplace", "shifted", "uniform"])
def test_as_close_as_ggml(type_: GgmlType, kind: str) -> None:
    random = np.random.default_rng(1)
    x = {
        "normal": random.standard_normal((64, 1024)),
        "laplace": random.laplace(size=(64, 1024)),
        "shifted": random.standard_normal((64, 1024)) + 3,
        "uniform": random.random((64, 1024)),
    }[kind].astype(np.float32)
    ours = relative_error(x, encode_rows(x, type_), type_)
    assert ours <= 1.1 * relative_error(x, quantize(x, type_), type_)


@pytest.mark.parametrize("type_", TYPES)
@settings(max_examples=60, deadline=None)
@given(x=rows)
def test_any_numbers_stay_in_bounds(type_: GgmlType, x: np.ndarray) -> None:
    encoded = encode_rows(x, type_)
    assert encoded.shape == (len(x), row_size(type_, x.shape[1]))
    found = dequantize(encoded, type_).reshape(-1, 256)
    blocks = x.reshape(-1, 256)
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    bound = MOST_OF_RANGE[type_.name] * (high - low) + 1e-3
    assert (np.abs(found - blocks).max(axis=1) <= bound).all()


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("value", [0.0, 1e-30, -2.5, 7.0])
def test_equal_numbers(type_: GgmlType, value: float) -> None:
    x = np.full((2, 256), value, dtype=np.float32)
    found = dequantize(encode_rows(x, type_), type_)
    np.testing.assert_allclose(found, x, rtol=0.02, atol=1e-6)
