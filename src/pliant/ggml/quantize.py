"""Quantization of weight matrices by ggml's own encoders."""

import numpy as np
from numpy.typing import NDArray

from pliant.errors import TensorError
from pliant.ggml.declarations import bind
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

# Encoded by ggml_quantize_chunk; the others are stored as they are or not for weights.
QUANTIZED_TYPES = frozenset(
    type_
    for type_ in GgmlType
    if TYPE_SIZES[type_].block > 1 and type_ not in (GgmlType.Q8_1, GgmlType.Q8_K)
)


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
