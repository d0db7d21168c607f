"""Windows of token ids as the network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pliant.tlm.config import TlmConfig


@dataclass(frozen=True, eq=False)
class Batch:
    """`tokens` int64 [windows, n], framed by [CLS] and [SEP]; `visible` is false for padding."""

    tokens: Tensor
    visible: Tensor


def collate(config: TlmConfig, windows: Sequence[Sequence[int]]) -> Batch:
    """Windows of text tokens, padded to the longest."""
    lengths = torch.tensor([len(window) + 2 for window in windows])
    tokens = torch.full((len(windows), int(lengths.max())), config.sep_token)
    tokens[:, 0] = config.cls_token
    for row, window in enumerate(windows):
        tokens[row, 1 : len(window) + 1] = torch.tensor(window, dtype=torch.int64)
    return Batch(tokens, torch.arange(tokens.shape[1]) < lengths[:, None])


def framed(rows: Sequence[Sequence[float]], width: int, fill: float) -> Tensor:
    """Values per text token, float32 [windows, width], with `fill` for frame and padding."""
    values = torch.full((len(rows), width), fill)
    for index, row in enumerate(rows):
        values[index, 1 : len(row) + 1] = torch.tensor(row)
    return values
