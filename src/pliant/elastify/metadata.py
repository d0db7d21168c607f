"""The keys of a GGUF file that describe the model, as llama.cpp's converter writes them."""

from __future__ import annotations

from typing import Any

import gguf

from pliant.elastify.rope import RopeScaling
from pliant.elastify.source import SourceConfig


def add_model_keys(writer: Any, config: SourceConfig) -> None:
    """All but the number of heads and neurons, which a sub-model has its own of."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.rope_dim)
    writer.add_rope_freq_base(config.rope_base)
    if config.rope_scaling is not None:
        _add_scaling(writer, config.rope_scaling)
    if config.family.rope_factors == "short_long":
        _add_long_context(writer, config)
    if config.family.sliding_interval:
        _add_window(writer, config)


def _add_scaling(writer: Any, scaling: RopeScaling) -> None:
    if scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
    if scaling.kind == "longrope":
        writer.add_rope_scaling_attn_factors(scaling.attention_factor)


def _add_long_context(writer: Any, config: SourceConfig) -> None:
    scaling = config.rope_scaling
    original = config.context_length if scaling is None else scaling.original_context
    writer.add_rope_scaling_orig_ctx_len(original)
    # llama.cpp runs these models without a window; the context is limited to it instead.
    writer.add_sliding_window(0)


def _add_window(writer: Any, config: SourceConfig) -> None:
    writer.add_sliding_window(config.sliding_window)
    if config.attention_softcap is not None:
        writer.add_attn_logit_softcapping(config.attention_softcap)
    if config.final_softcap is not None:
        writer.add_final_logit_softcapping(config.final_softcap)
    if config.sliding_rope_base not in (None, config.family.sliding_rope_base):
        writer.add_rope_freq_base_swa(config.sliding_rope_base)
