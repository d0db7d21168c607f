"""Which tensors a model of an architecture has, checked, and named as the engine uses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pliant.bundle.gguf import GgufFile, TensorInfo
from pliant.errors import CorruptFileError, UnsupportedModelError
from pliant.ggml.types import GgmlType, row_size

if TYPE_CHECKING:
    from pliant.bundle.architecture import Architecture

ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS = "rope_factors_short.weight"
LONG_FACTORS = "rope_factors_long.weight"

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

Shape = tuple[int, ...]
# The matrices that a fused one consists of, first rows first.
_Parts = tuple[tuple[str, int], ...]


def check_tensors(gguf: GgufFile, architecture: Architecture) -> None:
    """Raise CorruptFileError or UnsupportedModelError unless the file holds what it must."""
    expected = dict(_expected(gguf, architecture))
    for name in gguf.tensors:
        if name not in expected:
            raise UnsupportedModelError(
                f"{gguf.path}: tensor {name!r} is not part of a model pliant runs"
            )
    for name, shape in expected.items():
        _check_tensor(gguf, name, shape)


def weight_tensors(gguf: GgufFile, architecture: Architecture) -> dict[str, TensorInfo]:
    """The file's tensors by the engine's names: for fused matrices, where each part's rows lie."""
    tensors = dict(gguf.tensors)
    for index in range(architecture.num_layers):
        for name, parts in _fused(gguf, architecture, index):
            whole = tensors.pop(name)
            for part in _split(whole, index, parts):
                tensors[part.name] = part
    return tensors


def _split(whole: TensorInfo, index: int, parts: _Parts) -> Iterator[TensorInfo]:
    columns, offset = whole.shape[0], whole.offset
    for part, rows in parts:
        nbytes = rows * row_size(whole.type, columns)
        yield TensorInfo(f"blk.{index}.{part}.weight", (columns, rows), whole.type, offset, nbytes)
        offset += nbytes


def _fused(gguf: GgufFile, a: Architecture, index: int) -> Iterator[tuple[str, _Parts]]:
    """Name and parts of a layer's fused matrices; llama.cpp takes q, k, v either way."""
    if not a.family.is_fused:
        return
    query, key_value = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    attention = f"blk.{index}.attn_qkv.weight"
    if attention in gguf.tensors:
        yield attention, (("attn_q", query), ("attn_k", key_value), ("attn_v", key_value))
    yield f"blk.{index}.ffn_up.weight", (("ffn_gate", a.ff), ("ffn_up", a.ff))


def _expected(gguf: GgufFile, a: Architecture) -> Iterator[tuple[str, Shape]]:
    """Name and shape (ne0 first) of every tensor that the file must have."""
    yield "token_embd.weight", (a.hidden_size, a.vocab_size)
    yield "output_norm.weight", (a.hidden_size,)
    if not a.tied_embeddings:
        yield "output.weight", (a.hidden_size, a.vocab_size)
    if a.has_rope_factors:
        yield ROPE_FACTORS, (a.rope_dim // 2,)
    if a.has_long_factors:
        yield SHORT_FACTORS, (a.rope_dim // 2,)
        yield LONG_FACTORS, (a.rope_dim // 2,)
    for index in range(a.num_layers):
        layer = {f"blk.{index}.{name}": shape for name, shape in _layer_shapes(a).items()}
        for name, parts in _fused(gguf, a, index):
            for part, _ in parts:
                del layer[f"blk.{index}.{part}.weight"]
            layer[name] = (a.hidden_size, sum(rows for _, rows in parts))
        yield from layer.items()


def _layer_shapes(a: Architecture) -> dict[str, Shape]:
    query, key_value = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    shapes: dict[str, Shape] = {
        "attn_norm.weight": (a.hidden_size,),
        "attn_q.weight": (a.hidden_size, query),
        "attn_k.weight": (a.hidden_size, key_value),
        "attn_v.weight": (a.hidden_size, key_value),
        "attn_output.weight": (query, a.hidden_size),
        "ffn_norm.weight": (a.hidden_size,),
        "ffn_gate.weight": (a.hidden_size, a.ff),
        "ffn_up.weight": (a.hidden_size, a.ff),
        "ffn_down.weight": (a.ff, a.hidden_size),
    }
    if a.family.has_qkv_bias:
        shapes |= {
            "attn_q.bias": (query,),
            "attn_k.bias": (key_value,),
            "attn_v.bias": (key_value,),
        }
    if a.family.has_qk_norm:
        shapes |= {"attn_q_norm.weight": (a.head_dim,), "attn_k_norm.weight": (a.head_dim,)}
    if a.family.has_post_norms:
        shapes |= {
            "post_attention_norm.weight": (a.hidden_size,),
            "post_ffw_norm.weight": (a.hidden_size,),
        }
    return shapes


def _check_tensor(gguf: GgufFile, name: str, shape: Shape) -> None:
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
        raise UnsupportedModelError(f"{gguf.path}: tensor {name!r} has the type {tensor.type.name}")
