"""The attention of a layer, over the first of its KV heads, with keys and values in the cache."""

from dataclasses import dataclass
from functools import partial, reduce

from pliant.bundle import Architecture, LayerPlan
from pliant.engine.kv import KvCache
from pliant.engine.projection import Projector
from pliant.engine.span import SpanShape
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.tensor import Tensor


@dataclass(frozen=True)
class BatchInputs:
    """What a batch's attention reads: views of the engine's inputs.

    `masks`, one per span, hide what a token must not see; `sliding_masks` also what lies before
    the window of the layers that have one. `factors` divide the rotary frequencies.
    """

    positions: Tensor
    kv_rows: Tensor
    masks: list[Tensor]
    sliding_masks: list[Tensor]
    factors: Tensor | None


class AttentionBuilder:
    """Adds attention to a graph.

    `cached` are, per span, the views into the cache with the address of the cache's first row.
    """

    def __init__(
        self,
        context: Context,
        graph: int,
        architecture: Architecture,
        projector: Projector,
        kv: KvCache,
        spans: tuple[SpanShape, ...],
        inputs: BatchInputs,
    ) -> None:
        self._c = context
        self._graph = graph
        self._a = architecture
        self._projector = projector
        self._kv = kv
        self._spans = spans
        self._inputs = inputs
        self._n = sum(span.length for span in spans)
        self._group = architecture.heads_per_kv * architecture.head_dim
        self.cached: list[list[tuple[Tensor, int]]] = [[] for _ in spans]

    def attend(self, x: Tensor, index: int, layer: LayerPlan) -> Tensor:
        """Attention's output [hidden, n] for the normed x [hidden, n]."""
        query = self._query(x, index, layer)
        self.store(x, index, layer)
        is_sliding = self._a.is_sliding(index)
        masks = self._inputs.sliding_masks if is_sliding else self._inputs.masks
        parts = []
        start = 0
        for number, (span, mask) in enumerate(zip(self._spans, masks, strict=True)):
            part = self._c.view(
                query,
                (self._a.head_dim, layer.heads, span.length),
                query.strides[1:3],
                start * query.strides[2],
            )
            keys = self._view_cache(self._kv.keys[index], number, layer.kv_heads)
            values = self._view_cache(self._kv.values[index], number, layer.kv_heads)
            parts.append(self._attend_span(part, keys, values, mask))
            start += span.length
        attended = reduce(lambda a, b: self._c.concat(a, b, 1), parts)
        return self._output(attended, index, layer)

    def store(self, x: Tensor, index: int, layer: LayerPlan) -> None:
        """Write the batch's keys and values into the cache rows of its tokens."""
        c, width = self._c, layer.kv_heads * self._a.head_dim
        key = self._projector.project(x, index, "attn_k", width)
        value = self._projector.project(x, index, "attn_v", width)
        key = self._place(c.reshape(key, self._a.head_dim, layer.kv_heads, self._n), index, "k")
        for cache, values in (
            (self._kv.keys[index], c.reshape(key, width, self._n)),
            (self._kv.values[index], value),
        ):
            stored = c.set_rows(self._kv.target(cache, width), values, self._inputs.kv_rows)
            bind().build_forward_expand(self._graph, stored.address)

    def _attend_span(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """[head_dim * heads, length]"""
        c = self._c
        head_dim, heads, length = query.shape[:3]
        scale = 1.0 if self._a.family.scales_queries else self._a.attention_scale
        attended = c.flash_attention(
            c.permute(query, 0, 2, 1, 3), keys, values, mask, scale, self._a.attention_softcap
        )
        return c.reshape(attended, head_dim * heads, length)

    def _view_cache(self, cache: Tensor, number: int, kv_heads: int) -> Tensor:
        """The first `kv_heads` heads of a slot's rows: [head_dim, kv_length, kv_heads]."""
        shape = (self._a.head_dim, self._spans[number].kv_length, kv_heads)
        view = self._c.view(cache, shape, (self._kv.row_bytes, self._kv.head_bytes))
        assert cache.data is not None
        self.cached[number].append((view, cache.data))
        return view

    def _query(self, x: Tensor, index: int, layer: LayerPlan) -> Tensor:
        """[head_dim, heads, n], normed, rotated and scaled as the family does."""
        c, width = self._c, layer.heads_per_kv * self._a.head_dim
        if width == self._group:
            query = self._projector.project(x, index, "attn_q", layer.kv_heads * width)
        else:
            product = partial(self._projector.project_uncorrected, x, index, "attn_q", width)
            parts = [product(first_row=g * self._group) for g in range(layer.kv_heads)]
            query = reduce(lambda a, b: c.concat(a, b, 0), parts)
            query = self._projector.correct(x, index, "attn_q", query)
        query = self._place(c.reshape(query, self._a.head_dim, layer.heads, self._n), index, "q")
        if self._a.family.scales_queries:
            query = c.scale(query, self._a.attention_scale)
        return query

    def _output(self, x: Tensor, index: int, layer: LayerPlan) -> Tensor:
        c, hidden = self._c, self._a.hidden_size
        width = layer.heads_per_kv * self._a.head_dim
        if width == self._group:
            return self._projector.project(x, index, "attn_output", hidden)
        parts = []
        for g in range(layer.kv_heads):
            columns = c.view(x, (width, x.shape[1]), (x.strides[1],), g * width * 4)
            parts.append(
                self._projector.project_uncorrected(
                    columns, index, "attn_output", hidden, first_column=g * self._group
                )
            )
        return self._projector.correct(x, index, "attn_output", reduce(c.add, parts))

    def _place(self, x: Tensor, index: int, which: str) -> Tensor:
        """Queries ("q") or keys ("k") [head_dim, heads, n], normed and rotated to their positions.

        Both as far as the family does it in this layer.
        """
        a = self._a
        if a.family.has_qk_norm:
            x = self._projector.norm(x, f"blk.{index}.attn_{which}_norm.weight", a.rms_eps)
        rope = a.rope(index)
        if rope is None:
            return x
        base, scale = rope
        return self._c.rope(
            x,
            self._inputs.positions,
            self._inputs.factors,
            dims=a.rope_dim,
            base=base,
            scale=scale,
            original_context=a.rope_original_context,
            halves=a.family.rope_order == "halves",
            magnitude=a.rope_attention_factor,
        )
