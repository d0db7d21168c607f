"""Which KV heads a context's past matters to.

LLMS (arXiv 2403.11805, section 3.2) takes the attention that a chunk's tokens receive, averaged
over layers and heads. On the built-in model that hardly tells chunks apart: what the next question
attends to is not known yet. Heads it tells apart, by two orders of magnitude: few of them look far
back, always the same ones. So the density is that of a KV head of a layer: the attention its last
queries pay to what lies far before them. What lies near is left out: most heads attend to it, and
the tokens to come will have other neighbours.

The squares of the weights are summed, since the noise of different tokens adds up in squares.
`benchmarks/kv_formats.py` has the figures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level, Plan
from pliant.engine.engine import Engine
from pliant.engine.span import Span

PROBE_TOKENS = 32
NEAR_TOKENS = 64


def head_densities(
    engine: Engine,
    size: Plan | Level,
    slot: int,
    tokens: Sequence[int],
    probe_tokens: int = PROBE_TOKENS,
) -> list[NDArray[np.float32]]:
    """Per layer float32 [kv_heads]: the mean over the last `probe_tokens` queries in `slot` of the
    squared weights of the tokens that lie NEAR_TOKENS or more before all of them, and of the first
    NEAR_TOKENS in any case.

    `tokens` are all whose keys and values the slot holds, from position 0 on, computed at `size`.
    Costs about as much as computing `probe_tokens` tokens. Raises as `Engine.forward` does.
    """
    start = max(0, len(tokens) - probe_tokens)
    far = max(start - NEAR_TOKENS, min(NEAR_TOKENS, len(tokens)))
    power = engine.attention_power(size, Span(slot, tokens[start:], start))
    return [layer[:, :far].sum(axis=1) for layer in power]
