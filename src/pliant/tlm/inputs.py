"""What a pass reads: tokens of its windows, masks that hide padding, and the SLO tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.ggml.placed import PlacedTensors
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import GgmlType
from pliant.tlm.config import FRAME, TlmConfig
from pliant.tlm.slo_tokens import SLO, SUMMARY

# The first and the last window of a text decide.
MAX_DECIDING = 2


@dataclass(frozen=True)
class PassShape:
    """What a graph is built for: windows of `length` tokens each, padding included, scored or not,
    the first `deciding` of them read by the decision branch."""

    windows: int
    length: int
    is_scored: bool
    deciding: int


class TlmInputs:
    """The inputs of one pass of at most `max_tokens` tokens, and at least a window."""

    def __init__(self, config: TlmConfig, max_tokens: int) -> None:
        self._frame = config.cls_token, config.sep_token
        self._placed = PlacedTensors(max_tensors=5)
        keys = config.window + SLO
        self.tokens = self._placed.new(GgmlType.I32, max_tokens)
        self.slo = self._placed.new(GgmlType.I32, SLO)
        self.mask = self._placed.new(GgmlType.F16, max_tokens * config.window)
        self.decision_mask = self._placed.new(GgmlType.F16, MAX_DECIDING * keys * keys)
        self.summary_mask = self._placed.new(GgmlType.F16, MAX_DECIDING * keys * SUMMARY)

    def write(
        self, shape: PassShape, windows: Sequence[Sequence[int]], slo: tuple[int, int]
    ) -> None:
        """Fill in the tokens of each window, without [CLS] and [SEP], and the SLO tokens."""
        cls, sep = self._frame
        tokens = _head(self.tokens, (shape.windows, shape.length))
        hidden = np.zeros((shape.windows, shape.length), dtype=np.float16)
        for row, window in enumerate(windows):
            tokens[row, 0] = cls
            tokens[row, 1 : len(window) + 1] = window
            tokens[row, len(window) + 1 :] = sep
            hidden[row, len(window) + FRAME :] = -np.inf
        _fill_mask(self.mask, hidden, shape.length)
        if shape.deciding:
            self.slo.numpy().reshape(-1)[:] = slo
            hidden = np.pad(hidden[: shape.deciding], ((0, 0), (SLO, 0)))
            _fill_mask(self.decision_mask, hidden, shape.length + SLO)
            _fill_mask(self.summary_mask, hidden, SUMMARY)

    def close(self) -> None:
        self._placed.close()


def _head(tensor: Tensor, shape: tuple[int, ...]) -> NDArray[np.int32]:
    count = int(np.prod(shape))
    return tensor.numpy().reshape(-1)[:count].reshape(shape)


def _fill_mask(mask: Tensor, hidden: NDArray[np.float16], rows: int) -> None:
    """Every one of `rows` queries of a window sees the same keys: hidden [windows, keys]."""
    windows, keys = hidden.shape
    target = mask.numpy().reshape(-1)[: windows * rows * keys].reshape(windows, rows, keys)
    target[:] = hidden[:, None, :]
