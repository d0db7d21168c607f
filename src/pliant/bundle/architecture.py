"""The shape of a model, read from a GGUF file and checked against its tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from reprlib import repr as shorten

from pliant.bundle.family import FAMILIES, Family
from pliant.bundle.gguf import GgufFile
from pliant.bundle.keys import Keys
from pliant.bundle.tensors import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, check_tensors
from pliant.errors import UnsupportedModelError

SUPPORTED = tuple(FAMILIES)
MAX_LAYERS = 512


@dataclass(frozen=True)
class Architecture:
    """Dimensions of the full model; the same in every layer.

    `name` is a key of FAMILIES. `rope_scaling_type` is 'none', 'linear' or 'longrope'. Llama 3
    scales by factors in the tensor `rope_freqs.weight` instead (`has_rope_factors`), Phi-3 by one
    of two such tensors (`has_long_factors`), and multiplies what it rotated by
    `rope_attention_factor`. `sliding_window` is in tokens: what the layers with a window see.
    A softcap of 0 caps nothing.
    """

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff: int
    vocab_size: int
    context_length: int
    rms_eps: float
    rope_base: float
    rope_dim: int
    rope_scaling_type: str
    rope_scaling_factor: float
    rope_original_context: int
    tied_embeddings: bool
    has_rope_factors: bool
    has_long_factors: bool = False
    rope_attention_factor: float = 1.0
    sliding_window: int | None = None
    sliding_interval: int = 0
    sliding_rope_base: float = 0.0
    attention_softcap: float = 0.0
    final_softcap: float = 0.0

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    @property
    def heads_per_kv(self) -> int:
        """Query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def attention_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        if self.num_layers == self.family.wide_scale_layers:
            return 1.0 / math.sqrt(self.hidden_size // self.num_heads)
        return 1.0 / math.sqrt(self.head_dim)

    @property
    def rope_freq_scale(self) -> float:
        """What positions are multiplied by (ggml's `freq_scale`)."""
        return 1.0 / self.rope_scaling_factor

    def is_sliding(self, layer: int) -> bool:
        """Whether a layer attends only to the last `sliding_window` tokens."""
        return self.sliding_interval > 0 and (layer + 1) % self.sliding_interval != 0

    def rope(self, layer: int) -> tuple[float, float] | None:
        """Base and frequency scale of a layer's rotation; None if it does not rotate."""
        interval = self.family.nope_interval
        if interval and (layer + 1) % interval == 0:
            return None
        if not self.is_sliding(layer):
            return self.rope_base, self.rope_freq_scale
        is_scaled = self.family.sliding_rope_base is None
        return self.sliding_rope_base, self.rope_freq_scale if is_scaled else 1.0

    def rope_factors(self, context_length: int) -> str | None:
        """The tensor that divides the rotary frequencies where contexts have this length.

        One set serves a whole context, or cached keys would not fit new queries; llama.cpp
        decides so, too. transformers takes the long set from the first longer sequence on.
        """
        if self.has_rope_factors:
            return ROPE_FACTORS
        if self.has_long_factors:
            return LONG_FACTORS if context_length > self.rope_original_context else SHORT_FACTORS
        return None

    @staticmethod
    def from_gguf(gguf: GgufFile) -> Architecture:
        """Read and check.

        Raises UnsupportedModelError for another architecture or an unknown tensor, and
        CorruptFileError if a key or tensor is missing or has the wrong value, type or shape.
        """
        keys = Keys(gguf)
        family = FAMILIES.get(keys.architecture)
        if family is None:
            raise UnsupportedModelError(
                f"{gguf.path}: the architecture is {shorten(keys.architecture)}; "
                f"pliant runs {', '.join(SUPPORTED)}"
            )
        architecture = _read(gguf, keys, family)
        check_tensors(gguf, architecture)
        return architecture


def _read(gguf: GgufFile, keys: Keys, family: Family) -> Architecture:
    heads, kv_heads, head_dim = _heads(keys)
    layers = keys.size(keys.name("block_count"))
    if layers > MAX_LAYERS:
        key = keys.name("block_count")
        raise keys.fail(f"{key} is {layers}; at most {MAX_LAYERS} are allowed")
    _refuse_unsupported(gguf, keys)
    rope_dim = keys.size(keys.name("rope.dimension_count"), head_dim)
    if rope_dim % 2 != 0 or rope_dim > head_dim:
        key = keys.name("rope.dimension_count")
        raise keys.fail(f"{key} is {rope_dim}, with heads of {head_dim}")
    context = keys.size(keys.name("context_length"))
    scaling, factor = _rope_scaling(gguf, keys, family)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise keys.fail("tensor token_embd.weight is missing or not a matrix")
    architecture = Architecture(
        name=family.name,
        num_layers=layers,
        hidden_size=keys.size(keys.name("embedding_length")),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ff=keys.size(keys.name("feed_forward_length")),
        vocab_size=embedding.shape[1],
        context_length=context,
        rms_eps=keys.number(keys.name("attention.layer_norm_rms_epsilon")),
        rope_base=keys.number(keys.name("rope.freq_base"), 10000.0),
        rope_dim=rope_dim,
        rope_scaling_type=scaling,
        rope_scaling_factor=factor,
        rope_original_context=keys.size(keys.name("rope.scaling.original_context_length"), context),
        tied_embeddings=family.is_tied or "output.weight" not in gguf.tensors,
        has_rope_factors=family.rope_factors == "single" and ROPE_FACTORS in gguf.tensors,
    )
    return _with_features(architecture, gguf, keys)


def _with_features(architecture: Architecture, gguf: GgufFile, keys: Keys) -> Architecture:
    """What only some families have."""
    family = architecture.family
    window, interval, sliding_base = _sliding(keys, family, architecture.rope_base)
    attention_softcap, final_softcap = _softcaps(gguf, keys, family)
    return replace(
        architecture,
        has_long_factors=family.rope_factors == "short_long" and LONG_FACTORS in gguf.tensors,
        rope_attention_factor=keys.number(keys.name("rope.scaling.attn_factor"), 1.0),
        sliding_window=window,
        sliding_interval=interval,
        sliding_rope_base=sliding_base,
        attention_softcap=attention_softcap,
        final_softcap=final_softcap,
    )


def _heads(keys: Keys) -> tuple[int, int, int]:
    """Query heads, KV heads, elements of a head."""
    hidden = keys.size(keys.name("embedding_length"))
    heads = keys.size(keys.name("attention.head_count"))
    kv_heads = keys.size(keys.name("attention.head_count_kv"), heads)
    default = hidden // heads
    head_dim = keys.size(keys.name("attention.key_length"), default)
    if keys.size(keys.name("attention.value_length"), default) != head_dim:
        raise keys.fail("keys and values have heads of different length")
    if heads % kv_heads != 0:
        raise keys.fail(f"{heads} query heads cannot share {kv_heads} KV heads")
    return heads, kv_heads, head_dim


def _refuse_unsupported(gguf: GgufFile, keys: Keys) -> None:
    if any(keys.count(keys.name(key)) for key in ("expert_count", "expert_used_count")):
        raise UnsupportedModelError(
            f"{gguf.path}: mixture-of-experts models are not supported; "
            f"pliant runs {', '.join(SUPPORTED)} without experts"
        )
    if keys.count("split.count") > 1:
        raise UnsupportedModelError(
            f"{gguf.path} is one part of a split model; merge the parts with llama-gguf-split"
        )


def _rope_scaling(gguf: GgufFile, keys: Keys, family: Family) -> tuple[str, float]:
    # Older files say rope.scale_linear; a factor without a type means linear (llama.cpp).
    kind = keys.text(keys.name("rope.scaling.type"), "linear")
    is_long = kind == "longrope" and family.rope_factors == "short_long"
    if kind not in ("none", "linear") and not is_long:
        raise UnsupportedModelError(
            f"{gguf.path}: RoPE scaling {shorten(kind)} is not supported for {family.name}, only "
            "linear scaling, Llama 3's factors and Phi-3's longrope are"
        )
    factor = 0.0
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        if factor == 0.0:
            factor = keys.number(keys.name(key), 0.0, zero=True)
    if kind == "none" or factor in (0.0, 1.0):
        return "longrope" if is_long else "none", 1.0
    return kind, factor


def _sliding(keys: Keys, family: Family, rope_base: float) -> tuple[int | None, int, float]:
    """Window in tokens, interval of the layers without one, and the others' RoPE base."""
    if not family.sliding_interval:
        return None, 0, 0.0
    window = keys.size(keys.name("attention.sliding_window"), family.default_window)
    interval = keys.name("attention.sliding_window_pattern")
    base = keys.number(keys.name("rope.freq_base_swa"), family.sliding_rope_base or rope_base)
    return window, keys.size(interval, family.sliding_interval), base


def _softcaps(gguf: GgufFile, keys: Keys, family: Family) -> tuple[float, float]:
    """Of attention scores and of logits."""
    names = [keys.name("attn_logit_softcapping"), keys.name("final_logit_softcapping")]
    if family.default_softcaps is None:
        for name in names:
            if name in keys:
                raise UnsupportedModelError(f"{gguf.path}: {name} is not supported")
        return 0.0, 0.0
    attention, final = (
        keys.number(name, default)
        for name, default in zip(names, family.default_softcaps, strict=True)
    )
    return attention, final
