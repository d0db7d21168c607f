"""How the tiny language model trains: every number that has a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pliant.errors import TrainingError


@dataclass(frozen=True)
class TrainOptions:
    """`epochs` over the labels in batches of `batch_size`, by AdamW at `learning_rate`.

    Batches are windows for the score head and texts for the decision head. `train_trunk` trains
    the shared half too: for encoders that were not pre-trained, with the score head, before the
    decision head learns on the frozen trunk. A step of the decision head draws `slo_pairs` SLOs
    per text. `soft_weight` mixes its targets, from 0 (the label) to 1: of what an SLO allows, each
    strategy by exp(p / `soft_temperature`), where p is between the LLM's probability of being right
    with this text and how often it is right with all. `dropout` hides that share of the trunk's
    output from the branches. Raises TrainingError for a value out of its range.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    train_trunk: bool = False
    slo_pairs: int = 8
    soft_weight: float = 0.0
    soft_temperature: float = 0.03
    dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        limits: Mapping[str, tuple[float, float]] = {
            "epochs": (1, 10**6),
            "batch_size": (1, 10**5),
            "learning_rate": (1e-8, 1.0),
            "weight_decay": (0.0, 1.0),
            "slo_pairs": (1, 10**4),
            "soft_weight": (0.0, 1.0),
            "soft_temperature": (1e-2, 1e2),
            "dropout": (0.0, 0.9),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise TrainingError(f"training: {name} is {value}, it must be in {low:g}..{high:g}")

    def to_json(self) -> dict[str, Any]:
        """All fields, for provenance and for telling checkpoints apart."""
        return asdict(self)
