"""Keys and values of chosen tokens of a slot, computed one layer at a time.

What a layer attends to need not be in the slot before that layer is computed: a context can be
restored layer by layer while the layers before are computed.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pliant.engine.graph import Builder, Model, Size, tensors_needed
from pliant.engine.span import Span, SpanShape
from pliant.errors import RequestError
from pliant.ggml.context import Context
from pliant.ggml.placed import PlacedTensors
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import GgmlType

if TYPE_CHECKING:
    from pliant.bundle import Level, Plan
    from pliant.engine.engine import Engine


class LayerBatch:
    """Spans that are computed together, with the state [hidden, n] between two layers."""

    def __init__(
        self, spans: Sequence[Span], shapes: tuple[SpanShape, ...], rows: list[int], hidden: int
    ) -> None:
        self.spans = spans
        self.shapes = shapes
        self.rows = rows
        num_tokens = sum(shape.length for shape in shapes)
        self._placed = PlacedTensors(max_tensors=2)
        self._states = [self._placed.new(GgmlType.F32, hidden, num_tokens) for _ in "ab"]

    @property
    def state(self) -> Tensor:
        """After the layers computed so far."""
        return self._states[0]

    @property
    def next_state(self) -> Tensor:
        """Where the next layer writes."""
        return self._states[1]

    def swap(self) -> None:
        self._states.reverse()

    def close(self) -> None:
        self._placed.close()


class LayerGraph:
    """One layer over one batch; its intermediate results need memory before it runs."""

    def __init__(self, model: Model, size: Size, index: int, batch: LayerBatch) -> None:
        layer = size.plan.layers[index]
        self.is_last = index == len(size.plan.layers) - 1
        needed = tensors_needed(model, size, len(batch.spans), [index])
        self._context = Context(max_tensors=needed, graph_size=needed)
        self.address = self._context.new_graph(needed)
        builder = Builder(model, self._context, self.address, size.adapter, batch.shapes)
        before = batch.state if index else None
        after = builder.build_layer(before, index, layer, store_only=self.is_last)
        if after is not None:
            target = batch.next_state.data
            assert target is not None
            after.point_to(target)
        self._cached = [
            (view, cache + row * model.kv.row_bytes)
            for row, tensors in zip(batch.rows, builder.cached, strict=True)
            for view, cache in tensors
        ]

    def use_slots(self) -> None:
        """Let the spans attend to their slots; after allocation, which makes views anew."""
        for view, data in self._cached:
            view.point_to(data)

    def close(self) -> None:
        self._context.close()


class LayerSteps:
    """The layers of one size over one slot's spans; `compute` each once, in order, then close."""

    def __init__(
        self, engine: "Engine", size: "Plan | Level", batches: Sequence[LayerBatch]
    ) -> None:
        self._engine = engine
        self._size = size
        self._batches = batches

    def compute(self, index: int) -> None:
        """Layer `index` for all spans. Keys and values of this layer of all that lies before a
        span, and is not in a span itself, must be in the slot."""
        for batch in self._batches:
            self._engine.compute_layer(self._size, index, batch)

    def close(self) -> None:
        for batch in self._batches:
            batch.close()


def split_spans(spans: Sequence[Span], max_batch: int) -> list[list[Span]]:
    """The spans, cut into batches of at most `max_batch` tokens.

    Raises RequestError unless they ascend within one slot.
    """
    for before, after in pairwise(spans):
        if before.slot != after.slot or before.start + len(before.tokens) > after.start:
            raise RequestError("spans of one pass over layers ascend within one slot")
    batches: list[list[Span]] = []
    room = 0
    for span in spans:
        done = 0
        while done < len(span.tokens):
            if room == 0:
                batches.append([])
                room = max_batch
            tokens = span.tokens[done : done + room]
            batches[-1].append(Span(span.slot, tokens, span.start + done, "none"))
            done += len(tokens)
            room -= len(tokens)
    return batches
