"""How strongly the last queries of a slot attend to each position, in every layer and KV head.

Flash attention gives no scores, so they are computed beside it: the forward pass of a few tokens
again, up to the scores of the last layer. Keys and values are those in the cache, and nothing is
written to it.
"""

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import LayerPlan
from pliant.engine.attention import AttentionBuilder
from pliant.engine.graph import Builder, Model, Size, tensors_needed
from pliant.engine.span import SpanShape
from pliant.errors import PlanError
from pliant.ggml.backend import Backend, GraphAllocator
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.memory import ALIGNMENT, Buffer
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import GgmlType

_TENSORS_PER_LAYER = 12


class _ProbeAttention(AttentionBuilder):
    """Stores nothing; `power` are the mean squared attention weights of the queries that share a
    KV head, layer after layer: [kv_length, 1, all KV heads]."""

    power: Tensor | None = None
    ones: Tensor

    def store(self, x: Tensor, index: int, layer: LayerPlan) -> None:
        """The tokens' keys and values are in the cache."""

    def _attend_span(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        c, (_, heads, length, _) = self._c, query.shape
        scale = 1.0 if self._a.family.scales_queries else self._a.attention_scale
        scores = c.mul_mat(keys, c.permute(query, 0, 2, 1, 3))
        cap = self._a.attention_softcap
        if cap:
            scores = c.scale(c.tanh(c.scale(scores, scale / cap)), cap)
            scale = 1.0
        kv_heads = keys.shape[2]
        rows = heads // kv_heads * length
        weights = c.reshape(c.soft_max(scores, mask, scale), keys.shape[1], rows, kv_heads)
        sums = c.out_prod(c.mul(weights, weights), c.view(self.ones, (1, rows, kv_heads)))
        mean = c.scale(sums, 1.0 / rows)
        self.power = mean if self.power is None else c.concat(self.power, mean, 2)
        return super()._attend_span(query, keys, values, mask)


def attention_power(
    model: Model, size: Size, shape: SpanShape, first_row: int, backend: Backend
) -> list[NDArray[np.float32]]:
    """Of the batch in the model's inputs, a span of `shape` in the slot at cache row `first_row`:
    per layer float32 [kv_heads, kv_length], the mean square of the attention weights of the
    queries that share a KV head. Raises PlanError for a plan without attention.
    """
    kv_heads = [layer.kv_heads for layer in size.plan.layers]
    if not any(kv_heads):
        raise PlanError("the plan runs no attention, so there is none to measure")
    needed = tensors_needed(model, size, 1) + _TENSORS_PER_LAYER * len(size.plan.layers)
    most_rows = shape.length * model.architecture.num_heads
    with (
        Context(max_tensors=needed, graph_size=needed) as context,
        Buffer.zeroed(4 * most_rows + ALIGNMENT) as buffer,
        GraphAllocator() as allocator,
    ):
        graph = context.new_graph(needed)
        builder = Builder(model, context, graph, size.adapter, (shape,), _ProbeAttention)
        attention = builder.attention
        assert isinstance(attention, _ProbeAttention)
        attention.ones = context.new_tensor(GgmlType.F32, 1, most_rows)
        buffer.place(attention.ones, 0)
        attention.ones.numpy()[:] = 1.0
        builder.build(size.plan)
        assert attention.power is not None
        bind().build_forward_expand(graph, attention.power.address)
        allocator.allocate(graph)
        for view, cache in builder.cached[0]:
            view.point_to(cache + first_row * model.kv.row_bytes)
        backend.compute(graph)
        power = attention.power.numpy().reshape(sum(kv_heads), shape.kv_length).copy()
        return np.split(power, np.cumsum(kv_heads)[:-1])
