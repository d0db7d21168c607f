from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pliant.elastify.examples import Example
from pliant.elastify.recovery.batches import batch_schedule, batches_of, collate

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def example(length: int) -> Example:
    return Example(np.arange(length) + 100, np.linspace(0, 1, length, dtype=np.float32))


@given(lengths=LENGTHS, batch_tokens=st.integers(2, 100), seed=st.integers(0, 9))
def test_every_epoch_sees_every_example_once(
    lengths: list[int], batch_tokens: int, seed: int
) -> None:
    seen: list[int] = []
    for rows in batch_schedule(lengths, batch_tokens, seed, 3 * len(lengths)):
        padded = len(rows) * max(lengths[index] for index in rows)
        assert padded <= batch_tokens or len(rows) == 1
        seen += rows
    for epoch in range(3):
        assert Counter(seen[epoch * len(lengths) :][: len(lengths)]) == Counter(range(len(lengths)))


@given(lengths=LENGTHS, seed=st.integers(0, 9), steps=st.integers(1, 30))
def test_a_longer_schedule_begins_like_a_shorter_one(
    lengths: list[int], seed: int, steps: int
) -> None:
    longer = batch_schedule(lengths, 50, seed, 40)
    assert longer[:steps] == batch_schedule(lengths, 50, seed, steps)


def test_seeds_differ() -> None:
    lengths = list(range(1, 60))
    assert batch_schedule(lengths, 50, 0, 9) != batch_schedule(lengths, 50, 1, 9)


def test_padding_weighs_nothing() -> None:
    batch = collate([example(3), example(5)])
    assert batch.tokens.tolist() == [[100, 101, 102, 0, 0], [100, 101, 102, 103, 104]]
    torch.testing.assert_close(
        batch.weights, torch.tensor([[0.5, 1.0, 0.0, 0.0], [0.25, 0.5, 0.75, 1.0]])
    )


@given(lengths=LENGTHS)
def test_all_batches_hold_every_example_once(lengths: list[int]) -> None:
    batches = batches_of([example(length) for length in lengths], 50)
    assert sum(len(batch.tokens) for batch in batches) == len(lengths)
    total = sum(float(batch.weights.sum()) for batch in batches)
    expected = sum(float(example(length).weights.sum()) for length in lengths)
    assert np.isclose(total, expected, rtol=1e-4)
