"""What encoders compute, against numpy."""

import math

import numpy as np
import pytest

from pliant.errors import TensorError
from pliant.ggml.context import Context
from pliant.ggml.types import GgmlType
from support.graph_bench import Bench

RNG = np.random.default_rng(4)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_norm() -> None:
    bench, x = Bench(), floats(5, 64)
    expected = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    out = bench.run(bench.context.norm(bench.put(x), 1e-5))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_activations() -> None:
    x = floats(4, 48) * 3
    bench = Bench()
    np.testing.assert_array_equal(bench.run(bench.context.relu(bench.put(x))), np.maximum(x, 0))
    bench = Bench()
    expected = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    np.testing.assert_allclose(bench.run(bench.context.gelu(bench.put(x))), expected, atol=1e-6)


def test_attention_of_several_texts_at_once() -> None:
    batch, heads, n, dims = 3, 2, 7, 32
    q, k, v = (floats(batch, heads, n, dims) for _ in range(3))
    hidden = np.zeros((batch, 1, n, n), dtype=np.float16)
    for index in range(batch):
        hidden[index, :, :, n - index :] = -np.inf
    bench = Bench()
    c = bench.context
    out = bench.run(c.flash_attention(*map(bench.put, (q, k, v, hidden)), 0.25))
    scores = np.einsum("bhnd,bhmd->bhnm", q, k) * 0.25 + hidden
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("bhnm,bhmd->bnhd", weights, v)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_masks_that_do_not_fit_the_texts_raise() -> None:
    with Context(max_tensors=8) as c:
        q = c.new_tensor(GgmlType.F32, 32, 4, 2, 3)
        for shape in ((4, 4, 1, 2), (4, 4, 2, 3), (4, 3, 1, 3), (5, 4, 1, 3)):
            with pytest.raises(TensorError):
                c.flash_attention(q, q, q, c.new_tensor(GgmlType.F16, *shape), 1.0)
