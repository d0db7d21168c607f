"""Which chunks a call attended to."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level, Plan
from pliant.engine.engine import Engine


def attention_received(
    engine: Engine, size: Plan | Level, slot: int, tokens: Sequence[int], start: int
) -> NDArray[np.float32]:
    """Share of attention that each position gets from the queries of `tokens`, which are the last
    of the slot and begin at position `start`; keys and values must be in the slot.

    float32 [start + len(tokens)], the mean over queries, heads and layers; sums to 1.
    """
    raise NotImplementedError


def chunk_densities(received: NDArray[np.float32], chunk_tokens: int) -> list[float]:
    """Attention received by each whole chunk: the sum over its positions."""
    whole = len(received) // chunk_tokens
    sums = received[: whole * chunk_tokens].reshape(whole, chunk_tokens).sum(axis=1)
    return [float(value) for value in sums]
