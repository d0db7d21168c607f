"""Anchor layers: the few layers a model cannot do without, which stay whole the longest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pliant.elastify.calibration import mean_loss
from pliant.elastify.submodel import NoAttention, NoMlp
from pliant.errors import ElastifyError

ANCHOR_SHARE = 0.19  # 6 of 32 layers, 5 of 26, as in the paper


def default_anchor_count(num_layers: int) -> int:
    """About a fifth of the layers, at least one."""
    return max(1, round(ANCHOR_SHARE * num_layers))


def losses_without_layers(model: Any, batches: Sequence[torch.Tensor]) -> list[float]:
    """For each layer the mean loss of the model that leaves this layer out."""
    losses = []
    for layer in range(len(model.model.layers)):
        with _without_layer(model, layer):
            losses.append(mean_loss(model, batches))
    return losses


def choose_anchors(losses: Sequence[float], count: int) -> tuple[int, ...]:
    """The `count` layers whose removal costs most, in ascending order of their index."""
    if not 0 <= count <= len(losses):
        raise ElastifyError(f"{count} anchor layers asked for, the model has {len(losses)} layers")
    ranked = sorted(range(len(losses)), key=lambda layer: losses[layer], reverse=True)
    return tuple(sorted(ranked[:count]))


@contextmanager
def _without_layer(model: Any, layer: int) -> Iterator[None]:
    """The layer adds nothing meanwhile. It keeps its place: what kind of layer the others are,
    with a window or not, goes by their index."""
    block = model.model.layers[layer]
    removed = block.self_attn, block.mlp
    block.self_attn, block.mlp = NoAttention(), NoMlp()
    try:
        yield
    finally:
        block.self_attn, block.mlp = removed
