"""Perplexity and accuracy of every level as it will run: the bundle's weights in the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from pliant.bundle import Bundle
from pliant.elastify.report.tasks import TaskScore, score_tasks
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.engine.questions import Question
from pliant.engine.sampling import log_softmax
from pliant.engine.scoring import all_logits
from pliant.progress import Track, untracked

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
    batches: Sequence[torch.Tensor],
    questions: Sequence[Question] = (),
    track: Track = untracked,
) -> Measurements:
    """`batches` are windows of calibration tokens, int64 [batch, window]; about
    PERPLEXITY_TOKENS of them are used, evenly spread. Weights stay mapped, not copied."""
    windows = _some(batches)
    bare = replace(bundle, levels=tuple(replace(one, adapter=None) for one in bundle.levels))
    adapted = [level.ratio for level in bundle.levels if level.adapter is not None]
    return Measurements(
        windows.size,
        _measure(bare, [level.ratio for level in bundle.levels], windows, questions, track),
        _measure(bundle, adapted, windows, questions, track) if adapted else {},
    )


def _measure(
    bundle: Bundle,
    ratios: Sequence[float],
    windows: npt.NDArray[np.int64],
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


def _perplexity(model: ElasticModel, ratio: float, windows: npt.NDArray[np.int64]) -> float:
    """exp of the mean -log p(next token) inside the windows."""
    level = model.bundle.level(ratio)
    windows = windows[:, : model.engine.context_length]
    total = 0.0
    with model.lease_slot() as slot:
        for window in windows.tolist():
            logs = log_softmax(all_logits(model.engine, level, slot, window[:-1]))
            total -= float(logs[np.arange(len(window) - 1), window[1:]].sum(dtype=np.float64))
    return math.exp(total / windows[:, 1:].size)


def _some(batches: Sequence[torch.Tensor]) -> npt.NDArray[np.int64]:
    windows = torch.cat(list(batches)).numpy()
    count = max(1, PERPLEXITY_TOKENS // windows.shape[1])
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).astype(int))
    result: npt.NDArray[np.int64] = windows[chosen]
    return result
