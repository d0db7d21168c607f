"""Factors to begin with, in closed form: what the dropped units added, as far as it follows from
those that stay.

Where a layer writes to the residual stream (`o_proj`, `down_proj`), the sub-model's output misses
something that the full model's has. Of all maps of a rank from the module's own inputs, the one
that comes closest to it in least squares (reduced-rank regression: Izenman, J. Multivariate
Analysis 5, 1975) becomes its B A. One pass over a few thousand tokens fits all layers in turn, so
that each one sees what those before it have mended already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pliant.elastify.examples import Example
from pliant.elastify.recovery.batches import Batch, collate
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.source import Dtype

FIT_TOKENS = 8192
_OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
_RIDGE = 1e-2  # of the mean square of an input
_CONTEXT_WEIGHT = 0.1  # of a token that nothing is to be predicted from, but later ones attend to

Outputs = dict[str, torch.Tensor]
"""By module, in bfloat16 [tokens, out]: what it writes for each token that is no padding."""


class Sample:
    """The tokens that factors are fitted on."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.batch = collate(examples)
        lengths = torch.tensor([len(example.tokens) for example in examples])
        self._is_real = torch.arange(self.batch.tokens.shape[1]) < lengths[:, None]
        weights = torch.nn.functional.pad(self.batch.weights, (0, 1)) + _CONTEXT_WEIGHT
        self.weights = weights[self._is_real]

    def real(self, values: torch.Tensor) -> torch.Tensor:
        """[rows, length, n] -> [tokens, n], without padding."""
        return values[self._is_real.to(values.device)]


@torch.no_grad()
def full_outputs(model: Any, sample: Sample, dtype: Dtype) -> Outputs:
    """What the full model's layers write."""
    found: Outputs = {}

    def keep(name: str, _: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        found[name] = sample.real(output).to(torch.bfloat16)
        return output

    with _hooks(model, keep):
        _run(model, sample.batch, dtype)
    return found


@torch.no_grad()
def fit_factors(adapted: Any, full: Outputs, sample: Sample, options: RecoveryOptions) -> None:
    """Writes the factors of the modules in `_OUTPUTS`, the others' are left as they are."""

    def fit(name: str, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        module = adapted.get_submodule(name)
        missing = full[name].to(output.device).float() - sample.real(output).float()
        weights = sample.weights.to(output.device)
        a, b = reduced_rank(sample.real(inputs).float(), missing, weights, options.rank)
        module.lora_A["default"].weight.copy_(a)
        module.lora_B["default"].weight.copy_(b * (options.rank / options.alpha))
        return output + (inputs.float() @ a.T @ b.T).to(output.dtype)

    with _hooks(adapted, fit):
        _run(adapted, sample.batch, options.dtype)


def reduced_rank(
    inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in] and B [out, rank] so that inputs A' B' is close to `targets` [tokens, out].

    Least squares with the tokens' `weights` and a small ridge. B's columns are orthonormal.
    """
    # Sums over thousands of tokens are of no use in bfloat16.
    with torch.autocast(inputs.device.type, enabled=False):
        weighted = inputs * weights[:, None]
        square, cross = weighted.T @ inputs, weighted.T @ targets
        ridge = max(float(square.diagonal().mean()) * _RIDGE, torch.finfo(torch.float32).tiny)
        square.diagonal().add_(ridge)
        weight = torch.linalg.solve(square, cross)
        directions = torch.linalg.eigh(cross.T @ weight).eigenvectors[:, -rank:]
        if directions.shape[1] < rank:
            directions = torch.nn.functional.pad(directions, (0, rank - directions.shape[1]))
        return (weight @ directions).T.contiguous(), directions.contiguous()


@contextmanager
def _hooks(
    model: Any, change: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Every module in `_OUTPUTS` that is there gives what `change` makes of its name, its input
    and its output."""
    handles = []
    for name, module in model.named_modules():
        if name.endswith(_OUTPUTS):
            handles.append(
                module.register_forward_hook(
                    lambda _, inputs, output, name=name: change(name, inputs[0], output)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: Any, batch: Batch, dtype: Dtype) -> None:
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
        model(input_ids=batch.tokens.to(device), use_cache=False, logits_to_keep=1)
