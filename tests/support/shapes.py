"""Architectures for tests of plans that need no model."""

from dataclasses import replace

from hypothesis import strategies as st

from pliant.bundle import Architecture
from pliant.elastify.source import SourceConfig

LLAMA_1B = Architecture(
    name="llama",
    num_layers=16,
    hidden_size=2048,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    ff=8192,
    vocab_size=32000,
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


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    kv_heads = draw(st.integers(1, 8))
    head_dim = draw(st.sampled_from([8, 32, 64]))
    heads_per_kv = draw(st.integers(1, 4))
    return replace(
        LLAMA_1B,
        num_layers=draw(st.integers(1, 8)),
        hidden_size=draw(st.sampled_from([64, 256, 576])),
        num_heads=kv_heads * heads_per_kv,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ff=draw(st.integers(1, 900)),
        vocab_size=draw(st.sampled_from([300, 4096, 50000])),
    )


def architecture_of(config: SourceConfig) -> Architecture:
    """The sizes of a model that was not exported."""
    names = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "ff")
    sizes = {name: getattr(config, name) for name in (*names, "vocab_size")}
    return replace(LLAMA_1B, **sizes)
