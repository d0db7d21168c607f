"""What goes into each projection on the calibration text: the importance matrix by which ggml's
quantizers weigh their errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pliant.elastify.units import PROJECTIONS, UnitOrder, projections

# Mean squared activation per input column, float32 [columns], by layer and projection name.
ImportanceMatrix = dict[tuple[int, str], npt.NDArray[np.float32]]


class ActivationMeter:
    """Adds up squared inputs of the projections, as llama.cpp's imatrix tool does."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], torch.Tensor] = {}
        self._tokens: dict[tuple[int, str], int] = {}

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Measures every forward pass of `model` meanwhile."""
        handles = [
            linear.register_forward_pre_hook(partial(self._add, (layer, projection.name)))
            for layer, projection, linear in projections(model)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def means(self) -> ImportanceMatrix:
        """Over all tokens seen so far."""
        return {
            key: (total / self._tokens[key]).float().cpu().numpy()
            for key, total in self._sums.items()
        }

    @torch.no_grad()
    def _add(self, key: tuple[int, str], _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        squares = values.square().sum(0)
        self._sums[key] = self._sums.get(key, torch.zeros_like(squares)) + squares
        self._tokens[key] = self._tokens.get(key, 0) + len(values)


def reorder_columns(matrix: ImportanceMatrix, order: UnitOrder) -> ImportanceMatrix:
    """The same for the reordered model: the columns of o and down moved with their units."""
    return {key: _moved(key, values, order) for key, values in matrix.items()}


def _moved(
    key: tuple[int, str], values: npt.NDArray[np.float32], order: UnitOrder
) -> npt.NDArray[np.float32]:
    layer, name = key
    projection = next(one for one in PROJECTIONS if one.name == name)
    if projection.axis == 0:
        return values
    permutation = (order.heads if projection.kind == "heads" else order.neurons)[layer]
    moved: npt.NDArray[np.float32] = values.reshape(len(permutation), -1)[permutation].ravel()
    return moved
