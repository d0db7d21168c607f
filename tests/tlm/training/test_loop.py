"""The order in which examples are trained on."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pliant.tlm.training.loop import mixed_order


@given(st.lists(st.integers(1, 400), min_size=1, max_size=200), st.integers(1, 20))
def test_every_example_once_and_the_short_batch_last(lengths: list[int], size: int) -> None:
    order = mixed_order(lengths, size, torch.Generator().manual_seed(0))
    assert sorted(order) == list(range(len(lengths)))


def test_batches_need_little_padding() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 400, (1600,), generator=generator).tolist()
    order = mixed_order(lengths, 16, generator)
    batches = [[lengths[i] for i in order[at : at + 16]] for at in range(0, 1600, 16)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    longest = [max(batch) for batch in batches]
    assert longest != sorted(longest)
    assert order != mixed_order(lengths, 16, generator)


def test_a_smaller_batch_comes_last() -> None:
    lengths = list(range(1, 20 + 1))
    order = mixed_order(lengths, 16, torch.Generator().manual_seed(0))
    assert sorted(lengths[i] for i in order[:16]) == list(range(1, 17))
