"""Gradients of the elastic projections, one at a time: they are never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from pliant.elastify.calibration import batch_loss
from pliant.elastify.units import Projection, projections
from pliant.elastify.windows import Windows

# Layer, projection, its weight, its gradient: both [rows, columns], valid during the call.
Consumer = Callable[[int, Projection, torch.Tensor, torch.Tensor], None]


def each_gradient(model: Any, window: Windows, consume: Consumer) -> None:
    """Calls `consume` with the gradient of the mean loss of `window` in each
    projection's weight, last layer first.

    Activations of one layer at a time are kept (gradient checkpointing), and a gradient is freed
    when `consume` returns.
    """
    with _only_projections_learn(model), checkpointed(model.model.layers):
        handles = [
            linear.weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(_hand_over, consume, layer, projection)
            )
            for layer, projection, linear in projections(model)
        ]
        try:
            torch.autograd.backward(batch_loss(model, window))
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def _hand_over(consume: Consumer, layer: int, projection: Projection, weight: torch.Tensor) -> None:
    gradient, weight.grad = weight.grad, None
    assert gradient is not None  # the hook runs because it was just computed
    consume(layer, projection, weight.detach(), gradient)


@contextmanager
def _only_projections_learn(model: Any) -> Iterator[None]:
    with frozen(model):
        for _, _, linear in projections(model):
            linear.weight.requires_grad_()
        yield


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No gradients for the model's parameters meanwhile."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def checkpointed(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Each layer keeps only its input, and is computed again on the way back."""
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
