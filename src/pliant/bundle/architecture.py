"""The shape of a model, read from a GGUF file and checked against its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from reprlib import repr as shorten

from pliant.bundle.gguf import GgufFile
from pliant.errors import CorruptFileError, UnsupportedModelError
from pliant.ggml.types import GgmlType

SUPPORTED = ("llama",)
MAX_LAYERS = 512
MAX_SIZE = 1 << 31

_NOT_WEIGHTS = frozenset(
    {
        GgmlType.I8,
        GgmlType.I16,
        GgmlType.I32,
        GgmlType.I64,
        GgmlType.F64,
        GgmlType.Q8_1,
        GgmlType.Q8_K,
    }
)


@dataclass(frozen=True)
class Architecture:
    """Dimensions of the full model; the same in every layer.

    `rope_scaling_type` is 'none' or 'linear'. Llama 3 scales by factors in the tensor
    `rope_freqs.weight` instead (`has_rope_factors`).
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

    @property
    def heads_per_kv(self) -> int:
        """Query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def rope_freq_scale(self) -> float:
        """What positions are multiplied by (ggml's `freq_scale`)."""
        return 1.0 / self.rope_scaling_factor

    @staticmethod
    def from_gguf(gguf: GgufFile) -> Architecture:
        """Read and check.

        Raises UnsupportedModelError for another architecture or an unknown tensor, and
        CorruptFileError if a key or tensor is missing or has the wrong value, type or shape.
        """
        keys = _Keys(gguf)
        name = keys.text("general.architecture")
        if name not in SUPPORTED:
            raise UnsupportedModelError(
                f"{gguf.path}: the architecture is {shorten(name)}; "
                f"pliant runs {', '.join(SUPPORTED)}"
            )
        architecture = _read(gguf, keys)
        _check_tensors(gguf, architecture)
        return architecture


class _Keys:
    """Typed access to `llama.*` metadata, within bounds."""

    def __init__(self, gguf: GgufFile) -> None:
        self._gguf = gguf

    def fail(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self._gguf.path}: {what}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._gguf.metadata.get(key, default)
        if not isinstance(value, str):
            raise self.fail(f"{key} is missing or not text")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        value = self._gguf.metadata.get(key, default)
        if type(value) is not int:
            raise self.fail(f"{key} is missing or not an integer")
        if not 1 <= value < MAX_SIZE:
            raise self.fail(f"{key} is {value}; it must be at least 1 and below 2^31")
        return value

    def count(self, key: str) -> int:
        """A number that is 0 when absent."""
        value = self._gguf.metadata.get(key, 0)
        if type(value) is not int:
            raise self.fail(f"{key} is not an integer")
        return value

    def number(self, key: str, default: float | None = None, *, zero: bool = False) -> float:
        value = self._gguf.metadata.get(key, default)
        if not isinstance(value, float):
            raise self.fail(f"{key} is missing or not a floating-point number")
        if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise self.fail(f"{key} is {value}; it must be positive")
        return value


def _read(gguf: GgufFile, keys: _Keys) -> Architecture:
    hidden = keys.size("llama.embedding_length")
    heads = keys.size("llama.attention.head_count")
    kv_heads = keys.size("llama.attention.head_count_kv", heads)
    head_dim = _head_dim(keys, hidden, heads)
    if heads % kv_heads != 0:
        raise keys.fail(f"{heads} query heads cannot share {kv_heads} KV heads")
    layers = keys.size("llama.block_count")
    if layers > MAX_LAYERS:
        raise keys.fail(f"llama.block_count is {layers}; at most {MAX_LAYERS} are allowed")
    _refuse_unsupported(gguf, keys)
    rope_dim = keys.size("llama.rope.dimension_count", head_dim)
    if rope_dim % 2 != 0 or rope_dim > head_dim:
        raise keys.fail(f"llama.rope.dimension_count is {rope_dim}, with heads of {head_dim}")
    context = keys.size("llama.context_length")
    scaling, factor = _rope_scaling(gguf, keys)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise keys.fail("tensor token_embd.weight is missing or not a matrix")
    return Architecture(
        name="llama",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ff=keys.size("llama.feed_forward_length"),
        vocab_size=embedding.shape[1],
        context_length=context,
        rms_eps=keys.number("llama.attention.layer_norm_rms_epsilon"),
        rope_base=keys.number("llama.rope.freq_base", 10000.0),
        rope_dim=rope_dim,
        rope_scaling_type=scaling,
        rope_scaling_factor=factor,
        rope_original_context=keys.size("llama.rope.scaling.original_context_length", context),
        tied_embeddings="output.weight" not in gguf.tensors,
        has_rope_factors="rope_freqs.weight" in gguf.tensors,
    )


def _refuse_unsupported(gguf: GgufFile, keys: _Keys) -> None:
    if keys.count("llama.expert_count") or keys.count("llama.expert_used_count"):
        raise UnsupportedModelError(f"{gguf.path}: mixture-of-experts models are not supported")
    if keys.count("split.count") > 1:
        raise UnsupportedModelError(
            f"{gguf.path} is one part of a split model; merge the parts with llama-gguf-split"
        )


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    default = hidden // heads
    head_dim = keys.size("llama.attention.key_length", default)
    if keys.size("llama.attention.value_length", default) != head_dim:
        raise keys.fail("keys and values have heads of different length")
    return head_dim


def _rope_scaling(gguf: GgufFile, keys: _Keys) -> tuple[str, float]:
    # Older files say rope.scale_linear; a factor without a type means linear (llama.cpp).
    kind = keys.text("llama.rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise UnsupportedModelError(
            f"{gguf.path}: RoPE scaling {shorten(kind)} is not supported, only linear scaling and "
            "Llama 3's factors are"
        )
    factor = 0.0
    for key in ("llama.rope.scaling.factor", "llama.rope.scale_linear"):
        if factor == 0.0:
            factor = keys.number(key, 0.0, zero=True)
    if kind == "none" or factor in (0.0, 1.0):
        return "none", 1.0
    return "linear", factor


def _expected(architecture: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape (ne0 first) of every tensor that the model must have."""
    a = architecture
    query, key_value = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    layer = {
        "attn_norm": (a.hidden_size,),
        "attn_q": (a.hidden_size, query),
        "attn_k": (a.hidden_size, key_value),
        "attn_v": (a.hidden_size, key_value),
        "attn_output": (query, a.hidden_size),
        "ffn_norm": (a.hidden_size,),
        "ffn_gate": (a.hidden_size, a.ff),
        "ffn_up": (a.hidden_size, a.ff),
        "ffn_down": (a.ff, a.hidden_size),
    }
    yield "token_embd.weight", (a.hidden_size, a.vocab_size)
    yield "output_norm.weight", (a.hidden_size,)
    if not a.tied_embeddings:
        yield "output.weight", (a.hidden_size, a.vocab_size)
    if a.has_rope_factors:
        yield "rope_freqs.weight", (a.rope_dim // 2,)
    for index in range(a.num_layers):
        for part, shape in layer.items():
            yield f"blk.{index}.{part}.weight", shape


def _check_tensors(gguf: GgufFile, architecture: Architecture) -> None:
    expected = dict(_expected(architecture))
    for name in gguf.tensors:
        if name not in expected:
            raise UnsupportedModelError(
                f"{gguf.path}: tensor {name!r} is not part of a model pliant runs"
            )
    for name, shape in expected.items():
        tensor = gguf.tensors.get(name)
        if tensor is None:
            raise CorruptFileError(f"{gguf.path}: tensor {name!r} is missing")
        if tensor.shape != shape:
            raise CorruptFileError(
                f"{gguf.path}: tensor {name!r} has the shape {tensor.shape}, not {shape}"
            )
        if len(shape) == 1 and tensor.type is not GgmlType.F32:
            raise CorruptFileError(f"{gguf.path}: tensor {name!r} is {tensor.type.name}, not F32")
        if tensor.type in _NOT_WEIGHTS:
            raise UnsupportedModelError(
                f"{gguf.path}: tensor {name!r} has the type {tensor.type.name}"
            )
