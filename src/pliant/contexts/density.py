"""Which chunks a call attended to.

LLMS (arXiv 2403.11805, section 3.2) takes the attention that a chunk's tokens receive, averaged
over layers and heads. Here the squares of the weights are summed: noise of different tokens adds up
in squares, so that is what a token's noise does to an answer. On the built-in model it finds the
chunks that can be coarse better than the sum of the weights does (benchmarks/kv_formats.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level, Plan
from pliant.engine.engine import Engine
from pliant.engine.span import Span

PROBE_TOKENS = 32


def attention_received(
    engine: Engine,
    size: Plan | Level,
    slot: int,
    tokens: Sequence[int],
    probe_tokens: int = PROBE_TOKENS,
) -> NDArray[np.float32]:
    """How strongly the last `probe_tokens` queries in `slot` attend to each position.

    `tokens` are all whose keys and values the slot holds, from position 0 on, computed at `size`.
    float32 [tokens]: mean over queries, heads and layers of the squared weights. Costs about as
    much as computing `probe_tokens` tokens. Raises as `Engine.forward` does.
    """
    start = max(0, len(tokens) - probe_tokens)
    return engine.attention_power(size, Span(slot, tokens[start:], start))


def chunk_densities(received: NDArray[np.float32], chunk_tokens: int) -> list[float]:
    """The density of each whole chunk: the sum over its positions."""
    whole = len(received) // chunk_tokens
    sums = received[: whole * chunk_tokens].reshape(whole, chunk_tokens).sum(axis=1)
    return [float(value) for value in sums]
