"""Perplexity and accuracy of every level as it will run: the bundle's weights in the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pliant.bundle import Bundle
from pliant.elastify.progress import Track, untracked
from pliant.elastify.report.tasks import Question, TaskScore, score_tasks
from pliant.elastify.windows import Windows, joined, spread
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.engine.sampling import log_softmax
from pliant.engine.scoring import all_logits

# Every level computes them once or twice; perplexities of the same text compare well on fewer
# tokens than estimating importance takes.
PERPLEXITY_TOKENS = 2048


@dataclass(frozen=True)
class LevelMeasurement:
    """`perplexity` of the windows; `tasks` by name."""

    perplexity: float
    tasks: dict[str, TaskScore]


@dataclass(frozen=True)
class Measurements:
    """By the levels' ratios: `bare` of all levels, `adapted` of those with an adapter."""

    num_tokens: int
    bare: dict[float, LevelMeasurement]
    adapted: dict[float, LevelMeasurement]


def measure_levels(
    bundle: Bundle,
    batches: Sequence[Windows],
    questions: Sequence[Question] = (),
    track: Track = untracked,
) -> Measurements:
    """About PERPLEXITY_TOKENS of the windows are used, evenly spread. The model's weights stay
    mapped, not copied."""
    windows = joined(spread(batches, PERPLEXITY_TOKENS))
    bare = replace(bundle, levels=tuple(replace(one, adapter=None) for one in bundle.levels))
    adapted = [level.ratio for level in bundle.levels if level.adapter is not None]
    return Measurements(
        windows.tokens.numel(),
        _measure(bare, [level.ratio for level in bundle.levels], windows, questions, track),
        _measure(bundle, adapted, windows, questions, track) if adapted else {},
    )


def _measure(
    bundle: Bundle,
    ratios: Sequence[float],
    windows: Windows,
    questions: Sequence[Question],
    track: Track,
) -> dict[float, LevelMeasurement]:
    with ElasticModel(bundle, EngineOptions(layout="plain")) as model:
        return {
            ratio: LevelMeasurement(
                _perplexity(model, ratio, windows), score_tasks(model, questions, ratio)
            )
            for ratio in track(ratios, "perplexity of the levels", len(ratios))
        }


def _perplexity(model: ElasticModel, ratio: float, windows: Windows) -> float:
    """exp of the weighted mean of -log p(next token) inside the windows."""
    level, length = model.bundle.level(ratio), model.engine.context_length
    tokens, weights = windows.tokens[:, :length], windows.weights[:, : length - 1].numpy()
    total = 0.0
    with model.lease_slot() as slot:
        for row, row_weights in zip(tokens.tolist(), weights, strict=True):
            logs = log_softmax(all_logits(model.engine, level, slot, row[:-1]))
            total -= float(row_weights @ logs[np.arange(len(row) - 1), row[1:]])
    return math.exp(total / float(weights.sum()))
