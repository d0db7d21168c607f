"""Hugging Face's model types: which llama.cpp family each one is, and what of it pliant carries
over exactly. Everything else is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pliant.bundle.architecture import MAX_LAYERS
from pliant.bundle.family import FAMILIES, Family
from pliant.errors import ElastifyError

_MAX_SIZE = 1 << 24
_MAX_CONTEXT = 1 << 31


@dataclass(frozen=True)
class SourceFamily:
    """One `model_type`."""

    architecture: str
    rope_types: tuple[str, ...] = ("default", "linear")

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]


SOURCES = {
    "llama": SourceFamily("llama", ("default", "linear", "llama3")),
    "mistral": SourceFamily("llama", ("default", "linear", "llama3")),
    "smollm3": SourceFamily("smollm3"),
    "qwen2": SourceFamily("qwen2"),
    "qwen3": SourceFamily("qwen3"),
    "phi3": SourceFamily("phi3", ("default", "longrope")),
    "gemma2": SourceFamily("gemma2"),
    "gemma3_text": SourceFamily("gemma3"),
}


def source_family(model_type: object) -> SourceFamily:
    """Raises ElastifyError, with the list of those supported, for another model type."""
    source = SOURCES.get(model_type) if isinstance(model_type, str) else None
    if source is None:
        raise ElastifyError(
            f"model type {model_type!r} is not supported (supported: {', '.join(SOURCES)})"
        )
    return source


def head_size(config: Any) -> int:
    """Elements of one attention head."""
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def refuse_unsupported(config: Any) -> None:
    """Raises ElastifyError for what a GGUF of the family cannot say or llama.cpp does not run."""
    source = source_family(config.model_type)
    for problems in (
        _size_problems(config),
        _common_problems(config, source.family),
        _family_problems(config, source),
    ):
        for what in problems:
            raise ElastifyError(f"not supported in a {config.model_type} model: {what}")


def _size_problems(config: Any) -> Iterator[str]:
    limits = {
        "hidden_size": _MAX_SIZE,
        "intermediate_size": _MAX_SIZE,
        "vocab_size": _MAX_SIZE,
        "num_attention_heads": _MAX_SIZE,
        "num_key_value_heads": _MAX_SIZE,
        "num_hidden_layers": MAX_LAYERS,
        "max_position_embeddings": _MAX_CONTEXT,
    }
    for name, limit in limits.items():
        value = getattr(config, name, None)
        if type(value) is not int or not 1 <= value <= limit:
            yield f"{name} {value!r} (1 to {limit})"
    if head_size(config) % 2 or head_size(config) < 2:
        yield f"heads of {head_size(config)} elements, which cannot turn in pairs"
    eps = config.rms_norm_eps
    if not isinstance(eps, int | float) or not 0 < eps < 1:
        yield f"rms_norm_eps {eps!r}"


def _common_problems(config: Any, family: Family) -> Iterator[str]:
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    expected = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}[family.activation]
    if activation != expected:
        yield f"hidden_act {activation!r}"
    for name in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
        if getattr(config, name, False):
            yield name
    if getattr(config, "quantization_config", None):
        yield "quantization_config (start from the original weights)"
    if config.num_attention_heads % (config.num_key_value_heads or 1):
        yield "heads that do not divide into KV heads"


def _family_problems(config: Any, source: SourceFamily) -> Iterator[str]:
    family, layers = source.family, config.num_hidden_layers
    interval = family.nope_interval
    if interval and [bool(one) for one in config.no_rope_layers[:layers]] != [
        (layer + 1) % interval != 0 for layer in range(layers)
    ]:
        yield f"no_rope_layers other than every {interval}th"
    if family.is_tied and not config.tie_word_embeddings:
        yield "an output matrix of its own (tie_word_embeddings false)"
    if family.is_fused and config.hidden_size != config.num_attention_heads * head_size(config):
        yield "heads that together are not as large as hidden_size"
    if family.sliding_interval:
        yield from _gemma_problems(config, family)


def _gemma_problems(config: Any, family: Family) -> Iterator[str]:
    layers, interval = config.num_hidden_layers, family.sliding_interval
    expected = [
        "full_attention" if (layer + 1) % interval == 0 else "sliding_attention"
        for layer in range(layers)
    ]
    if list(config.layer_types) != expected:
        yield f"layer_types other than full attention in every {interval}th layer"
    if not config.sliding_window:
        yield "sliding_window that is not set"
    caps = [config.attn_logit_softcapping, config.final_logit_softcapping]
    if any(bool(cap) != bool(family.default_softcaps) for cap in caps):
        yield f"attn_logit_softcapping and final_logit_softcapping of {caps[0]} and {caps[1]}"
    scalar = head_size(config)
    if layers == family.wide_scale_layers:
        scalar = config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != scalar:
        yield f"query_pre_attn_scalar {config.query_pre_attn_scalar} (llama.cpp takes {scalar})"
