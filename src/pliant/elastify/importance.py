"""Which units matter: estimates of importance, and the orders they are compared with.

Every estimate orders the units of one layer. What units of different layers and kinds are worth
against each other is measured apart (`allocation`): none of these says it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pliant.elastify.calibration import batch_loss
from pliant.elastify.gates import Gates
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitOrder, UnitScores, num_units, projections, sum_units
from pliant.errors import ElastifyError

Batches = Sequence[torch.Tensor]


def importance_scores(name: str, model: Any, config: SourceConfig, batches: Batches) -> UnitScores:
    """The estimate called `name`, a key of IMPORTANCES; raises ElastifyError for another."""
    check_importance(name)
    return IMPORTANCES[name](model, config, batches)


def check_importance(name: str) -> None:
    """Raises ElastifyError unless `name` is a key of IMPORTANCES."""
    if name not in IMPORTANCES:
        raise ElastifyError(f"importance {name!r} is not one of {', '.join(IMPORTANCES)}")


def taylor_scores(model: Any, config: SourceConfig, batches: Batches) -> UnitScores:
    """Sum over the unit's weights of |gradient x weight|, added up over the windows.

    First-order Taylor expansion, as in the ElastiLM paper. The absolute value is taken per
    window: gradients of a trained model cancel out over a corpus, and what is left of their sum
    says little. Needs memory for one gradient of every projection. Deterministic for given
    windows on one machine.
    """
    sums = _WeightSums(model, config)
    weights = [linear.weight.requires_grad_() for _, _, linear in projections(model)]
    for window in torch.split(torch.cat(list(batches)), 1):
        gradients = torch.autograd.grad(batch_loss(model, window), weights)
        sums.add([w.detach() * g for w, g in zip(weights, gradients, strict=True)])
    return sums.scores()


def fisher_scores(model: Any, config: SourceConfig, batches: Batches) -> UnitScores:
    """Second-order Taylor expansion of the loss by each unit's gate: -g + g^2 / 2.

    g is the derivative of a window's summed loss by the gate, and g^2 stands for the second
    derivative: the empirical Fisher information (Kwon et al. 2022, section 3).
    """
    windows = torch.split(torch.cat(list(batches)), 1)
    queries = np.zeros((config.num_layers, config.num_kv_heads, config.heads_per_kv))
    neurons = np.zeros((config.num_layers, config.ff))
    with Gates(model, config) as gates:
        for window in windows:
            slopes = gates.gradients([window])
            tokens = window.numel()
            queries += _second_order(slopes.queries * tokens)
            neurons += _second_order(slopes.neurons * tokens)
    return UnitScores.of_queries(queries, neurons)


def activation_scores(model: Any, config: SourceConfig, batches: Batches) -> UnitScores:
    """Mean square of what the unit adds to the residual stream: |weight|^2 x activation^2.

    Wanda's product (Sun et al. 2023, section 3) of the columns of o and down, squared and summed
    over the unit. Needs no gradients.
    """
    squares = _input_squares(model, batches)
    queries, neurons = [], []
    for block, (attention, mlp) in zip(model.model.layers, squares, strict=True):
        energy = attention * _column_squares(block.self_attn.o_proj)
        shape = (config.num_kv_heads, config.heads_per_kv, config.head_dim)
        queries.append(energy.reshape(shape).sum(-1).numpy())
        neurons.append((mlp * _column_squares(block.mlp.down_proj)).numpy())
    return UnitScores.of_queries(np.stack(queries), np.stack(neurons))


def magnitude_scores(model: Any, config: SourceConfig) -> UnitScores:
    """Sum over the unit's weights of |weight|: needs no data."""
    sums = _WeightSums(model, config)
    sums.add([linear.weight.detach() for _, _, linear in projections(model)])
    return sums.scores()


IMPORTANCES: dict[str, Callable[[Any, SourceConfig, Batches], UnitScores]] = {
    "taylor": taylor_scores,
    "fisher": fisher_scores,
    "activation": activation_scores,
}


def order_by(scores: UnitScores) -> UnitOrder:
    """Most important first; equal scores keep their order."""
    return UnitOrder(
        heads=np.argsort(-scores.heads, axis=1, kind="stable"),
        queries=np.argsort(-scores.queries, axis=2, kind="stable"),
        neurons=np.argsort(-scores.neurons, axis=1, kind="stable"),
    )


def natural_order(config: SourceConfig) -> UnitOrder:
    """The order the model came in."""
    layers, groups = config.num_layers, config.num_kv_heads
    return UnitOrder(
        heads=np.tile(np.arange(groups), (layers, 1)),
        queries=np.tile(np.arange(config.heads_per_kv), (layers, groups, 1)),
        neurons=np.tile(np.arange(config.ff), (layers, 1)),
    )


def random_order(config: SourceConfig, seed: int) -> UnitOrder:
    """An own permutation for each layer."""
    generator = np.random.default_rng(seed)
    natural = natural_order(config)
    return UnitOrder(
        heads=generator.permuted(natural.heads, axis=1),
        queries=generator.permuted(natural.queries, axis=2),
        neurons=generator.permuted(natural.neurons, axis=1),
    )


class _WeightSums:
    """Adds up absolute values of the weights of each unit."""

    def __init__(self, model: Any, config: SourceConfig) -> None:
        self._model = model
        self._config = config
        self._heads = np.zeros((config.num_layers, config.num_kv_heads))
        self._queries = np.zeros((config.num_layers, config.num_heads))
        self._neurons = np.zeros((config.num_layers, config.ff))

    @torch.no_grad()
    def add(self, matrices: Sequence[torch.Tensor]) -> None:
        """One matrix per projection, in their order."""
        for (layer, projection, _), matrix in zip(projections(self._model), matrices, strict=True):
            count = num_units(self._config, projection.kind)
            sums = sum_units(matrix.abs(), projection.axis, count)
            if projection.kind == "neurons":
                self._neurons[layer] += sums
                continue
            self._heads[layer] += sums
            if projection.has_queries:
                heads = sum_units(matrix.abs(), projection.axis, self._config.num_heads)
                self._queries[layer] += heads

    def scores(self) -> UnitScores:
        shape = (*self._heads.shape, self._config.heads_per_kv)
        return UnitScores(self._heads, self._queries.reshape(shape), self._neurons)


def _second_order(slopes: Any) -> Any:
    return slopes**2 / 2 - slopes


def _column_squares(linear: torch.nn.Linear) -> torch.Tensor:
    return linear.weight.detach().float().square().sum(0).cpu().double()


@torch.no_grad()
def _input_squares(model: Any, batches: Batches) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Per layer the sum of squares of each input of o and of down, over all tokens."""
    modules = [(layer.self_attn.o_proj, layer.mlp.down_proj) for layer in model.model.layers]
    sums = {
        linear: torch.zeros(linear.in_features, dtype=torch.float64)
        for pair in modules
        for linear in pair
    }

    def observe(linear: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sums[linear] += inputs[0].float().square().sum((0, 1)).cpu().double()

    hooks = [linear.register_forward_pre_hook(observe) for linear in sums]
    try:
        for batch in batches:
            batch_loss(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [(sums[output], sums[down]) for output, down in modules]
