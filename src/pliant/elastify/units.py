"""Units: the groups of weights that can move together inside a layer without changing it.

An attention unit is one KV head with its query heads (its rows of q, k and v, its columns of
o); an MLP unit is one neuron (its row of gate and up, its column of down).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pliant.elastify.source import SourceConfig

Kind = Literal["heads", "neurons"]


@dataclass(frozen=True)
class Projection:
    """A linear module of a layer: which units it holds, along its rows (0) or columns (1)."""

    name: str
    kind: Kind
    axis: Literal[0, 1]


PROJECTIONS = (
    Projection("self_attn.q_proj", "heads", 0),
    Projection("self_attn.k_proj", "heads", 0),
    Projection("self_attn.v_proj", "heads", 0),
    Projection("self_attn.o_proj", "heads", 1),
    Projection("mlp.gate_proj", "neurons", 0),
    Projection("mlp.up_proj", "neurons", 0),
    Projection("mlp.down_proj", "neurons", 1),
)


@dataclass(frozen=True)
class UnitScores:
    """Importance, larger is more important: float64 [layers, kv_heads] and [layers, ff]."""

    heads: npt.NDArray[np.float64]
    neurons: npt.NDArray[np.float64]


@dataclass(frozen=True)
class UnitOrder:
    """Per layer the unit that comes first, second, ...: int64 [layers, kv_heads], [layers, ff]."""

    heads: npt.NDArray[np.int64]
    neurons: npt.NDArray[np.int64]


def num_units(config: SourceConfig, kind: Kind) -> int:
    """Units of `kind` in each layer."""
    return config.num_kv_heads if kind == "heads" else config.ff


def projections(model: Any) -> Iterator[tuple[int, Projection, torch.nn.Linear]]:
    """Every elastic linear module of a model, layer by layer."""
    for layer, block in enumerate(model.model.layers):
        for projection in PROJECTIONS:
            yield layer, projection, block.get_submodule(projection.name)


def split_units(matrix: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    """A view with the units as an own axis: [count, rows/count, columns] along rows (0),
    [rows, count, columns/count] along columns (1)."""
    rows, columns = matrix.shape
    if axis == 0:
        return matrix.reshape(count, rows // count, columns)
    return matrix.reshape(rows, count, columns // count)


def sum_units(matrix: torch.Tensor, axis: int, count: int) -> npt.NDArray[np.float64]:
    """Sum of the matrix over each unit: float64 [count]."""
    # Rows of a unit are summed where the matrix is; not every device has float64.
    parts = split_units(matrix, axis, count).sum(2).cpu()
    return np.asarray(parts.sum(1 - axis, dtype=torch.float64).numpy(), dtype=np.float64)
