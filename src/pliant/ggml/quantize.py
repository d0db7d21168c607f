"""Quantization of weight matrices by ggml's own encoders and decoders."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pliant.errors import LibraryError, TensorError
from pliant.ggml.declarations import bind
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

# Encoded by ggml_quantize_chunk; the others are stored as they are or not for weights.
QUANTIZED_TYPES = frozenset(
    type_
    for type_ in GgmlType
    if TYPE_SIZES[type_].block > 1 and type_ not in (GgmlType.Q8_1, GgmlType.Q8_K)
)


# Stored element by element; ggml's encoder takes them, too.
_PLAIN_TYPES = frozenset({GgmlType.F32, GgmlType.F16, GgmlType.BF16})
WEIGHT_TYPES = QUANTIZED_TYPES | _PLAIN_TYPES


class _TypeTraits(ctypes.Structure):
    """struct ggml_type_traits, up to `to_float`"""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


def dequantize(data: NDArray[np.uint8], type_: GgmlType) -> NDArray[np.float32]:
    """Decode uint8 [rows, bytes per row]; returns float32 [rows, columns].

    Raises TensorError for a type that holds no weights or bytes that are not whole blocks.
    """
    rows, nbytes = data.shape
    size = TYPE_SIZES[type_]
    if type_ not in WEIGHT_TYPES or nbytes % size.nbytes:
        raise TensorError(f"cannot read rows of {nbytes} bytes as {type_.name}")
    source = np.ascontiguousarray(data)
    if type_ is GgmlType.F32:
        return source.view(np.float32)
    target = np.empty((rows, nbytes // size.nbytes * size.block), dtype=np.float32)
    _decoder(type_)(source.ctypes.data, target.ctypes.data, target.size)
    return target


def encode(data: NDArray[np.float32], type_: GgmlType) -> NDArray[np.uint8]:
    """As `quantize`, for every type that weights are stored in."""
    if type_ not in _PLAIN_TYPES:
        return quantize(data, type_)
    rows, columns = data.shape
    source = np.ascontiguousarray(data, dtype=np.float32)
    target = np.empty((rows, row_size(type_, columns)), dtype=np.uint8)
    pointers = source.ctypes.data, target.ctypes.data
    bind().quantize_chunk(int(type_), *pointers, 0, rows, columns, None)
    return target


@cache
def _decoder(type_: GgmlType) -> Any:
    """Raises LibraryError if ggml's table has another layout than we believe."""
    traits = ctypes.cast(bind().get_type_traits(int(type_)), ctypes.POINTER(_TypeTraits)).contents
    size = TYPE_SIZES[type_]
    if (traits.blck_size, traits.type_size) != (size.block, size.nbytes) or not traits.to_float:
        raise LibraryError(f"ggml's decoder of {type_.name} was not found")
    return traits.to_float


def quantize(
    data: NDArray[np.float32], type_: GgmlType, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Encode float32 `data` [rows, columns]; returns uint8 [rows, bytes per row].

    `importance` float32 [columns] weighs the columns' errors; types below 2.5 bits need one and
    get equal weights without. Raises TensorError for an unquantized type or columns that are not
    whole blocks.
    """
    rows, columns = data.shape
    if type_ not in QUANTIZED_TYPES or columns % TYPE_SIZES[type_].block:
        raise TensorError(f"cannot store rows of {columns} float32 as {type_.name}")
    c = bind()
    if importance is None and c.quantize_requires_imatrix(int(type_)):
        importance = np.ones(columns, dtype=np.float32)
    source = np.ascontiguousarray(data, dtype=np.float32)
    target = np.empty((rows, row_size(type_, columns)), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    pointer = None if weights is None else weights.ctypes.data
    c.quantize_chunk(int(type_), source.ctypes.data, target.ctypes.data, 0, rows, columns, pointer)
    return target
