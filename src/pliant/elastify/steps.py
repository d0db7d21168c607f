"""The steps of making a model elastic; what takes long is kept in the work folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from pliant.bundle import Architecture, GgufFile, Level
from pliant.bundle.vocabulary import check_vocabulary
from pliant.elastify.activations import reorder_columns
from pliant.elastify.analysis import Analysis
from pliant.elastify.calibration import Calibration
from pliant.elastify.cluster import connect
from pliant.elastify.export import write_gguf
from pliant.elastify.fused import split_fused
from pliant.elastify.inputs import Source
from pliant.elastify.options import ElastifyOptions
from pliant.elastify.plans import PlanChoice, choose_plans
from pliant.elastify.precision import widened
from pliant.elastify.quantization import column_blocks
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.levels import AdaptedLevels, adapt_levels
from pliant.elastify.reorder import reorder_model
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.source import SourceConfig, config_of, empty_model
from pliant.elastify.submodel import logits
from pliant.elastify.verify import (
    check_tokens,
    expected_logits,
    reorder_difference,
    sample_length,
)
from pliant.elastify.work import WorkFolder
from pliant.errors import CorruptFileError, ElastifyError
from pliant.progress import Track

Report = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What every step of a run needs."""

    name: str
    source: Source
    text: Calibration
    options: ElastifyOptions
    work: WorkFolder
    stopwatch: Stopwatch
    report: Report
    track: Track

    @property
    def sample(self) -> torch.Tensor:
        return sample_of(self.source, self.text)


def sample_of(source: Source, text: Calibration) -> torch.Tensor:
    """Token ids that logits are compared on: int64 [tokens]."""
    return text.batches[0].tokens[0][: sample_length(source.config.vocab_size)]


@contextmanager
def weightless_gguf(source: Source, quantization: str) -> Iterator[Path]:
    """The file that will be exported, without its weights: sparse, and gone afterwards."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        model = split_fused(empty_model(source.folder))
        write_gguf(model, source.vocabulary, path, quantization, "weightless")
        yield path


def check_tokenizer(source: Source, quantization: str, sample: torch.Tensor) -> None:
    """Tokenizes the sample's text as the exported model will, before hours are spent on it.

    Raises ElastifyError for a vocabulary that llama.cpp does not read or that splits otherwise.
    """
    with weightless_gguf(source, quantization) as path:
        try:
            check_vocabulary(GgufFile.open(path), source.config.vocab_size)
        except CorruptFileError as error:
            what = str(error).removeprefix(f"{path}: ")
            raise ElastifyError(
                f"llama.cpp cannot use the tokenizer in {source.folder}: {what}"
            ) from error
        check_tokens(path, source.tokenizer, sample)


def reorder(model: Any, config: SourceConfig, analysis: Analysis, sample: torch.Tensor) -> float:
    """Largest change of a logit, in float32."""
    with widened(model):
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
    options: ElastifyOptions,
    work: WorkFolder,
    track: Track,
) -> PlanChoice:
    """The plans of the levels, and what they were chosen from."""
    kind = options.plan
    block, ff_block = column_blocks(architecture, options.quantization)
    limits: dict[str, Any] = {
        "targets": list(options.targets),
        "block": block,
        "ff_block": ff_block,
        "lora_rank": options.lora_rank,
    }

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
    """What transformers computes at each level in float32, in files: so the model can go before
    the engine loads its own."""

    def write(level: Level, path: Path) -> None:
        with widened(model):
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
    data: RecoveryData | None,
    options: ElastifyOptions,
    work: WorkFolder,
    report: Report,
    track: Track,
) -> AdaptedLevels:
    """The levels with their adapters, whose files and checkpoints lie in the work folder."""
    if options.recovery is None or data is None:
        return AdaptedLevels(tuple(levels), {}, {})
    adapt = partial(
        adapt_levels,
        model,
        architecture,
        levels,
        data,
        options.recovery.options,
        work.path,
        report=report,
        track=track,
    )
    with widened(model):
        if options.ray is None:
            return adapt()
        with connect(options.ray) as cluster:
            return adapt(train=cluster.recover_levels)
