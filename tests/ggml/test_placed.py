"""Tensors that keep their content between graphs."""

import numpy as np
import pytest

from pliant.errors import TensorError
from pliant.ggml.placed import PlacedTensors
from pliant.ggml.types import GgmlType


def test_each_has_zeros_of_its_own() -> None:
    placed = PlacedTensors(max_tensors=3)
    vector = placed.new(GgmlType.I32, 5)
    matrix = placed.new(GgmlType.F32, 4, 3)
    assert (vector.shape, matrix.shape) == ((5, 1, 1, 1), (4, 3, 1, 1))
    assert not vector.numpy().any()
    vector.numpy()[:] = 7
    matrix.numpy()[:] = 2.5
    half = placed.new(GgmlType.F16, 5)
    half.numpy()[:] = 1
    np.testing.assert_array_equal(vector.numpy().reshape(-1), np.full(5, 7))
    np.testing.assert_array_equal(matrix.numpy().reshape(-1), np.full(12, 2.5))
    with pytest.raises(TensorError, match="made for fewer tensors"):
        placed.new(GgmlType.I32, 1)
    placed.close()
    placed.close()
