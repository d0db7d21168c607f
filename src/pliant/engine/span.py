"""What one forward pass computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pliant.errors import ContextOverflowError, RequestError

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


@dataclass(frozen=True)
class Limits:
    """What an engine can hold; KV lengths are padded to multiples of `kv_bucket`."""

    slots: int
    context_length: int
    vocab_size: int
    max_batch: int
    kv_bucket: int

    def shapes(self, spans: Sequence[Span], *, one_slot: bool = False) -> tuple[SpanShape, ...]:
        """What the graph of a batch must fit; all spans in `one_slot`, or each in its own.

        Raises what `Engine.forward` says of bad spans.
        """
        shapes = []
        slots = set()
        total = 0
        for span in spans:
            count = len(span.tokens)
            end = span.start + count
            self._check_span(span, end)
            slots.add(span.slot)
            total += count
            kv_length = min(-(-end // self.kv_bucket) * self.kv_bucket, self.context_length)
            shapes.append(SpanShape(count, kv_length, span.num_outputs))
        if not 1 <= total <= self.max_batch:
            raise RequestError(f"a batch holds 1 to {self.max_batch} tokens, got {total}")
        if len(slots) != (1 if one_slot else len(shapes)):
            raise RequestError("two spans of one batch are in the same slot")
        return tuple(shapes)

    def check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise RequestError(f"slot is {slot}; there are {self.slots}, from 0")

    def _check_span(self, span: Span, end: int) -> None:
        tokens = span.tokens
        if len(tokens) < 1 or span.start < 0:
            raise RequestError("a span needs at least one token and a start of at least 0")
        if end > self.context_length:
            raise ContextOverflowError(
                f"{end} tokens do not fit the context of {self.context_length}",
                needed_tokens=end,
                available_tokens=self.context_length,
            )
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            raise RequestError(
                f"token ids must be in 0..{self.vocab_size - 1}, got {min(tokens)}..{max(tokens)}"
            )
        self.check_slot(span.slot)
