"""From a folder of labels to the tiny language model in a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pliant.bundle import Bundle, open_bundle
from pliant.errors import LabelError
from pliant.tlm.install import install_tlm
from pliant.tlm.labels.rows import (
    DECISION_FILE,
    SCORE_FILES,
    DecisionRow,
    ScoreRow,
    read_decision_rows,
    read_score_rows,
)
from pliant.tlm.training.build import Shape, encoder_network, fresh_network
from pliant.tlm.training.export import write_tlm
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from pliant.tlm.training.train import train_decision_head, train_score_head

FRESH_SCORE = TrainOptions(epochs=3, learning_rate=1e-3, train_trunk=True)
FRESH_DECISION = TrainOptions(epochs=10, learning_rate=1e-3, soft_weight=1.0)
ENCODER_SCORE = TrainOptions()
ENCODER_DECISION = TrainOptions(epochs=10, soft_weight=1.0)

# What is done, how many steps of how many, and the last one's loss.
Steps = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Recipe:
    """What the network is made from, and how each head learns; None takes what suits `encoder`.

    `encoder` is the folder of a BERT-type Hugging Face checkpoint; without one a fresh network of
    `shape` reads with the bundle's own tokenizer.
    """

    encoder: Path | None = None
    shape: Shape | None = None
    score: TrainOptions | None = None
    decision: TrainOptions | None = None
    seed: int = 0

    def network(self, bundle: Bundle) -> TinyNetwork:
        if self.encoder is None:
            return fresh_network(bundle, self.shape, seed=self.seed)
        levels = [level.ratio for level in bundle.levels]
        return encoder_network(self.encoder, levels, seed=self.seed)

    def score_options(self) -> TrainOptions:
        default = FRESH_SCORE if self.encoder is None else ENCODER_SCORE
        return self.score or replace(default, seed=self.seed)

    def decision_options(self) -> TrainOptions:
        default = FRESH_DECISION if self.encoder is None else ENCODER_DECISION
        return self.decision or replace(default, seed=self.seed)


def train_tlm(
    source: str | Path,
    labels: Path,
    recipe: Recipe | None = None,
    *,
    score_only: bool = False,
    prepare: Callable[[TinyNetwork], None] | None = None,
    report: Steps | None = None,
) -> Bundle:
    """Trains the score head and, if there are labels for it and not `score_only`, the decision
    head; puts the result into the bundle, in the place of an older one.

    What was trained stays in `labels` as checkpoints: an interrupted training goes on, and the
    score head is not trained again when decision labels have been added. `prepare` may change the
    fresh network's weights. Raises LabelError for labels that are missing or malformed, and
    TrainingError or BundleError.
    """
    recipe = recipe or Recipe()
    score_options, decision_options = recipe.score_options(), recipe.decision_options()
    bundle = open_bundle(source)
    scores, decisions = _read_labels(labels)
    network = recipe.network(bundle)
    if prepare is not None:
        prepare(network)
    train_score_head(
        network,
        scores,
        score_options,
        checkpoint=labels / "score.safetensors",
        report=_part("score head", report),
    )
    if decisions and not score_only:
        train_decision_head(
            network,
            decisions,
            decision_options,
            checkpoint=labels / "decision.safetensors",
            report=_part("decision head", report),
        )
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "tlm.gguf"
        write_tlm(draft, network)
        return install_tlm(bundle.path, draft)


def _read_labels(labels: Path) -> tuple[list[ScoreRow], list[DecisionRow]]:
    files = [labels / name for name in SCORE_FILES if (labels / name).exists()]
    scores = [row for file in files for row in read_score_rows(file)]
    if not scores:
        raise LabelError(
            f"{labels} has no score labels: `pliant tlm labels` makes them, "
            f"as {' or '.join(SCORE_FILES)}"
        )
    decisions = labels / DECISION_FILE
    return scores, list(read_decision_rows(decisions)) if decisions.exists() else []


def _part(what: str, report: Steps | None) -> Callable[[int, int, float], None] | None:
    if report is None:
        return None
    return lambda done, total, loss: report(what, done, total, loss)
