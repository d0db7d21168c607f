"""Write GGUF files: metadata first, then one tensor's data at a time; the whole file or none."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from pliant.bundle.cursor import StringArray
from pliant.bundle.gguf import DEFAULT_ALIGNMENT, MAGIC
from pliant.errors import BundleError
from pliant.files import replacing
from pliant.ggml.types import GgmlType, row_size

VERSION = 3

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64 = 4, 5, 6, 7, 8, 9, 10, 11
# numpy's kind and size to GGUF's value type
_ARRAY_TYPES = {
    "u1": 0,
    "i1": 1,
    "u2": 2,
    "i2": 3,
    "u4": _U32,
    "i4": _I32,
    "f4": _F32,
    "b1": _BOOL,
    "u8": _U64,
    "i8": _I64,
    "f8": 12,
}

MetadataValue: TypeAlias = "bool | int | float | str | StringArray | list[str] | npt.NDArray[Any]"
TensorData: TypeAlias = "bytes | memoryview | npt.NDArray[Any]"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to write; `shape` in ggml's order (ne0, the contiguous one, first)."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    @property
    def nbytes(self) -> int:
        return row_size(self.type, self.shape[0]) * prod(self.shape[1:])


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, MetadataValue],
    tensors: Sequence[TensorSpec],
    data: Iterable[Iterable[TensorData]],
) -> None:
    """Write a GGUF file of version 3 at `path`, replacing what is there once it is complete.

    `data` yields the bytes of each tensor, in pieces, in the order of `tensors`, and may make them
    as they are asked for. An int becomes U32 (U64 or I32 if it does not fit), a float F32, an array
    keeps its element type. Raises BundleError if the file cannot be written.
    """
    path = Path(path)
    try:
        with replacing(path) as draft, draft.open("xb") as file:
            file.write(_header(metadata, tensors))
            for spec, pieces in zip(tensors, data, strict=True):
                _write_tensor(file, spec, pieces)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error}") from error


def _header(metadata: Mapping[str, MetadataValue], tensors: Sequence[TensorSpec]) -> bytes:
    out = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _text(key.encode()) + _pair(value)
    offset = 0
    for spec in tensors:
        out += _text(spec.name.encode())
        out += struct.pack(f"<I{len(spec.shape)}Q", len(spec.shape), *spec.shape)
        out += struct.pack("<IQ", int(spec.type), offset)
        offset += _aligned(spec.nbytes)
    return bytes(out) + bytes(_aligned(len(out)) - len(out))


def _write_tensor(file: BinaryIO, spec: TensorSpec, pieces: Iterable[TensorData]) -> None:
    written = 0
    for piece in pieces:
        data = piece.data if isinstance(piece, np.ndarray) else memoryview(piece)
        written += data.nbytes
        file.write(data)
    if written != spec.nbytes:
        raise ValueError(f"{spec.name} has {written} bytes, its shape says {spec.nbytes}")
    file.write(bytes(_aligned(spec.nbytes) - spec.nbytes))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _pair(value: MetadataValue) -> bytes:
    """Value type and value."""
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value.encode())
    if isinstance(value, np.ndarray):
        kind = _ARRAY_TYPES[f"{value.dtype.kind}{value.dtype.itemsize}"]
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        return struct.pack("<IIQ", _ARRAY, kind, value.size) + little.tobytes()
    strings = value.raw() if isinstance(value, StringArray) else [text.encode() for text in value]
    return struct.pack("<IIQ", _ARRAY, _STRING, len(strings)) + b"".join(map(_text, strings))


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 32:
        return struct.pack("<II", _U32, value)
    if value < 0:
        wide = value < -(1 << 31)
        return struct.pack("<Iq", _I64, value) if wide else struct.pack("<Ii", _I32, value)
    return struct.pack("<IQ", _U64, value)
