"""The computation of a Llama-type sub-model, as a ggml graph.

Matrix products are batched over the tokens of all spans; attention runs per span. The order of
operations is llama.cpp's, so that the full level's logits equal its logits.
"""

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Architecture, LayerPlan, Plan
from pliant.engine.inputs import Inputs
from pliant.engine.kv import KvCache
from pliant.engine.span import SpanShape
from pliant.engine.weights import Weights
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.tensor import Tensor

# Upper bounds of what a layer takes, and each span, segment of a matrix and KV group in it.
_TENSORS_PER_LAYER = 50
_TENSORS_PER_SPAN = 12
_TENSORS_PER_GROUP = 6
_TENSORS_PER_SEGMENT = 6


@dataclass(frozen=True)
class Model:
    """What a graph is built from."""

    architecture: Architecture
    weights: Weights
    kv: KvCache
    inputs: Inputs


class Graph:
    """A built graph; `address` is what the backend computes once it has memory.

    `hidden` is the state before the output product, the last of the intermediate results.
    """

    def __init__(self, model: Model, plan: Plan, spans: tuple[SpanShape, ...]) -> None:
        size = _tensors_needed(model, plan, len(spans))
        self._context = Context(max_tensors=size, graph_size=size)
        self.address = self._context.new_graph(size)
        builder = _Builder(model, self._context, self.address, spans)
        self._logits = builder.build(plan)
        if self._logits is not None:
            # ggml gives no memory to a tensor that has some; `new_logits` says where, each time.
            self._logits.point_to(self._logits.address)
        self.hidden = builder.hidden
        self._cached = builder.cached
        self._row_bytes = model.kv.row_bytes
        self._first_rows = [0] * len(spans)
        self._logits_shape = (sum(span.outputs for span in spans), model.architecture.vocab_size)

    def new_logits(self) -> NDArray[np.float32]:
        """An array [outputs, vocab] for the caller to keep: the next computation fills it."""
        logits = np.empty(self._logits_shape, dtype=np.float32)
        if self._logits is not None:
            self._logits.point_to(logits.ctypes.data)
        return logits

    def use_slots(self, first_rows: list[int]) -> None:
        """Let the spans attend to the slots that begin at these rows of the cache."""
        if first_rows == self._first_rows:
            return
        for row, tensors in zip(first_rows, self._cached, strict=True):
            for view, cache in tensors:
                view.point_to(cache + row * self._row_bytes)
        self._first_rows = first_rows

    def close(self) -> None:
        self._context.close()


def _tensors_needed(model: Model, plan: Plan, spans: int) -> int:
    weights = model.weights
    total = 64
    for index, layer in enumerate(plan.layers):
        cut = [weights.matrix(index, name).segments for name in ("attn_output", "ffn_down")]
        total += _TENSORS_PER_LAYER + _TENSORS_PER_SPAN * spans
        total += _TENSORS_PER_SEGMENT * sum(len(segments) for segments in cut)
        if layer.heads_per_kv < model.architecture.heads_per_kv:
            total += _TENSORS_PER_GROUP * layer.kv_heads
    return total


class _Builder:
    """Adds one sub-model's computation to a graph.

    `cached` are, per span, the views into the cache with the address of the cache's first row.
    """

    def __init__(
        self, model: Model, context: Context, graph: int, spans: tuple[SpanShape, ...]
    ) -> None:
        self._a = model.architecture
        self._weights = model.weights
        self._kv = model.kv
        self._c = context
        self._graph = graph
        self._spans = spans
        self._n = sum(span.length for span in spans)
        self.cached: list[list[tuple[Tensor, int]]] = [[] for _ in spans]
        self.hidden: Tensor | None = None
        inputs = model.inputs
        self._tokens = context.view(inputs.tokens, (self._n,))
        self._positions = context.view(inputs.positions, (self._n,))
        self._kv_rows = context.view(inputs.kv_rows, (self._n,))
        outputs = sum(span.outputs for span in spans)
        self._outputs = context.view(inputs.outputs, (outputs,)) if outputs else None
        self._masks = self._mask_views(inputs.masks)
        self._factors = (
            model.weights.tensor("rope_freqs.weight") if self._a.has_rope_factors else None
        )

    def build(self, plan: Plan) -> Tensor | None:
        c = self._c
        x = c.get_rows(self._weights.tensor("token_embd.weight"), self._tokens)
        last = len(plan.layers) - 1
        for index, layer in enumerate(plan.layers):
            if index == last and self._outputs is None:
                self._store_only(x, index, layer)
                return None
            x = self._layer(x, index, layer, last=index == last)
        self.hidden = self._norm(x, "output_norm.weight")
        logits = self._weights.output.multiply(c, self.hidden, self._a.vocab_size)
        self._expand(logits)
        return logits

    def _layer(self, x: Tensor, index: int, layer: LayerPlan, *, last: bool) -> Tensor:
        if layer.kv_heads:
            attended = self._attention(self._norm(x, f"blk.{index}.attn_norm.weight"), index, layer)
        if last and self._outputs is not None:
            x = self._c.get_rows(x, self._outputs)
            attended = self._c.get_rows(attended, self._outputs) if layer.kv_heads else x
        if layer.kv_heads:
            x = self._c.add(attended, x)
        if layer.ff:
            hidden = self._mlp(self._norm(x, f"blk.{index}.ffn_norm.weight"), index, layer.ff)
            x = self._c.add(hidden, x)
        return x

    def _norm(self, x: Tensor, weight: str) -> Tensor:
        normed = self._c.rms_norm(x, self._a.rms_eps)
        return self._c.mul(normed, self._weights.tensor(weight))

    def _mlp(self, x: Tensor, index: int, ff: int) -> Tensor:
        c = self._c
        gate = self._weights.matrix(index, "ffn_gate").multiply(c, x, ff)
        up = self._weights.matrix(index, "ffn_up").multiply(c, x, ff)

        def part(start: int, stop: int) -> Tensor:
            if (start, stop) == (0, ff):
                return c.swiglu(gate, up)
            shape, offset = (stop - start, x.shape[1]), start * 4
            halves = [c.view(half, shape, (half.strides[1],), offset) for half in (gate, up)]
            return c.swiglu(*halves)

        down = self._weights.matrix(index, "ffn_down")
        return down.multiply_parts(c, ff, x.shape[1], self._a.hidden_size, part)

    def _attention(self, x: Tensor, index: int, layer: LayerPlan) -> Tensor:
        query = self._query(x, index, layer)
        self._store_kv(x, index, layer)
        parts = []
        start = 0
        for number, (span, mask) in enumerate(zip(self._spans, self._masks, strict=True)):
            part = self._c.view(
                query,
                (self._a.head_dim, layer.heads, span.length),
                query.strides[1:3],
                start * query.strides[2],
            )
            keys = self._view_cache(self._kv.keys[index], number, layer.kv_heads)
            values = self._view_cache(self._kv.values[index], number, layer.kv_heads)
            parts.append(self._attend(part, keys, values, mask))
            start += span.length
        attended = reduce(lambda a, b: self._c.concat(a, b, 1), parts)
        return self._attention_output(attended, index, layer)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """[head_dim * heads, length]"""
        c = self._c
        head_dim, heads, length = query.shape[:3]
        scale = 1.0 / math.sqrt(head_dim)
        attended = c.flash_attention(c.permute(query, 0, 2, 1, 3), keys, values, mask, scale)
        return c.reshape(attended, head_dim * heads, length)

    def _view_cache(self, cache: Tensor, number: int, kv_heads: int) -> Tensor:
        """The first `kv_heads` heads of a slot's rows: [head_dim, kv_length, kv_heads]."""
        shape = (self._a.head_dim, self._spans[number].kv_length, kv_heads)
        view = self._c.view(cache, shape, (self._kv.row_bytes, self._kv.head_bytes))
        assert cache.data is not None
        self.cached[number].append((view, cache.data))
        return view

    def _query(self, x: Tensor, index: int, layer: LayerPlan) -> Tensor:
        """[head_dim, heads, n], rotated."""
        c, width = self._c, layer.heads_per_kv * self._a.head_dim
        matrix = self._weights.matrix(index, "attn_q")
        if layer.heads_per_kv == self._a.heads_per_kv:
            query = matrix.multiply(c, x, layer.kv_heads * width)
        else:
            group = self._a.heads_per_kv * self._a.head_dim
            parts = [
                matrix.multiply(c, x, width, first_row=g * group) for g in range(layer.kv_heads)
            ]
            query = reduce(lambda a, b: c.concat(a, b, 0), parts)
        return self._rope(c.reshape(query, self._a.head_dim, layer.heads, self._n))

    def _attention_output(self, x: Tensor, index: int, layer: LayerPlan) -> Tensor:
        c, hidden = self._c, self._a.hidden_size
        matrix = self._weights.matrix(index, "attn_output")
        if layer.heads_per_kv == self._a.heads_per_kv:
            return matrix.multiply(c, x, hidden)
        width = layer.heads_per_kv * self._a.head_dim
        group = self._a.heads_per_kv * self._a.head_dim
        parts = []
        for g in range(layer.kv_heads):
            columns = c.view(x, (width, x.shape[1]), (x.strides[1],), g * width * 4)
            parts.append(matrix.multiply(c, columns, hidden, first_column=g * group))
        return reduce(c.add, parts)

    def _store_kv(self, x: Tensor, index: int, layer: LayerPlan) -> None:
        """Write the batch's keys and values into the cache rows of its tokens."""
        c, width = self._c, layer.kv_heads * self._a.head_dim
        key = self._weights.matrix(index, "attn_k").multiply(c, x, width)
        value = self._weights.matrix(index, "attn_v").multiply(c, x, width)
        key = self._rope(c.reshape(key, self._a.head_dim, layer.kv_heads, self._n))
        for cache, values in (
            (self._kv.keys[index], c.reshape(key, width, self._n)),
            (self._kv.values[index], value),
        ):
            self._expand(c.set_rows(self._kv.target(cache, width), values, self._kv_rows))

    def _store_only(self, x: Tensor, index: int, layer: LayerPlan) -> None:
        """The last layer of a prompt chunk whose logits nobody wants."""
        if layer.kv_heads:
            self._store_kv(self._norm(x, f"blk.{index}.attn_norm.weight"), index, layer)
        else:
            self._expand(x)

    def _rope(self, x: Tensor) -> Tensor:
        a = self._a
        return self._c.rope(
            x,
            self._positions,
            self._factors,
            dims=a.rope_dim,
            base=a.rope_base,
            scale=a.rope_freq_scale,
            original_context=a.rope_original_context,
        )

    def _mask_views(self, masks: Tensor) -> list[Tensor]:
        views = []
        offset = 0
        for span in self._spans:
            shape = (span.kv_length, span.length)
            views.append(self._c.view(masks, shape, (span.kv_length * 2,), offset))
            offset += span.kv_length * span.length * 2
        return views

    def _expand(self, tensor: Tensor) -> None:
        bind().build_forward_expand(self._graph, tensor.address)
