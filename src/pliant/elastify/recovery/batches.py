"""Which examples each step sees: the same ones for every level and after every restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch

from pliant.elastify.examples import Example

SORTED_BATCHES = 32
"""Examples of so many batches are sorted by length together, so that little is padding."""


@dataclass(frozen=True, eq=False)
class Batch:
    """`tokens` int64 [rows, length], short rows padded at their end; `weights` float32
    [rows, length - 1], of predicting the token that follows each position."""

    tokens: torch.Tensor
    weights: torch.Tensor


def batch_schedule(
    lengths: Sequence[int], batch_tokens: int, seed: int, steps: int
) -> list[tuple[int, ...]]:
    """For each step the indices of its examples; epochs are shuffled one by one.

    A batch takes at most `batch_tokens` tokens, padding included, but at least one example.
    """
    return list(islice(_epochs(np.asarray(lengths), batch_tokens, seed), steps))


def batches_of(examples: Sequence[Example], batch_tokens: int) -> list[Batch]:
    """Every example once, shortest first."""
    lengths = np.array([len(example.tokens) for example in examples])
    order = np.argsort(lengths, kind="stable")
    return [
        collate([examples[index] for index in rows]) for rows in _cut(order, lengths, batch_tokens)
    ]


def collate(examples: Sequence[Example]) -> Batch:
    """One batch of these rows. Padding has weight 0, and causal attention never looks at it."""
    length = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.int64)
    weights = torch.zeros(len(examples), length, dtype=torch.float32)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        weights[row, : len(example.weights)] = torch.tensor(example.weights)
    return Batch(tokens, weights[:, 1:].contiguous())


def _epochs(
    lengths: np.ndarray[tuple[int], np.dtype[np.int64]], batch_tokens: int, seed: int
) -> Iterator[tuple[int, ...]]:
    for epoch in count():
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(lengths))
        group = max(1, SORTED_BATCHES * batch_tokens // max(1, int(lengths.mean())))
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), group):
            rows = order[start : start + group]
            batches += _cut(rows[np.argsort(lengths[rows], kind="stable")], lengths, batch_tokens)
        yield from (batches[index] for index in generator.permutation(len(batches)))


def _cut(
    order: np.ndarray[tuple[int], np.dtype[np.int64]],
    lengths: np.ndarray[tuple[int], np.dtype[np.int64]],
    batch_tokens: int,
) -> list[tuple[int, ...]]:
    """Cuts examples that ascend in length into batches."""
    batches: list[list[int]] = [[]]
    for index in order.tolist():
        if batches[-1] and (len(batches[-1]) + 1) * int(lengths[index]) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return [tuple(rows) for rows in batches if rows]
