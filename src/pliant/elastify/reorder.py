"""One-shot reordering: after it, every sub-model is a prefix of each matrix.

Moving whole units inside a layer leaves the layer's output as it was, but for the order in
which its terms are added up.
"""

from __future__ import annotations

from typing import Any

import torch

from pliant.elastify.source import SourceConfig
from pliant.elastify.units import Projection, UnitOrder, num_units, projections, split_units
from pliant.errors import ElastifyError


def reorder_matrix(
    matrix: torch.Tensor, projection: Projection, layer: int, order: UnitOrder
) -> torch.Tensor:
    """One projection's weight with its units in `order`; a new tensor of the same shape.

    A bias is reordered as a matrix of one column.

    Knows one matrix at a time, so a model can also be reordered while it is streamed.
    """
    permutation = (order.heads if projection.kind == "heads" else order.neurons)[layer]
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


def _check_order(config: SourceConfig, order: UnitOrder) -> None:
    """Anything but a permutation would silently drop or double units."""
    for name, rows in (("heads", order.heads), ("neurons", order.neurons)):
        count = num_units(config, "heads" if name == "heads" else "neurons")
        expected = list(range(count))
        if len(rows) != config.num_layers or any(sorted(row) != expected for row in rows.tolist()):
            raise ElastifyError(
                f"the order of {name} is not a permutation of {count} in {config.num_layers} layers"
            )
