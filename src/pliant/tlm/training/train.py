"""Trains the heads of the tiny language model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pliant.tlm.labels.rows import DecisionRow, ScoreRow
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions


@dataclass(frozen=True)
class TrainLog:
    """`losses` has one value per step, the mean over the batch."""

    losses: tuple[float, ...]


def train_score_head(
    network: TinyNetwork,
    rows: Iterable[ScoreRow],
    options: TrainOptions,
    *,
    checkpoint: Path | None = None,
) -> TrainLog:
    """Token classification on the words' keep values; with `train_trunk` the trunk learns too.

    With `checkpoint`, a file, a run that was cut short goes on where it was and ends equal.
    """
    raise NotImplementedError


def train_decision_head(
    network: TinyNetwork,
    rows: Iterable[DecisionRow],
    options: TrainOptions,
    *,
    checkpoint: Path | None = None,
) -> TrainLog:
    """Both classifiers, on the examples that each row gives for every pair of SLO buckets.

    The trunk stays as it is. Raises TrainingError for rows with other levels or prompt ratios than
    the network's.
    """
    raise NotImplementedError
