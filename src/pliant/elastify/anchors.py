"""Anchor layers: the few layers a model cannot do without, which stay whole the longest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pliant.elastify.calibration import batch_loss
from pliant.elastify.windows import Windows
from pliant.errors import ElastifyError
from pliant.progress import Track, untracked

ANCHOR_SHARE = 0.19  # 6 of 32 layers, 5 of 26, as in the paper


def default_anchor_count(num_layers: int) -> int:
    """About a fifth of the layers, at least one."""
    return max(1, round(ANCHOR_SHARE * num_layers))


@torch.no_grad()
def losses_without_layers(
    model: Any, batches: Sequence[Windows], track: Track = untracked
) -> list[float]:
    """For each layer the mean loss of the model that leaves this layer out.

    What lies before the layer is computed once per batch, for all layers.
    """
    layers = model.model.layers
    totals = [0.0] * len(layers)
    for batch in track(batches, "anchor layers", len(batches)):
        inputs = _layer_inputs(model, batch)
        for index in range(len(layers)):
            with _starting_after(layers[: index + 1], inputs[index]):
                totals[index] += float(batch_loss(model, batch)) * batch.weight
    return [total / sum(batch.weight for batch in batches) for total in totals]


def choose_anchors(losses: Sequence[float], count: int) -> tuple[int, ...]:
    """The `count` layers whose removal costs most, in ascending order of their index."""
    if not 0 <= count <= len(losses):
        raise ElastifyError(f"{count} anchor layers asked for, the model has {len(losses)} layers")
    ranked = sorted(range(len(losses)), key=lambda layer: losses[layer], reverse=True)
    return tuple(sorted(ranked[:count]))


def _layer_inputs(model: Any, batch: Windows) -> list[torch.Tensor]:
    """Hidden states before each layer."""
    inputs: list[torch.Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _layer, args: inputs.append(args[0]))
        for layer in model.model.layers
    ]
    try:
        batch_loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


@contextmanager
def _starting_after(layers: Sequence[torch.nn.Module], hidden: torch.Tensor) -> Iterator[None]:
    """`layers` are skipped, and hand `hidden` to the one after them."""
    for layer in layers:
        layer.forward = lambda *_, **__: hidden
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
