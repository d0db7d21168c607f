"""Which chunks a call attended to: the information density of LLMS (arXiv 2403.11805, 3.2), the
attention that a chunk's tokens receive, averaged over layers and heads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level, Plan
from pliant.engine.engine import Engine
from pliant.engine.span import Span

PROBE_TOKENS = 16


def attention_received(
    engine: Engine, size: Plan | Level, slot: int, tokens: Sequence[int]
) -> NDArray[np.float32]:
    """Share of attention that each position of `slot` gets from its last PROBE_TOKENS queries.

    `tokens` are all tokens whose keys and values the slot holds, from position 0 on. float32
    [tokens]; sums to 1. Raises as `Engine.forward` does.
    """
    start = max(0, len(tokens) - PROBE_TOKENS)
    span = Span(slot, tokens[start:], start, "last")
    return engine.attention_received(size, span)


def chunk_densities(received: NDArray[np.float32], chunk_tokens: int) -> list[float]:
    """Attention received by each whole chunk: the sum over its positions."""
    whole = len(received) // chunk_tokens
    sums = received[: whole * chunk_tokens].reshape(whole, chunk_tokens).sum(axis=1)
    return [float(value) for value in sums]
