"""Calibration text as token windows, and the loss of a model on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pliant.elastify.examples import Example, read_examples
from pliant.elastify.windows import Windows
from pliant.errors import ElastifyError
from pliant.files import read_file
from pliant.progress import Track, untracked

BATCH_TOKENS = 512
PROMPT_WEIGHT = 0.1
"""Of a prompt's token beside an answer's 1: what a model is asked for is its answers, but they
are few, and a prompt that is read badly cannot be answered."""


@dataclass(frozen=True)
class Calibration:
    """Token windows of one length, in batches."""

    batches: tuple[Windows, ...]
    sha256: str

    @property
    def num_tokens(self) -> int:
        windows, length = self.shape
        return windows * length

    @property
    def shape(self) -> tuple[int, int]:
        """Windows, and tokens in each."""
        return sum(len(batch) for batch in self.batches), self.batches[0].length


def read_calibration(path: Path, tokenizer: Any, windows: int, window_tokens: int) -> Calibration:
    """Tokenizes a UTF-8 text file and takes windows evenly spaced over it.

    A `.jsonl` file holds documents: a `text`, a `prompt` and its `answer`, or the `messages` of a
    conversation, of which prompts count PROMPT_WEIGHT. A text shorter than one window gives one
    shorter window. Raises ElastifyError if the file is missing, is not text, or has fewer than two
    tokens, and for less than one window of two tokens.
    """
    if windows < 1 or window_tokens < 2:
        raise ElastifyError(
            f"{windows} windows of {window_tokens} tokens asked for; at least 1 of 2 is needed"
        )
    try:
        content = read_file(path)
        document = _document(path, content.decode("utf-8"), tokenizer)
    except (OSError, ValueError) as error:
        raise ElastifyError(f"calibration file {path} cannot be read: {error}") from error
    if len(document.tokens) < 2:
        raise ElastifyError(f"calibration file {path} is empty: give it a few pages of text")
    batches = token_windows(document, windows, window_tokens)
    return Calibration(batches, hashlib.sha256(content).hexdigest())


def _document(path: Path, text: str, tokenizer: Any) -> Example:
    """Everything in the file, one after the other."""
    if path.suffix == ".jsonl":
        rows = list(read_examples(path, text, tokenizer, None, PROMPT_WEIGHT))
        if not rows:
            return Example.text([])
        tokens = np.concatenate([row.tokens for row in rows])
        return Example(tokens, np.concatenate([row.weights for row in rows]))
    return Example.text(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def token_windows(document: Example, windows: int, window_tokens: int) -> tuple[Windows, ...]:
    """At most `windows` non-overlapping windows, evenly spaced, in batches of BATCH_TOKENS."""
    length = min(window_tokens, len(document.tokens))
    count = min(windows, len(document.tokens) // length)
    starts = np.linspace(0, len(document.tokens) - length, count).astype(int)
    places = starts[:, None] + np.arange(length)
    tokens = torch.from_numpy(document.tokens[places])
    weights = torch.from_numpy(document.weights[places[:, 1:]])
    return Windows(tokens, weights).split(max(1, BATCH_TOKENS // length))


def batch_loss(model: Any, batch: Windows) -> torch.Tensor:
    """Weighted mean of -log p(next token) in one batch, with its graph."""
    tokens, weights = batch.tokens.to(model.device), batch.weights.to(model.device)
    rows = model(input_ids=tokens, use_cache=False).logits
    # Window by window: float32 logits of a large vocabulary are as big as a layer.
    losses = [
        functional.cross_entropy(row[:-1].float(), following[1:], reduction="none")
        for row, following in zip(rows, tokens, strict=True)
    ]
    return (torch.stack(losses) * weights).sum() / weights.sum()


@torch.no_grad()
def mean_loss(
    model: Any, batches: Sequence[Windows], track: Track = untracked, what: str = "loss"
) -> float:
    """Weighted mean of -log p(next token) over all windows."""
    losses = [
        float(batch_loss(model, batch)) * batch.weight
        for batch in track(batches, what, len(batches))
    ]
    return sum(losses) / sum(batch.weight for batch in batches)
