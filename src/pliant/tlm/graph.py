"""The computation of the tiny language model, as a ggml graph.

Windows lie side by side: matrix products run over the tokens of all of them, attention in each
one by itself. Post-norm layers as in BERT (arXiv 1810.04805); `pliant.tlm.training.network` is the
same in torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.tensor import Tensor
from pliant.tlm.config import TlmConfig
from pliant.tlm.inputs import PassShape, TlmInputs
from pliant.tlm.slo_tokens import SLO, SUMMARY
from pliant.tlm.weights import TlmWeights

# Upper bounds of what a layer takes, and everything else.
_TENSORS_PER_LAYER = 40
_TENSORS_AROUND = 80


@dataclass(frozen=True)
class Parts:
    """What a graph is built from."""

    config: TlmConfig
    weights: TlmWeights
    inputs: TlmInputs


class TlmGraph:
    """A built graph; `address` is what the backend computes once it has memory.

    `hidden` is the trunk's output [hidden, tokens], `scores` the logits of keeping each token
    [1, tokens], `prompt_ratios` and `levels` the decision's logits; None where not asked for.
    """

    def __init__(self, parts: Parts, shape: PassShape) -> None:
        config = parts.config
        layers = config.trunk_layers + config.score_layers + config.decision_layers
        needed = _TENSORS_AROUND + _TENSORS_PER_LAYER * layers
        self._context = Context(max_tensors=needed, graph_size=needed)
        self.address = self._context.new_graph(needed)
        builder = _Builder(parts, self._context, shape)
        self.hidden = builder.trunk()
        self.scores = builder.score(self.hidden) if shape.is_scored else None
        self.prompt_ratios = self.levels = None
        if shape.deciding:
            self.prompt_ratios, self.levels = builder.decide(self.hidden)
        for result in (self.hidden, self.scores, self.prompt_ratios, self.levels):
            if result is not None:
                bind().build_forward_expand(self.address, result.address)

    def close(self) -> None:
        self._context.close()


class _Builder:
    def __init__(self, parts: Parts, context: Context, shape: PassShape) -> None:
        self._config = parts.config
        self._weights = parts.weights
        self._inputs = parts.inputs
        self._c = context
        self._shape = shape

    def trunk(self) -> Tensor:
        c, shape, d = self._c, self._shape, self._config.hidden_size
        tokens = c.view(self._inputs.tokens, (shape.windows * shape.length,))
        x = c.get_rows(self._weights["token_embd.weight"], tokens)
        positions = c.view(self._weights["position_embd.weight"], (d, shape.length))
        x = c.add(c.reshape(x, d, shape.length, shape.windows), positions)
        x = self._norm(c.reshape(x, d, shape.length * shape.windows), "embd_norm")
        mask = self._mask(self._inputs.mask, shape.length, shape.length, shape.windows)
        for index in range(self._config.trunk_layers):
            x = self._layer(x, f"trunk.{index}", mask)
        return x

    def score(self, x: Tensor) -> Tensor:
        """Logits [1, tokens]."""
        shape = self._shape
        mask = self._mask(self._inputs.mask, shape.length, shape.length, shape.windows)
        for index in range(self._config.score_layers):
            x = self._layer(x, f"score.{index}", mask)
        return self._linear(x, "score_head")

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over the prompt ratios and over the levels."""
        c, d, last = self._c, self._config.hidden_size, self._config.decision_layers - 1
        length, windows = self._shape.length + SLO, self._shape.deciding
        x = self._with_slo_tokens(x)
        mask = self._mask(self._inputs.decision_mask, length, length, windows)
        for index in range(last):
            x = self._layer(x, f"decision.{index}", mask)
        x = self._summary_layer(x, f"decision.{last}")
        rows = (c.view(x, (d, 1), (), row * x.strides[1]) for row in range(SUMMARY * windows))
        mean = c.scale(reduce(c.add, rows), 1.0 / (SUMMARY * windows))
        pooled = c.tanh(self._linear(mean, "pooler"))
        return self._linear(pooled, "prompt_ratio_head"), self._linear(pooled, "level_head")

    def _with_slo_tokens(self, x: Tensor) -> Tensor:
        """Two more tokens in front of each deciding window: [hidden, deciding * (2 + length)]."""
        slo = self._c.get_rows(self._weights["slo_embd.weight"], self._inputs.slo)
        parts = self._deciding_windows(x, slo)
        return reduce(lambda a, b: self._c.concat(a, b, 1), parts)

    def _deciding_windows(self, x: Tensor, slo: Tensor) -> Iterator[Tensor]:
        length = self._shape.length
        for index in range(self._shape.deciding):
            yield slo
            yield self._c.view(x, (x.shape[0], length), (), index * length * x.strides[1])

    def _layer(self, x: Tensor, name: str, mask: Tensor) -> Tensor:
        qkv = self._linear(x, f"{name}.attn_qkv")
        d, length, windows = self._config.hidden_size, mask.shape[0], mask.shape[3]
        q, k, v = (self._heads(qkv, part * d, length, windows) for part in range(3))
        return self._rest_of_layer(x, self._attend(q, k, v, mask), name)

    def _summary_layer(self, x: Tensor, name: str) -> Tensor:
        """The last layer of the decision, for the tokens that it is pooled from alone."""
        c, d = self._c, self._config.hidden_size
        length, windows = self._shape.length + SLO, self._shape.deciding
        weight, bias = self._weights[f"{name}.attn_qkv.weight"], f"{name}.attn_qkv.bias"
        kv_weight = c.view(weight, (d, 2 * d), (weight.strides[1],), d * weight.strides[1])
        kv_bias = c.view(self._weights[bias], (2 * d,), (), d * 4)
        kv = c.add(c.mul_mat(kv_weight, x), kv_bias)
        row = x.strides[1]
        x = c.cont(c.view(x, (d, SUMMARY, windows), (row, length * row)))
        x = c.reshape(x, d, SUMMARY * windows)
        q = c.mul_mat(c.view(weight, (d, d), (weight.strides[1],)), x)
        q = c.add(q, c.view(self._weights[bias], (d,)))
        k, v = (self._heads(kv, part * d, length, windows) for part in range(2))
        mask = self._mask(self._inputs.summary_mask, length, SUMMARY, windows)
        attended = self._attend(self._heads(q, 0, SUMMARY, windows), k, v, mask)
        return self._rest_of_layer(x, attended, name)

    def _heads(self, x: Tensor, first: int, length: int, windows: int) -> Tensor:
        """Columns of x [.., length * windows] as [head_dim, length, heads, windows]."""
        config, row = self._config, x.strides[1]
        shape = (config.head_dim, length, config.num_heads, windows)
        return self._c.view(x, shape, (row, config.head_dim * 4, length * row), first * 4)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        attended = self._c.flash_attention(q, k, v, mask, self._config.head_dim**-0.5)
        return self._c.reshape(attended, self._config.hidden_size, q.shape[1] * q.shape[3])

    def _rest_of_layer(self, x: Tensor, attended: Tensor, name: str) -> Tensor:
        c = self._c
        x = self._norm(c.add(self._linear(attended, f"{name}.attn_output"), x), f"{name}.attn_norm")
        inner = self._linear(x, f"{name}.ffn_up")
        inner = c.relu(inner) if self._config.activation == "relu" else c.gelu(inner)
        return self._norm(c.add(self._linear(inner, f"{name}.ffn_down"), x), f"{name}.ffn_norm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        product = self._c.mul_mat(self._weights[f"{name}.weight"], x)
        return self._c.add(product, self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        x = self._c.mul(self._c.norm(x, self._config.norm_eps), self._weights[f"{name}.weight"])
        return self._c.add(x, self._weights[f"{name}.bias"])

    def _mask(self, mask: Tensor, keys: int, queries: int, windows: int) -> Tensor:
        return self._c.view(mask, (keys, queries, 1, windows))
