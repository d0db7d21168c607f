"""What sets the model families apart: data that the reader of GGUF files, the engine and the
exporter share.

A family is one of llama.cpp's architectures (`src/models/` in its sources); everything here is as
llama.cpp computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """One `general.architecture`.

    `rope_order`: which elements of a head turn together, neighbours ("pairs") or element i with
    element i + dims/2 ("halves"). `rope_factors`: one optional tensor of them ("single") or one
    for short and one for long contexts ("short_long").
    """

    name: str
    rope_order: Literal["pairs", "halves"]
    activation: Literal["silu", "gelu"] = "silu"
    rope_factors: Literal["none", "single", "short_long"] = "none"
    has_qkv_bias: bool = False
    has_qk_norm: bool = False
    has_post_norms: bool = False
    """RMS norms behind attention and MLP, before each is added to the residual."""
    norm_shift: float = 0.0
    """Hugging Face checkpoints keep the weights of norms less by so much."""
    is_fused: bool = False
    """The file holds q, k and v as the rows of `attn_qkv`, gate and up as those of `ffn_up`."""
    scales_embeddings: bool = False
    """Embeddings are multiplied by the square root of the hidden size."""
    scales_queries: bool = False
    """Queries are scaled before they are rounded for attention, not their products with keys."""
    is_tied: bool = False
    """The output matrix is always the embedding table."""
    nope_interval: int = 0
    """Every so many layers one has no positional encoding; 0: all layers have it."""
    sliding_interval: int = 0
    """Every so many layers one attends to everything, the others to a window; 0: all do."""
    default_window: int | None = None
    sliding_rope_base: float | None = None
    """RoPE base of the layers with a window, where they rotate otherwise than the rest."""
    default_softcaps: tuple[float, float] | None = None
    """Of attention scores and of logits; None: neither is capped."""
    wide_scale_layers: int | None = None
    """A model with so many layers scales queries by hidden size per head, not by head size."""


FAMILIES = {
    family.name: family
    for family in (
        Family("llama", "pairs", rope_factors="single"),
        Family("smollm3", "pairs", nope_interval=4),
        Family("qwen2", "halves", has_qkv_bias=True),
        Family("qwen3", "halves", has_qk_norm=True),
        Family("phi3", "halves", rope_factors="short_long", is_fused=True, scales_queries=True),
        Family(
            "gemma2",
            "halves",
            "gelu",
            has_post_norms=True,
            norm_shift=1.0,
            scales_embeddings=True,
            scales_queries=True,
            is_tied=True,
            sliding_interval=2,
            default_window=4096,
            default_softcaps=(50.0, 30.0),
            wide_scale_layers=46,
        ),
        Family(
            "gemma3",
            "halves",
            "gelu",
            has_qk_norm=True,
            has_post_norms=True,
            norm_shift=1.0,
            scales_embeddings=True,
            scales_queries=True,
            sliding_interval=6,
            sliding_rope_base=10000.0,
            wide_scale_layers=62,
        ),
    )
}
