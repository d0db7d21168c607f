"""Calibration text as token windows, and the loss of a model on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pliant.errors import ElastifyError
from pliant.progress import Track, untracked

BATCH_TOKENS = 512


@dataclass(frozen=True)
class Calibration:
    """Token windows of one length, in batches: int64 [batch, window] each."""

    batches: tuple[torch.Tensor, ...]
    sha256: str

    @property
    def num_tokens(self) -> int:
        return sum(batch.numel() for batch in self.batches)

    @property
    def shape(self) -> tuple[int, int]:
        """Windows, and tokens in each."""
        return sum(len(batch) for batch in self.batches), self.batches[0].shape[1]


def read_calibration(path: Path, tokenizer: Any, windows: int, window_tokens: int) -> Calibration:
    """Tokenizes a UTF-8 text file and takes windows evenly spaced over it.

    A `.jsonl` file holds objects with `text`, one document each. A text shorter than one window
    gives one shorter window. Raises ElastifyError if the file is missing, is not text, or has
    fewer than two tokens, and for less than one window of two tokens.
    """
    if windows < 1 or window_tokens < 2:
        raise ElastifyError(
            f"{windows} windows of {window_tokens} tokens asked for; at least 1 of 2 is needed"
        )
    if path.exists() and not path.is_file():
        raise ElastifyError(f"calibration file {path} cannot be read: it is not a file")
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
        documents = _json_documents(text) if path.suffix == ".jsonl" else [text]
    except (OSError, ValueError) as error:
        raise ElastifyError(f"calibration file {path} cannot be read: {error}") from error
    tokens: list[int] = []
    for document in documents:
        tokens += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
    if len(tokens) < 2:
        raise ElastifyError(f"calibration file {path} is empty: give it a few pages of text")
    batches = token_windows(tokens, windows, window_tokens)
    return Calibration(batches, hashlib.sha256(content).hexdigest())


def _json_documents(text: str) -> list[str]:
    """Raises ValueError for anything but objects with a `text` string."""
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows):
        raise ValueError("every line must be an object with a text")
    return [row["text"] for row in rows]


def token_windows(
    tokens: Sequence[int], windows: int, window_tokens: int
) -> tuple[torch.Tensor, ...]:
    """At most `windows` non-overlapping windows, evenly spaced, in batches of BATCH_TOKENS."""
    window_tokens = min(window_tokens, len(tokens))
    count = min(windows, len(tokens) // window_tokens)
    last_start = len(tokens) - window_tokens
    starts = np.linspace(0, last_start, count).astype(int)
    rows = torch.tensor([list(tokens[start : start + window_tokens]) for start in starts])
    return torch.split(rows, max(1, BATCH_TOKENS // window_tokens))


def spread(batches: Sequence[torch.Tensor], tokens: int) -> tuple[torch.Tensor, ...]:
    """`tokens` or a window more of them, evenly spread over the text."""
    windows = torch.cat(list(batches))
    count = max(1, -(-tokens // windows.shape[1]))
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).astype(int))
    return torch.split(windows[chosen], len(batches[0]))


def batch_loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss (natural log) of one batch (int64 [windows, tokens]), with its graph."""
    batch = batch.to(model.device)
    rows = model(input_ids=batch, use_cache=False).logits
    # Window by window: float32 logits of a large vocabulary are as big as a layer.
    losses = [
        functional.cross_entropy(row[:-1].float(), tokens[1:])
        for row, tokens in zip(rows, batch, strict=True)
    ]
    return torch.stack(losses).mean()


@torch.no_grad()
def mean_loss(
    model: Any, batches: Sequence[torch.Tensor], track: Track = untracked, what: str = "loss"
) -> float:
    """Mean next-token loss over all windows."""
    losses = [
        float(batch_loss(model, batch)) * len(batch) for batch in track(batches, what, len(batches))
    ]
    return sum(losses) / sum(len(batch) for batch in batches)
