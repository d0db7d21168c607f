"""Which units matter: estimates of importance, and the orders they are compared with.

Every estimate orders the units of one layer. What units of different layers and kinds are worth
against each other is measured apart (`allocation`): none of these says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from operator import add
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pliant.elastify.activations import ActivationMeter, ImportanceMatrix
from pliant.elastify.calibration import mean_loss
from pliant.elastify.gates import Gates
from pliant.elastify.gradients import each_gradient
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import (
    Projection,
    UnitOrder,
    UnitScores,
    num_units,
    projections,
    sum_units,
)
from pliant.elastify.windows import Windows, joined
from pliant.errors import ElastifyError
from pliant.progress import Track, untracked

Batches = Sequence[Windows]
DEFAULT_IMPORTANCE = "taylor"


class Estimate(Protocol):
    """From token windows to what each unit is worth."""

    def __call__(
        self, model: Any, config: SourceConfig, batches: Batches, track: Track = ...
    ) -> UnitScores: ...


def check_importance(name: str) -> None:
    """Raises ElastifyError unless `name` is a key of IMPORTANCES."""
    if name not in IMPORTANCES:
        raise ElastifyError(f"importance {name!r} is not one of {', '.join(IMPORTANCES)}")


def taylor_scores(
    model: Any, config: SourceConfig, batches: Batches, track: Track = untracked
) -> UnitScores:
    """Sum over the unit's weights of |gradient x weight|, added up over the windows.

    First-order Taylor expansion, as in the ElastiLM paper. The absolute value is taken per
    window: gradients of a trained model cancel out over a corpus, and what is left of their sum
    says little. Needs memory for the gradients of one layer. Deterministic for given windows on
    one machine.
    """
    return _added_up(partial(_taylor, model, config), batches, track)


def fisher_scores(
    model: Any, config: SourceConfig, batches: Batches, track: Track = untracked
) -> UnitScores:
    """Second-order Taylor expansion of the loss by each unit's gate: -g + g^2 / 2.

    g is the derivative of a window's summed loss by the gate, and g^2 stands for the second
    derivative: the empirical Fisher information (Kwon et al. 2022, section 3).
    """
    with Gates(model, config) as gates:
        return _added_up(partial(_fisher, gates), batches, track)


def activation_scores(
    model: Any, config: SourceConfig, batches: Batches, track: Track = untracked
) -> UnitScores:
    """`energy_scores` of what goes into o and down on these windows. Needs no gradients."""
    meter = ActivationMeter()
    with meter.attached(model):
        mean_loss(model, batches, track, "activations")
    return energy_scores(model, config, meter.means())


def energy_scores(model: Any, config: SourceConfig, importance: ImportanceMatrix) -> UnitScores:
    """Mean square of what the unit adds to the residual stream: |weight|^2 x activation^2.

    Wanda's product (Sun et al. 2023, section 3) of the columns of o and down, squared and summed
    over the unit.
    """
    shape = (config.num_kv_heads, config.heads_per_kv, config.head_dim)
    queries, neurons = [], []
    for layer, projection, linear in projections(model):
        if projection.axis == 1:
            energy = importance[layer, projection.name] * _column_squares(linear)
            if projection.kind == "heads":
                queries.append(energy.reshape(shape).sum(-1))
            else:
                neurons.append(energy)
    return UnitScores.of_queries(np.stack(queries), np.stack(neurons))


def magnitude_scores(model: Any, config: SourceConfig) -> UnitScores:
    """Sum over the unit's weights of |weight|: needs no data."""
    sums = _WeightSums(config)
    for layer, projection, linear in projections(model):
        sums.add(layer, projection, linear.weight.detach().abs())
    return sums.scores()


IMPORTANCES: dict[str, Estimate] = {
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


def _added_up(score: Callable[[Windows], UnitScores], batches: Batches, track: Track) -> UnitScores:
    """Window by window, so that it can be shared out without changing the sum."""
    windows = joined(batches).split(1)
    done: Iterable[Windows] = track(windows, "importance of units", len(windows))
    return reduce(add, map(score, done))


def _taylor(model: Any, config: SourceConfig, window: Windows) -> UnitScores:
    sums = _WeightSums(config)

    def consume(layer: int, projection: Projection, weight: torch.Tensor, g: torch.Tensor) -> None:
        # In the gradient's own memory: a matrix in float32 is as large as two of the checkpoint's.
        sums.add(layer, projection, g.float().mul_(weight).abs_().mul_(window.weight))

    each_gradient(model, window, consume)
    return sums.scores()


def _fisher(gates: Gates, window: Windows) -> UnitScores:
    slopes, weight = gates.gradients([window]), window.weight
    queries = _second_order(slopes.queries * weight)
    return UnitScores.of_queries(queries, _second_order(slopes.neurons * weight))


def _second_order(slopes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return slopes**2 / 2 - slopes


class _WeightSums:
    """Adds up what the weights of each unit are worth."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._heads = np.zeros((config.num_layers, config.num_kv_heads))
        self._queries = np.zeros((config.num_layers, config.num_heads))
        self._neurons = np.zeros((config.num_layers, config.ff))

    def add(self, layer: int, projection: Projection, worth: torch.Tensor) -> None:
        """`worth` of each weight of one projection: [rows, columns]."""
        count = num_units(self._config, projection.kind)
        sums = sum_units(worth, projection.axis, count)
        if projection.kind == "neurons":
            self._neurons[layer] += sums
            return
        self._heads[layer] += sums
        if projection.has_queries:
            self._queries[layer] += sum_units(worth, projection.axis, self._config.num_heads)

    def scores(self) -> UnitScores:
        shape = (*self._heads.shape, self._config.heads_per_kv)
        return UnitScores(self._heads, self._queries.reshape(shape), self._neurons)


def _column_squares(linear: torch.nn.Linear) -> npt.NDArray[np.float64]:
    squares = linear.weight.detach().float().square().sum(0)
    return squares.cpu().double().numpy()
