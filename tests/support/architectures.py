"""Shapes of models for tests that need no weights."""

from dataclasses import replace

from pliant.bundle import Architecture

# Llama-3.2-1B's dimensions, without its RoPE factors.
LLAMA_1B = Architecture(
    name="llama",
    num_layers=16,
    hidden_size=2048,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    ff=8192,
    vocab_size=128256,
    context_length=4096,
    rms_eps=1e-5,
    rope_base=5e5,
    rope_dim=64,
    rope_scaling_type="none",
    rope_scaling_factor=1.0,
    rope_original_context=4096,
    tied_embeddings=True,
    has_rope_factors=False,
)
SMALL = replace(
    LLAMA_1B,
    num_layers=3,
    hidden_size=64,
    num_heads=8,
    num_kv_heads=4,
    head_dim=16,
    ff=200,
    vocab_size=100,
    context_length=128,
    rope_dim=16,
    rope_original_context=128,
)
