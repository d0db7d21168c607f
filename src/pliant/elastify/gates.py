"""Gates: a factor on the output of every query head and MLP neuron of a model.

With a gate at 0 the model computes what it would without that unit; the gradient by the gate
says how the loss depends on it. Nothing is copied, so a plan can be tried on a model of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pliant.bundle.plan import Plan
from pliant.elastify.calibration import batch_loss, mean_loss
from pliant.elastify.gradients import checkpointed, frozen
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitScores
from pliant.elastify.windows import Windows

Gate = torch.Tensor


class Gates:
    """Holds the gates of a reordered transformers model while the `with` block runs.

    Gates belong to positions: the first units of a layer are those that plans keep.
    """

    def __init__(self, model: Any, config: SourceConfig) -> None:
        self._model = model
        self._config = config
        self._heads: list[Gate] = []
        self._neurons: list[Gate] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Gates:
        c = self._config
        for layer in self._model.model.layers:
            output, down = layer.self_attn.o_proj, layer.mlp.down_proj
            self._heads.append(self._attach(output, (c.num_kv_heads, c.heads_per_kv), c.head_dim))
            self._neurons.append(self._attach(down, (c.ff,), 1))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._heads, self._neurons = [], [], []

    def set(self, plan: Plan, inner: Plan | None = None, share: float = 0.5) -> None:
        """Opens the gates of `plan` and closes all others; with `inner`, a plan inside it, units
        between the two are at `share`."""
        self._fill(plan, 1.0, clear=True)
        if inner is not None:
            self._fill(plan, share)
            self._fill(inner, 1.0)

    def loss(self, batches: Sequence[Windows]) -> float:
        """Weighted mean of the next-token loss (nats) over all windows."""
        return mean_loss(self._model, batches)

    def gradients(self, batches: Sequence[Windows]) -> UnitScores:
        """Derivative of the mean loss by every gate; activations of one layer are kept."""
        gates = [*self._heads, *self._neurons]
        sums = [np.zeros(gate.shape) for gate in gates]
        for gate in gates:
            gate.requires_grad_()
        with frozen(self._model), checkpointed(self._model.model.layers):
            for batch in batches:
                parts = torch.autograd.grad(batch_loss(self._model, batch), gates)
                for total, part in zip(sums, parts, strict=True):
                    total += part.cpu().double().numpy() * batch.weight
        for gate in gates:
            gate.requires_grad_(False)
        weight = sum(batch.weight for batch in batches)
        rows = [total / weight for total in sums]
        num_layers = self._config.num_layers
        return UnitScores.of_queries(np.stack(rows[:num_layers]), np.stack(rows[num_layers:]))

    def _attach(self, linear: torch.nn.Linear, shape: tuple[int, ...], width: int) -> Gate:
        gate = torch.ones(shape, device=linear.weight.device)

        def scale(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            factors = gate.flatten().repeat_interleave(width)
            return ((inputs[0].float() * factors).to(inputs[0].dtype),)

        self._hooks.append(linear.register_forward_pre_hook(scale))
        return gate

    def _fill(self, plan: Plan, value: float, *, clear: bool = False) -> None:
        for heads, neurons, layer in zip(self._heads, self._neurons, plan.layers, strict=True):
            if clear:
                heads.zero_()
                neurons.zero_()
            heads[: layer.kv_heads, : layer.heads_per_kv] = value
            neurons[: layer.ff] = value
