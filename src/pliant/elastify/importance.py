"""Which units matter: first-order Taylor importance, and the orders it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pliant.elastify.gradients import each_gradient
from pliant.elastify.progress import Track, untracked
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import (
    Projection,
    UnitOrder,
    UnitScores,
    num_units,
    projections,
    sum_units,
)


def taylor_scores(
    model: Any,
    config: SourceConfig,
    batches: Sequence[torch.Tensor],
    track: Track = untracked,
) -> UnitScores:
    """Sum over the unit's weights of |gradient x weight|, added up over the windows.

    The absolute value is taken per window: gradients of a trained model cancel out over a
    corpus, and what is left of their sum says little. Needs memory for the gradients of one
    layer. Deterministic for given windows on one machine.
    """
    scores = _empty_scores(config)

    def add(layer: int, projection: Projection, weight: torch.Tensor, g: torch.Tensor) -> None:
        _add_score(scores, config, layer, projection, (weight.float() * g).abs_())

    windows = torch.split(torch.cat(list(batches)), 1)
    for window in track(windows, "importance of units", len(windows)):
        each_gradient(model, window, add)
    return scores


def magnitude_scores(model: Any, config: SourceConfig) -> UnitScores:
    """Sum over the unit's weights of |weight|: needs no data."""
    scores = _empty_scores(config)
    for layer, projection, linear in projections(model):
        _add_score(scores, config, layer, projection, linear.weight.detach().abs())
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


def _add_score(
    scores: UnitScores,
    config: SourceConfig,
    layer: int,
    projection: Projection,
    magnitudes: torch.Tensor,
) -> None:
    """Adds each unit's sum in one projection's matrix of absolute values."""
    sums = sum_units(magnitudes, projection.axis, num_units(config, projection.kind))
    target = scores.heads if projection.kind == "heads" else scores.neurons
    target[layer] += sums
