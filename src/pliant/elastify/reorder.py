"""One-shot reordering: after it, every sub-model is a prefix of each matrix.

Moving whole units inside a layer leaves the layer's output as it was, but for the order in
which its terms are added up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pliant.elastify.source import SourceConfig
from pliant.elastify.units import Projection, UnitOrder, projections, split_units
from pliant.errors import ElastifyError


def reorder_matrix(
    matrix: torch.Tensor, projection: Projection, layer: int, order: UnitOrder
) -> torch.Tensor:
    """One projection's weight with its units in `order`; a new tensor of the same shape.

    A bias is reordered as a matrix of one column.

    Knows one matrix at a time, so a model can also be reordered while it is streamed.
    """
    permutation = permutation_of(projection, layer, order)
    units = split_units(matrix, projection.axis, len(permutation))
    index = torch.as_tensor(permutation, device=matrix.device)
    return units.index_select(projection.axis, index).reshape(matrix.shape)


@torch.no_grad()
def reorder_model(model: Any, config: SourceConfig, order: UnitOrder) -> None:
    """Reorders all layers of a transformers model in place, anchors too."""
    _check_order(config, order)
    for layer, projection, linear in projections(model):
        linear.weight.copy_(reorder_matrix(linear.weight, projection, layer, order))
        if linear.bias is not None and projection.axis == 0:
            bias = reorder_matrix(linear.bias[:, None], projection, layer, order)
            linear.bias.copy_(bias[:, 0])


def permutation_of(projection: Projection, layer: int, order: UnitOrder) -> npt.NDArray[np.int64]:
    """The old place of each of the projection's units, at its finest: neurons, KV heads, or
    query heads inside their groups."""
    neurons: npt.NDArray[np.int64] = order.neurons[layer]
    groups: npt.NDArray[np.int64] = order.heads[layer]
    if projection.kind == "neurons":
        return neurons
    if not projection.has_queries:
        return groups
    queries = order.queries[layer][groups]
    return np.asarray(groups[:, None] * queries.shape[1] + queries).ravel()


def _check_order(config: SourceConfig, order: UnitOrder) -> None:
    """Anything but a permutation would silently drop or double units."""
    layers, groups = config.num_layers, config.num_kv_heads
    for name, found, shape in (
        ("heads", order.heads, (layers, groups)),
        ("queries", order.queries, (layers, groups, config.heads_per_kv)),
        ("neurons", order.neurons, (layers, config.ff)),
    ):
        count = shape[-1]
        if found.shape != shape or np.any(np.sort(found, axis=-1) != np.arange(count)):
            raise ElastifyError(
                f"the order of {name} is not a permutation of {count} in {layers} layers"
            )
