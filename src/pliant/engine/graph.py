"""The computation of a sub-model, as a ggml graph.

Matrix products are batched over the tokens of all spans; attention runs per span. The order of
operations is llama.cpp's, so that the full level's logits equal its logits.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Architecture, LayerPlan, Plan
from pliant.engine.adapters import LevelAdapter
from pliant.engine.attention import AttentionBuilder, BatchInputs
from pliant.engine.corrections import TENSORS_PER_LAYER, TENSORS_PER_PIECE, Corrections
from pliant.engine.inputs import Inputs
from pliant.engine.kv import KvCache
from pliant.engine.mlp import add_mlp
from pliant.engine.projection import Projector
from pliant.engine.span import SpanShape
from pliant.engine.weights import Weights
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.stretch import Stretch, find_stretch
from pliant.ggml.tensor import Tensor

# Upper bounds of what a layer takes, and each span, segment of a matrix and KV group in it.
_TENSORS_PER_LAYER = 70
_TENSORS_PER_SPAN = 12
_TENSORS_PER_GROUP = 8
_TENSORS_PER_SEGMENT = 6


@dataclass(frozen=True)
class Model:
    """What a graph is built from."""

    architecture: Architecture
    weights: Weights
    kv: KvCache
    inputs: Inputs


@dataclass(frozen=True, eq=False)
class Size:
    """What a graph computes of the model. Compared by identity: graphs are cached by it."""

    plan: Plan
    adapter: LevelAdapter | None = None


class Graph:
    """A built graph; `address` is what the backend computes once it has memory.

    `hidden` is the state before the output product, the last of the intermediate results.
    """

    def __init__(self, model: Model, size: Size, spans: tuple[SpanShape, ...]) -> None:
        needed = tensors_needed(model, size, len(spans))
        self._context = Context(max_tensors=needed, graph_size=needed)
        self.address = self._context.new_graph(needed)
        builder = Builder(model, self._context, self.address, size.adapter, spans)
        self._logits = builder.build(size.plan)
        if self._logits is not None:
            bind().build_forward_expand(self.address, self._logits.address)
            # ggml gives no memory to a tensor that has some; `new_logits` says where, each time.
            self._logits.point_to(self._logits.address)
        self.hidden = builder.hidden
        self._cached = builder.cached
        self._row_bytes = model.kv.row_bytes
        self._first_rows = [0] * len(spans)
        self._stretch: Stretch | None = None
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

    def stretch(self, length: int, shorter: "Graph", short: int) -> bool:
        """Make this graph, built for `length` tokens, fit for fewer, down to `short`, which
        `shorter` was built for; whether it can be."""
        self._stretch = find_stretch(self._context, length, shorter._context, short)
        return self._stretch is not None

    def set_length(self, length: int) -> None:
        """Of a stretched graph that has memory."""
        assert self._stretch is not None
        self._stretch.set(length)

    def close(self) -> None:
        self._context.close()


def tensors_needed(
    model: Model, size: Size, spans: int, layers: Iterable[int] | None = None
) -> int:
    """Tensors of a graph of all layers of a size, or of those of the numbers `layers`."""
    weights = model.weights
    total = 64
    for index in range(len(size.plan.layers)) if layers is None else layers:
        layer = size.plan.layers[index]
        cut = [weights.matrix(index, name).segments for name in ("attn_output", "ffn_down")]
        total += _TENSORS_PER_LAYER + _TENSORS_PER_SPAN * spans
        total += _TENSORS_PER_SEGMENT * sum(len(segments) for segments in cut)
        if layer.heads_per_kv < model.architecture.heads_per_kv:
            total += _TENSORS_PER_GROUP * layer.kv_heads
        if size.adapter is not None:
            total += TENSORS_PER_LAYER + TENSORS_PER_PIECE * (len(cut[1]) + 1)
    return total


class Builder:
    """Makes one sub-model's computation; what is stored in the cache is in the graph at once, the
    logits are the caller's to add. `attention` adds the attention, `cached` is as it says."""

    def __init__(
        self,
        model: Model,
        context: Context,
        graph: int,
        adapter: LevelAdapter | None,
        spans: tuple[SpanShape, ...],
        attention: type[AttentionBuilder] = AttentionBuilder,
    ) -> None:
        self._a = model.architecture
        self._weights = model.weights
        self._c = context
        self._graph = graph
        corrections = None if adapter is None else Corrections(context, adapter)
        self._projector = Projector(context, model.weights, corrections)
        n = sum(span.length for span in spans)
        self.hidden: Tensor | None = None
        outputs = sum(span.outputs for span in spans)
        inputs = model.inputs
        self._tokens = context.view(inputs.tokens, (n,))
        self._outputs = context.view(inputs.outputs, (outputs,)) if outputs else None
        masks = _mask_views(context, inputs.masks, spans)
        sliding = inputs.sliding_masks
        factors = self._a.rope_factors(model.kv.context_length)
        batch = BatchInputs(
            positions=context.view(inputs.positions, (n,)),
            kv_rows=context.view(inputs.kv_rows, (n,)),
            masks=masks,
            sliding_masks=masks if sliding is None else _mask_views(context, sliding, spans),
            factors=None if factors is None else model.weights.tensor(factors),
        )
        self.attention = attention(context, graph, self._a, self._projector, model.kv, spans, batch)
        self.cached = self.attention.cached

    def build(self, plan: Plan) -> Tensor | None:
        x = self._embed()
        last = len(plan.layers) - 1
        for index, layer in enumerate(plan.layers):
            if index == last and self._outputs is None:
                self._store_only(x, index, layer)
                return None
            x = self._layer(x, index, layer, last=index == last)
        self.hidden = self._norm(x, "output_norm.weight")
        return self._logits(self.hidden)

    def build_layer(
        self, x: Tensor | None, index: int, layer: LayerPlan, *, store_only: bool
    ) -> Tensor | None:
        """One layer alone, on the state `x` [hidden, n] of the layer before, or on embeddings.

        Returns the state after it, or None if only keys and values are wanted.
        """
        x = self._embed() if x is None else x
        if store_only:
            self._store_only(x, index, layer)
            return None
        x = self._layer(x, index, layer, last=False)
        self._expand(x)
        return x

    def _embed(self) -> Tensor:
        x = self._c.get_rows(self._weights.tensor("token_embd.weight"), self._tokens)
        if self._a.family.scales_embeddings:
            x = self._c.scale(x, math.sqrt(self._a.hidden_size))
        return x

    def _logits(self, x: Tensor) -> Tensor:
        c, cap = self._c, self._a.final_softcap
        logits = self._weights.output.multiply(c, x, self._a.vocab_size)
        if cap:
            logits = c.scale(c.tanh(c.scale(logits, 1.0 / cap)), cap)
        return logits

    def _layer(self, x: Tensor, index: int, layer: LayerPlan, *, last: bool) -> Tensor:
        if layer.kv_heads:
            normed = self._norm(x, f"blk.{index}.attn_norm.weight")
            attended = self.attention.attend(normed, index, layer)
        if last and self._outputs is not None:
            x = self._c.get_rows(x, self._outputs)
            attended = self._c.get_rows(attended, self._outputs) if layer.kv_heads else x
        if layer.kv_heads:
            x = self._add(attended, x, f"blk.{index}.post_attention_norm.weight")
        if layer.ff:
            normed = self._norm(x, f"blk.{index}.ffn_norm.weight")
            hidden = add_mlp(self._c, self._a, self._projector, normed, index, layer.ff)
            x = self._add(hidden, x, f"blk.{index}.post_ffw_norm.weight")
        return x

    def _add(self, branch: Tensor, residual: Tensor, post_norm: str) -> Tensor:
        if self._a.family.has_post_norms:
            branch = self._norm(branch, post_norm)
        return self._c.add(branch, residual)

    def _norm(self, x: Tensor, weight: str) -> Tensor:
        return self._projector.norm(x, weight, self._a.rms_eps)

    def _store_only(self, x: Tensor, index: int, layer: LayerPlan) -> None:
        """The last layer of a prompt chunk whose logits nobody wants."""
        if layer.kv_heads:
            normed = self._norm(x, f"blk.{index}.attn_norm.weight")
            self.attention.store(normed, index, layer)
        else:
            self._expand(x)

    def _expand(self, tensor: Tensor) -> None:
        bind().build_forward_expand(self._graph, tensor.address)


def _mask_views(c: Context, masks: Tensor, spans: tuple[SpanShape, ...]) -> list[Tensor]:
    """Each span's mask [kv_length, length]; they lie one behind the other."""
    views = []
    offset = 0
    for span in spans:
        shape = (span.kv_length, span.length)
        views.append(c.view(masks, shape, (span.kv_length * 2,), offset))
        offset += span.kv_length * span.length * 2
    return views
