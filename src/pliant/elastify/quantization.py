"""From rows of float weights to rows of a GGUF tensor, a few rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as QuantType

from pliant.bundle import Architecture
from pliant.errors import ElastifyError
from pliant.ggml.quantize import quantize
from pliant.ggml.types import GgmlType

Bytes = npt.NDArray[np.uint8]

QUANTIZATIONS = {
    "F16": QuantType.F16,
    "Q8_0": QuantType.Q8_0,
    "Q6_K": QuantType.Q6_K,
    "Q5_K": QuantType.Q5_K,
    "Q4_K": QuantType.Q4_K,
    "Q4_0": QuantType.Q4_0,
}
FILE_TYPES = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q6_K": gguf.LlamaFileType.MOSTLY_Q6_K,
    "Q5_K": gguf.LlamaFileType.MOSTLY_Q5_K_S,
    "Q4_K": gguf.LlamaFileType.MOSTLY_Q4_K_S,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
# The output matrix decides every token, so it is kept in more bits.
_OUTPUT_TYPES = {
    QuantType.Q4_0: QuantType.Q8_0,
    QuantType.Q4_K: QuantType.Q6_K,
    QuantType.Q5_K: QuantType.Q6_K,
}
_CHUNK_ELEMENTS = 1 << 20
# Columns that are never used still have to survive rounding: their share of the mean importance.
_LEAST_IMPORTANCE = 1e-3


def check_quantization(name: str) -> QuantType:
    """The type called `name`; raises ElastifyError, which lists those there are."""
    if name not in QUANTIZATIONS:
        raise ElastifyError(f"quantization {name!r} is not one of {', '.join(QUANTIZATIONS)}")
    return QUANTIZATIONS[name]


def output_type(type_: QuantType) -> QuantType:
    """The type of the output matrix in a file of `type_`."""
    return _OUTPUT_TYPES.get(type_, type_)


def stored_type(type_: QuantType, columns: int) -> QuantType:
    """`type_`, or the nearest one in whose blocks rows of `columns` can be stored."""
    for candidate in (type_, QuantType.Q8_0):
        if columns % block_length(candidate) == 0 and type_ not in (QuantType.F32, QuantType.F16):
            return candidate
    return type_ if type_ is QuantType.F32 else QuantType.F16


def block_length(type_: QuantType) -> int:
    """Elements that are stored together."""
    return int(gguf.GGML_QUANT_SIZES[type_][0])


def stored_bytes(type_: QuantType, elements: int) -> int:
    """Bytes of `elements`, which are whole blocks."""
    block, nbytes = gguf.GGML_QUANT_SIZES[type_]
    return int(elements // block * nbytes)


def encode(
    weight: torch.Tensor,
    type_: QuantType,
    importance: npt.NDArray[np.float32] | None = None,
) -> Iterator[Bytes]:
    """The bytes of `weight` [rows, columns] or [columns] as `type_`, in pieces.

    `importance` float32 [columns] weighs the columns' rounding errors. Raises ValueError if a
    value is too large for F16.
    """
    rows = weight.reshape(-1, weight.shape[-1])
    step = max(1, _CHUNK_ELEMENTS // rows.shape[1])
    starts = range(0, len(rows), step)
    one = partial(_encode_rows, rows, step, type_, _floored(importance))
    threads = os.cpu_count() or 1
    # ggml works outside Python's lock; no more pieces than threads are in memory.
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(starts), threads):
            yield from pool.map(one, starts[first : first + threads])


def _encode_rows(
    rows: torch.Tensor,
    step: int,
    type_: QuantType,
    importance: npt.NDArray[np.float32] | None,
    start: int,
) -> Bytes:
    values = np.ascontiguousarray(rows[start : start + step].detach().float().cpu().numpy())
    if type_ is QuantType.F32:
        return values.view(np.uint8)
    if type_ is QuantType.F16:
        return _to_half(values).view(np.uint8)
    return quantize(values, GgmlType(int(type_)), importance)


def _to_half(values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    if np.abs(values).max() > np.finfo(np.float16).max:
        raise ValueError(f"it holds {np.abs(values).max():.3g}, too large for F16")
    return values.astype(np.float16)


def _floored(importance: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    if importance is None or not importance.mean() > 0:
        return None
    floored: npt.NDArray[np.float32] = np.maximum(
        importance, np.float32(_LEAST_IMPORTANCE * importance.mean())
    )
    return floored


def column_blocks(architecture: Architecture, quantization: str) -> tuple[int, int]:
    """Columns that are stored together in the matrices that attention and MLP end with."""
    type_ = check_quantization(quantization)
    columns = architecture.num_heads * architecture.head_dim
    return (
        block_length(stored_type(type_, columns)),
        block_length(stored_type(type_, architecture.ff)),
    )
