"""What one forward pass computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Outputs = Literal["last", "all", "none"]


@dataclass(frozen=True)
class Span:
    """`tokens` of one context, held in KV slot `slot`, the first at position `start`.

    `outputs`: for which of them logits are wanted. A batch of spans is one forward pass, so
    prefill, chunked prefill, decode of several contexts and verification are one code path.
    """

    slot: int
    tokens: Sequence[int]
    start: int
    outputs: Outputs = "last"

    @property
    def num_outputs(self) -> int:
        if self.outputs == "all":
            return len(self.tokens)
        return 1 if self.outputs == "last" else 0


class SpanShape(NamedTuple):
    """What a graph fixes about a span; `kv_length` is padded, the slot can change.

    A named tuple because every step makes and hashes one.
    """

    length: int
    kv_length: int
    outputs: int
