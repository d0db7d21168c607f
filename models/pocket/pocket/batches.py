"""Batches of documents of like length, from a curriculum over the levels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dataset import Dataset

LOSS_WEIGHTS = (0.03, 1.0, 0.3)
"""Weight of a predicted token by its loss class: context, answer, running text."""

STAGES = (
    (0.15, (1.0, 0.0, 0.0)),
    (0.45, (0.15, 0.85, 0.0)),
    (0.80, (0.10, 0.50, 0.40)),
    (1.01, (0.00, 0.20, 0.80)),
)
"""Until which share of the budget each mixture of levels holds."""

WINDOW = 512
"""Documents sorted together; small enough to keep the order random."""


class Batch:
    """Token ids ``[rows, length + 1]``, padded at the right, and weights of the targets."""

    def __init__(self, tokens: Tensor, weights: Tensor, is_answer: Tensor, num_tokens: int) -> None:
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:]
        self.weights, self.is_answer = weights[:, 1:], is_answer[:, 1:]
        self.num_tokens = num_tokens


class Curriculum:
    """Endless batches; ``progress`` in [0, 1] decides which levels are drawn."""

    def __init__(self, dataset: Dataset, batch_tokens: int, seed: int) -> None:
        self.dataset = dataset
        self.batch_tokens = batch_tokens
        self.rng = np.random.default_rng(seed)
        self.by_level = [np.flatnonzero(dataset.levels == level) for level in range(3)]
        self.queues: list[list[int]] = [[], [], []]
        self.progress = 0.0

    def reseed(self, seed: int) -> None:
        """Other batches than before, for a resumed run."""
        self.rng = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            chosen = np.asarray(self._window())
            lengths = self._lengths(chosen)
            groups = self._groups(chosen[np.argsort(lengths, kind="stable")])
            for i in self.rng.permutation(len(groups)):
                yield self._batch(groups[i])

    def _window(self) -> list[int]:
        shares = next(s for until, s in STAGES if self.progress < until)
        levels = self.rng.choice(3, size=WINDOW, p=shares)
        return [self._next(int(level)) for level in levels]

    def _next(self, level: int) -> int:
        if not self.queues[level]:
            self.queues[level] = self.rng.permutation(self.by_level[level]).tolist()
        return self.queues[level].pop()

    def _lengths(self, documents: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.dataset.offsets[documents + 1] - self.dataset.offsets[documents]

    def _groups(self, by_length: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Runs of the sorted documents whose padded size stays within the batch."""
        groups, start = [], 0
        lengths = self._lengths(by_length)
        for end in range(1, len(by_length) + 1):
            if end == len(by_length) or (end - start + 1) * lengths[end] > self.batch_tokens:
                groups.append(by_length[start:end])
                start = end
        return groups

    def _batch(self, documents: NDArray[np.int64]) -> Batch:
        lengths = self._lengths(documents)
        shape = (len(documents), int(lengths.max()))
        tokens = np.zeros(shape, dtype=np.int64)
        weights = np.zeros(shape, dtype=np.float32)
        is_answer = np.zeros(shape, dtype=bool)
        table = np.asarray(LOSS_WEIGHTS, dtype=np.float32)
        for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
            part = slice(self.dataset.offsets[document], self.dataset.offsets[document + 1])
            classes = self.dataset.classes[part]
            tokens[row, :length] = self.dataset.tokens[part]
            weights[row, :length] = table[classes]
            is_answer[row, :length] = classes == 1
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(weights),
            torch.from_numpy(is_answer),
            int(lengths.sum()),
        )
