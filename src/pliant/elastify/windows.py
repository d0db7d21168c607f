"""Token windows and how much each of their tokens counts: what every measurement runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Windows:
    """`tokens` int64 [windows, length]; `weights` float32 [windows, length - 1], of predicting
    the token that follows each position."""

    tokens: torch.Tensor
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens in each window."""
        return self.tokens.shape[1]

    @property
    def weight(self) -> float:
        """Of all tokens together."""
        return float(self.weights.sum())

    def take(self, rows: slice | Sequence[int]) -> Windows:
        return Windows(self.tokens[rows], self.weights[rows])

    def split(self, size: int) -> tuple[Windows, ...]:
        """Batches of `size` windows, the last perhaps smaller."""
        return tuple(self.take(slice(at, at + size)) for at in range(0, len(self), size))


def joined(batches: Sequence[Windows]) -> Windows:
    """All windows of batches of one length."""
    return Windows(
        torch.cat([batch.tokens for batch in batches]),
        torch.cat([batch.weights for batch in batches]),
    )


def spread(batches: Sequence[Windows], tokens: int) -> tuple[Windows, ...]:
    """`tokens` or a window more of them, evenly spread over the text."""
    windows = joined(batches)
    count = max(1, -(-tokens // windows.length))
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).astype(int))
    return windows.take(chosen.tolist()).split(len(batches[0]))
