"""Perplexity and accuracy of every level as it will run: the bundle's weights in the engine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pliant.bundle import Bundle
from pliant.elastify.report.tasks import TaskScore, score_tasks
from pliant.elastify.windows import Windows, joined, spread
from pliant.elastify.work import WorkFolder
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.engine.questions import Question
from pliant.engine.scoring import log_probabilities
from pliant.engine.span import Span
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
    batches: Sequence[Windows],
    questions: Sequence[Question],
    work: WorkFolder,
    track: Track = untracked,
) -> Measurements:
    """About PERPLEXITY_TOKENS of the windows are used, evenly spread. The model's weights stay
    mapped, not copied. Each level is a step of its own in `work`, whose inputs must tell the
    windows."""
    windows = joined(spread(batches, PERPLEXITY_TOKENS))
    bare = replace(bundle, levels=tuple(replace(one, adapter=None) for one in bundle.levels))
    adapted = [level.ratio for level in bundle.levels if level.adapter is not None]
    return Measurements(
        windows.tokens.numel(),
        _measure(bare, [level.ratio for level in bundle.levels], windows, questions, work, track),
        _measure(bundle, adapted, windows, questions, work, track) if adapted else {},
    )


def _measure(
    bundle: Bundle,
    ratios: Sequence[float],
    windows: Windows,
    questions: Sequence[Question],
    work: WorkFolder,
    track: Track,
) -> dict[float, LevelMeasurement]:
    asked = [asdict(question) for question in questions]

    def write(ratio: float, path: Path) -> None:
        found = LevelMeasurement(
            _perplexity(model, ratio, windows), score_tasks(model, questions, ratio)
        )
        path.write_text(json.dumps(asdict(found)), encoding="utf-8")

    measured = {}
    with ElasticModel(bundle, EngineOptions(layout="plain")) as model:
        for ratio in track(ratios, "perplexity of the levels", len(ratios)):
            inputs = {"questions": asked, **_identity(bundle, ratio)}
            path = work.file("measurement.json", inputs, partial(write, ratio))
            measured[ratio] = _read(path)
    return measured


def _identity(bundle: Bundle, ratio: float) -> dict[str, Any]:
    """What the model of a level is made of; the name of the draft tells its own inputs."""
    level = bundle.level(ratio)
    adapter = None
    if level.adapter is not None:
        content = bundle.adapters[level.adapter].gguf.path.read_bytes()
        adapter = hashlib.sha256(content).hexdigest()
    return {"model": bundle.gguf.path.name, "level": asdict(level), "adapter": adapter}


def _read(path: Path) -> LevelMeasurement:
    found = json.loads(path.read_text(encoding="utf-8"))
    tasks = {task: TaskScore(**score) for task, score in found["tasks"].items()}
    return LevelMeasurement(found["perplexity"], tasks)


def _perplexity(model: ElasticModel, ratio: float, windows: Windows) -> float:
    """exp of the weighted mean of -log p(next token) inside the windows."""
    level, length = model.bundle.level(ratio), model.engine.context_length
    tokens, weights = windows.tokens[:, :length], windows.weights[:, : length - 1].numpy()
    total = 0.0
    with model.lease_slot() as slot:
        for row, row_weights in zip(tokens.tolist(), weights, strict=True):
            span = Span(slot, row[:-1], 0, "all")
            logs = log_probabilities(model.engine, level, [span], row[1:])
            total -= float(row_weights @ logs)
    return math.exp(total / float(weights.sum()))
