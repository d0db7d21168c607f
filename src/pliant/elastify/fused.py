"""Phi-3's fused projections as modules of their own, so that all families have the same ones.

transformers keeps q, k and v of a Phi-3 as the rows of one matrix, gate and up as those of
another. Split, every projection can be measured, reordered, cut and adapted like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb, eager_attention_forward


def split_fused(model: Any) -> Any:
    """Replaces the fused modules of a transformers Phi-3 in place; other models are left alone.

    The new modules' weights are the rows of the old ones, without a copy. Returns `model`.
    """
    for block in model.model.layers:
        if hasattr(block.self_attn, "qkv_proj"):
            block.self_attn = SplitAttention(block.self_attn)
        if hasattr(block.mlp, "gate_up_proj"):
            block.mlp = _split_mlp(block.mlp)
    return model


class SplitAttention(torch.nn.Module):
    """Phi-3's attention with `q_proj`, `k_proj` and `v_proj`; any number of heads."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.config = fused.config
        self.layer_idx = fused.layer_idx
        self.head_dim = fused.head_dim
        self.num_key_value_groups = fused.num_key_value_groups
        self.scaling = fused.scaling
        self.attention_dropout = fused.attention_dropout
        self.is_causal = True
        key_value = fused.num_key_value_heads * fused.head_dim
        query = fused.qkv_proj.out_features - 2 * key_value
        parts = fused.qkv_proj.weight.detach().split([query, key_value, key_value])
        self.q_proj, self.k_proj, self.v_proj = map(_linear, parts)
        self.o_proj = fused.o_proj
        self.train(fused.training)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: Any = None,
        **options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `Phi3Attention.forward`; hidden_states [batch, tokens, hidden]."""
        shape = hidden_states.shape[:-1]
        query, key, value = (
            projection(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        kind = self.config._attn_implementation
        attend = eager_attention_forward if kind == "eager" else ALL_ATTENTION_FUNCTIONS[kind]
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=getattr(self.config, "sliding_window", None),
            **options,
        )
        return self.o_proj(output.reshape(*shape, -1).contiguous()), weights


def _split_mlp(fused: Any) -> Any:
    with torch.device("meta"):
        mlp = MistralMLP(fused.config)
    mlp.gate_proj, mlp.up_proj = map(_linear, fused.gate_up_proj.weight.detach().chunk(2))
    mlp.down_proj = fused.down_proj
    return mlp.train(fused.training)


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight)
    return linear
