"""Which units matter: first-order Taylor importance, and the orders it is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from pliant.elastify.calibration import batch_loss
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitOrder, UnitScores, num_units, projections, sum_units


def taylor_scores(model: Any, config: SourceConfig, batches: Sequence[torch.Tensor]) -> UnitScores:
    """Sum over the unit's weights of |gradient x weight|, added up over the windows.

    The absolute value is taken per window: gradients of a trained model cancel out over a
    corpus, and what is left of their sum says little. Needs memory for one gradient of every
    projection. Deterministic for given windows on one machine.
    """
    weights = [linear.weight.requires_grad_() for _, _, linear in projections(model)]
    scores = _empty_scores(config)
    for window in torch.split(torch.cat(list(batches)), 1):
        gradients = torch.autograd.grad(batch_loss(model, window), weights)
        products = (w.detach() * g for w, g in zip(weights, gradients, strict=True))
        _add_scores(scores, model, config, products)
    return scores


def magnitude_scores(model: Any, config: SourceConfig) -> UnitScores:
    """Sum over the unit's weights of |weight|: needs no data."""
    scores = _empty_scores(config)
    _add_scores(scores, model, config, (linear.weight for _, _, linear in projections(model)))
    return scores


def order_by(scores: UnitScores) -> UnitOrder:
    """Most important first; equal scores keep their order."""
    return UnitOrder(
        heads=np.argsort(-scores.heads, axis=1, kind="stable"),
        neurons=np.argsort(-scores.neurons, axis=1, kind="stable"),
    )


def natural_order(config: SourceConfig) -> UnitOrder:
    """The order the model came in."""
    return UnitOrder(
        heads=np.tile(np.arange(config.num_kv_heads), (config.num_layers, 1)),
        neurons=np.tile(np.arange(config.ff), (config.num_layers, 1)),
    )


def random_order(config: SourceConfig, seed: int) -> UnitOrder:
    """An own permutation for each layer."""
    generator = np.random.default_rng(seed)
    natural = natural_order(config)
    return UnitOrder(
        heads=generator.permuted(natural.heads, axis=1),
        neurons=generator.permuted(natural.neurons, axis=1),
    )


def _empty_scores(config: SourceConfig) -> UnitScores:
    return UnitScores(
        heads=np.zeros((config.num_layers, config.num_kv_heads)),
        neurons=np.zeros((config.num_layers, config.ff)),
    )


@torch.no_grad()
def _add_scores(
    scores: UnitScores, model: Any, config: SourceConfig, matrices: Iterable[torch.Tensor]
) -> None:
    """Adds each unit's sum of absolute values; one matrix per projection, in their order."""
    for (layer, projection, _), matrix in zip(projections(model), matrices, strict=True):
        sums = sum_units(matrix.abs(), projection.axis, num_units(config, projection.kind))
        target = scores.heads if projection.kind == "heads" else scores.neurons
        target[layer] += sums
