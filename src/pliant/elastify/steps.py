"""The steps of making a model elastic; what takes long is kept in the work folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pliant.bundle import (
    Architecture,
    Level,
)
from pliant.elastify.activations import reorder_columns
from pliant.elastify.analysis import Analysis
from pliant.elastify.calibration import Calibration
from pliant.elastify.cluster import connect
from pliant.elastify.export import write_gguf
from pliant.elastify.inputs import Source
from pliant.elastify.plans import PlanChoice, choose_plans
from pliant.elastify.precision import widen
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.levels import AdaptedLevels, adapt_levels
from pliant.elastify.recovery.options import Recovery
from pliant.elastify.reorder import reorder_model
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.source import SourceConfig, config_of
from pliant.elastify.submodel import logits
from pliant.elastify.verify import (
    expected_logits,
    reorder_difference,
    sample_length,
)
from pliant.elastify.work import WorkFolder
from pliant.progress import Track

Report = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What every step of a run needs."""

    name: str
    source: Source
    text: Calibration
    quantization: str
    work: WorkFolder
    stopwatch: Stopwatch
    report: Report
    track: Track

    @property
    def sample(self) -> torch.Tensor:
        """Token ids that logits are compared on."""
        return self.text.batches[0][0][: sample_length(self.source.config.vocab_size)]


def reorder(model: Any, config: SourceConfig, analysis: Analysis, sample: torch.Tensor) -> float:
    """Largest change of a logit. From here on all is computed in float32, to be compared."""
    widen(model)
    before = logits(model, sample[None])
    reorder_model(model, config, analysis.order)
    return reorder_difference(before, logits(model, sample[None]))


def export_draft(
    model: Any,
    source: Source,
    analysis: Analysis,
    quantization: str,
    name: str,
    work: WorkFolder,
    track: Track,
) -> Path:
    """The whole model as a GGUF file in the work folder."""
    importance = reorder_columns(analysis.importance, analysis.order)

    def write(path: Path) -> None:
        write_gguf(
            model, source.vocabulary, path, quantization, name, importance=importance, track=track
        )

    inputs = {"order": analysis.order_sha256, "quantization": quantization, "name": name}
    return work.file("model.gguf", inputs, write)


def widths(
    model: Any,
    architecture: Architecture,
    text: Calibration,
    anchors: Sequence[int],
    analysis: Analysis,
    kind: str,
    limits: Mapping[str, Any],
    work: WorkFolder,
    track: Track,
) -> PlanChoice:
    def write(path: Path) -> None:
        config = config_of(model.config)
        found = choose_plans(
            model, config, architecture, text.batches, anchors, kind=kind, track=track, **limits
        )
        path.write_text(json.dumps(found.to_json()), encoding="utf-8")

    inputs = {"order": analysis.order_sha256, "anchors": anchors, "kind": kind, **limits}
    path = work.file("plans.json", inputs, write)
    return PlanChoice.from_json(json.loads(path.read_text(encoding="utf-8")))


def reference_logits(
    model: Any,
    levels: Sequence[Level],
    analysis: Analysis,
    sample: torch.Tensor,
    work: WorkFolder,
    track: Track,
) -> Callable[[Level], Any]:
    """What transformers computes at each level, in files: so the model can go before the engine
    loads its own."""

    def write(level: Level, path: Path) -> None:
        np.save(path, expected_logits(model, level, sample))

    inputs = {"order": analysis.order_sha256}
    paths = {
        level.ratio: work.file("logits.npy", {**inputs, **asdict(level)}, partial(write, level))
        for level in track(levels, "reference logits", len(levels))
    }
    return lambda level: np.load(paths[level.ratio], allow_pickle=False)


def recover(
    model: Any,
    architecture: Architecture,
    levels: Sequence[Level],
    recovery: Recovery | None,
    data: RecoveryData | None,
    work: WorkFolder,
    ray: str | None,
    report: Report,
    track: Track,
) -> AdaptedLevels:
    """The levels with their adapters, whose files and checkpoints lie in the work folder."""
    if recovery is None or data is None:
        return AdaptedLevels(tuple(levels), {}, {})
    adapt = partial(
        adapt_levels,
        model,
        architecture,
        levels,
        data,
        recovery.options,
        work.path,
        report=report,
        track=track,
    )
    if ray is None:
        return adapt()
    with connect(ray) as cluster:
        return adapt(train=cluster.recover_levels)
