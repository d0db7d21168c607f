"""What the families' GGUF files have beyond a Llama's, as llama.cpp's converter writes it."""

import gguf
import numpy as np

from pliant.bundle import Family


def add_family_keys(
    writer: gguf.GGUFWriter,
    family: Family,
    head_dim: int,
    context: int,
    *,
    window: int = 48,
    rope_dim: int | None = None,
    rope_scale: float | None = None,
    original_context: int | None = None,
) -> None:
    """`window` is for families whose layers have one; `original_context` makes a long-rope model
    of a Phi-3, `rope_scale` is the factor of linear scaling."""
    writer.add_rope_dimension_count(rope_dim or head_dim)
    if family.sliding_interval:
        writer.add_sliding_window(window)
    if family.default_softcaps:
        # Low enough to bend the scores and logits of a small random model.
        writer.add_attn_logit_softcapping(4.0)
        writer.add_final_logit_softcapping(6.0)
    if rope_scale is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope_scale)
    if family.rope_factors == "short_long":
        writer.add_rope_scaling_orig_ctx_len(original_context or context)
        writer.add_sliding_window(0)
    if original_context is not None:
        writer.add_rope_scaling_attn_factors(1.2)


def long_factors(
    family: Family,
    head_dim: int,
    *,
    rope_dim: int | None = None,
    original_context: int | None = None,
    **_: object,
) -> dict[str, np.ndarray]:
    """Phi-3's two sets of rotary factors, where `original_context` asks for them."""
    if original_context is None or family.rope_factors != "short_long":
        return {}
    count = (rope_dim or head_dim) // 2
    return {
        "rope_factors_long.weight": np.linspace(1, 9, count, dtype=np.float32),
        "rope_factors_short.weight": np.linspace(1, 2, count, dtype=np.float32),
    }


def layer_shapes(
    family: Family, hidden: int, query: int, key_value: int, head_dim: int, ff: int
) -> dict[str, tuple[int, ...]]:
    """A layer's tensors: matrices as (rows, columns), norms and biases as (length,)."""
    shapes: dict[str, tuple[int, ...]] = {"attn_norm.weight": (hidden,)}
    projections = {"attn_q": query, "attn_k": key_value, "attn_v": key_value}
    if family.is_fused:
        projections = {"attn_qkv": query + 2 * key_value}
    for name, rows in projections.items():
        shapes[f"{name}.weight"] = (rows, hidden)
        if family.has_qkv_bias:
            shapes[f"{name}.bias"] = (rows,)
    if family.has_qk_norm:
        shapes |= {"attn_q_norm.weight": (head_dim,), "attn_k_norm.weight": (head_dim,)}
    shapes |= {"attn_output.weight": (hidden, query), "ffn_norm.weight": (hidden,)}
    if not family.is_fused:
        shapes["ffn_gate.weight"] = (ff, hidden)
    shapes["ffn_up.weight"] = (2 * ff if family.is_fused else ff, hidden)
    shapes["ffn_down.weight"] = (hidden, ff)
    if family.has_post_norms:
        shapes |= {"post_attention_norm.weight": (hidden,), "post_ffw_norm.weight": (hidden,)}
    return shapes
