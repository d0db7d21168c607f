"""Networks to train: fresh ones with a bundle's tokenizer, and upper halves of BERT encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pliant.bundle import Bundle
from pliant.tlm.config import Activation
from pliant.tlm.training.network import TinyNetwork


@dataclass(frozen=True)
class Shape:
    """Sizes of a fresh encoder; the defaults are those of the built-in model's."""

    hidden_size: int = 128
    ff: int = 256
    num_heads: int = 4
    trunk_layers: int = 1
    score_layers: int = 1
    decision_layers: int = 1
    window: int = 128
    activation: Activation = "relu"


def fresh_network(bundle: Bundle, shape: Shape | None = None, *, seed: int = 0) -> TinyNetwork:
    """An untrained network that reads with the bundle's own tokenizer and decides on its levels."""
    raise NotImplementedError


def encoder_network(
    folder: str | Path,
    levels: Sequence[float],
    *,
    trunk_layers: int | None = None,
    decision_layers: int = 1,
    window: int | None = None,
    seed: int = 0,
) -> TinyNetwork:
    """From a BERT-type Hugging Face checkpoint with its WordPiece vocabulary, in `folder`.

    The bottom `trunk_layers` (default: half) are the trunk; the score branch begins as the layers
    above, the decision branch as the first `decision_layers` of them. Raises TrainingError for
    another architecture.
    """
    raise NotImplementedError
