"""Weights stay as the checkpoint stores them; products are computed in float32.

A bfloat16 model converted to float32 would take twice its size. Here a linear module converts a
few rows at a time while it multiplies, forward and backward, and keeps none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

# Elements converted at once: 4 MiB of float32.
CHUNK_ELEMENTS = 1 << 20


def widen(model: Any) -> Callable[[], None]:
    """Makes a transformers model of 16-bit weights compute in float32, in place; gives what undoes
    that.

    Modules stay `torch.nn.Linear`; copies and slices of the model compute in float32 too.
    Float32 models are left as they are, and those that were widened before.
    """
    embeddings = model.get_input_embeddings()
    is_wide = isinstance(model.get_output_embeddings(), WideLinear)
    if is_wide or embeddings.weight.dtype == torch.float32:
        return lambda: None
    hook = embeddings.register_forward_hook(_to_float)
    linears = [module for module in model.modules() if type(module) is torch.nn.Linear]
    for linear in linears:
        linear.__class__ = WideLinear

    def narrow() -> None:
        hook.remove()
        for linear in linears:
            linear.__class__ = torch.nn.Linear

    return narrow


@contextmanager
def widened(model: Any) -> Iterator[None]:
    """`widen` for a while."""
    narrow = widen(model)
    try:
        yield
    finally:
        narrow()


class WideLinear(torch.nn.Linear):
    """A linear module whose weight may be narrower than its input."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype == self.weight.dtype:
            return super().forward(input)
        output: torch.Tensor = _WideProduct.apply(input, self.weight)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias


class _WideProduct(torch.autograd.Function):
    """`input @ weight.T` for float32 [..., columns] and 16-bit [rows, columns]."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(input, weight)
        output = input.new_empty((*input.shape[:-1], len(weight)))
        for rows in _chunks(weight):
            output[..., rows] = functional.linear(input, weight[rows].to(input.dtype))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        input_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = torch.zeros_like(input)
            for rows in _chunks(weight):
                input_gradient += gradient[..., rows] @ weight[rows].to(gradient.dtype)
        if ctx.needs_input_grad[1]:
            weight_gradient = torch.empty_like(weight)
            flat, flat_input = gradient.flatten(0, -2), input.flatten(0, -2)
            for rows in _chunks(weight):
                weight_gradient[rows] = flat[:, rows].T @ flat_input
        return input_gradient, weight_gradient


def _chunks(weight: torch.Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK_ELEMENTS // weight.shape[1])
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


def _to_float(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()
