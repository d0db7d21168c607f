"""A strict reader of GGUF files that trusts nothing in them.

Every count and length is checked against the bytes that are left before anything is allocated,
and every tensor against the file. Long arrays stay in the mapped file and are decoded on demand:
a vocabulary of 128k tokens opens in a fraction of a second.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pliant.errors import BundleNotFoundError, CorruptFileError, UnsupportedModelError
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_TENSOR_NAME = 63
MAX_KEY = 65535
MAX_ENTRIES = 1 << 16
MAX_STRINGS = 1 << 22
MAX_ELEMENTS = 1 << 62

_STRING, _ARRAY, _BOOL = 8, 9, 7
# GGUF value type: (struct format, numpy type)
_SCALARS = {
    0: ("<B", "<u1"),
    1: ("<b", "<i1"),
    2: ("<H", "<u2"),
    3: ("<h", "<i2"),
    4: ("<I", "<u4"),
    5: ("<i", "<i4"),
    6: ("<f", "<f4"),
    _BOOL: ("<B", "<u1"),
    10: ("<Q", "<u8"),
    11: ("<q", "<i8"),
    12: ("<d", "<f8"),
}
# Smallest entry: key length, one character, type, one byte; name length, one character,
# number of dimensions, one dimension, type, offset.
_MIN_PAIR = 8 + 1 + 4 + 1
_MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

Value: TypeAlias = "bool | int | float | str | StringArray | npt.NDArray[Any]"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `shape` is in ggml's order (ne0, the contiguous one, first);
    `offset` counts bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    nbytes: int


class StringArray(Sequence[str]):
    """An array of strings in the file, decoded when asked for.

    Reading an item that is not UTF-8 raises CorruptFileError; `raw` gives its bytes.
    """

    def __init__(self, buffer: mmap.mmap, starts: array[int], ends: array[int], where: str) -> None:
        self._buffer = buffer
        self._starts = starts
        self._ends = ends
        self._where = where

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _decode(self._buffer[self._starts[index] : self._ends[index]], self._where)

    def raw(self) -> Iterator[bytes]:
        """The bytes of each string."""
        buffer = self._buffer
        return (buffer[a:b] for a, b in zip(self._starts, self._ends, strict=True))


@dataclass(frozen=True)
class GgufFile:
    """A checked GGUF file, mapped into memory.

    `metadata` values are bool, int, float, str, StringArray or a read-only numpy array.
    """

    path: Path
    version: int
    alignment: int
    size: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    _buffer: mmap.mmap

    @staticmethod
    def open(path: str | Path) -> GgufFile:
        """Map and check a file.

        Raises BundleNotFoundError if it cannot be read, CorruptFileError if it is not a whole,
        consistent GGUF file, UnsupportedModelError for other versions, byte orders or types.
        """
        path = Path(path)
        buffer = _map(path)
        reader = _Reader(buffer, str(path))
        version = _read_version(reader)
        tensor_count, pair_count = reader.scalar("<Q"), reader.scalar("<Q")
        reader.claim(pair_count, _MIN_PAIR, MAX_ENTRIES, "metadata entries")
        metadata = _read_metadata(reader, pair_count)
        alignment = _alignment(reader, metadata)
        reader.claim(tensor_count, _MIN_TENSOR, MAX_ENTRIES, "tensors")
        tensors = _read_tensors(reader, tensor_count, alignment)
        _check_layout(reader, tensors)
        return GgufFile(
            path=path,
            version=version,
            alignment=alignment,
            size=len(buffer),
            metadata=MappingProxyType(metadata),
            tensors=MappingProxyType({tensor.name: tensor for tensor in tensors}),
            _buffer=buffer,
        )

    def tensor_bytes(self, name: str) -> memoryview:
        """The tensor's bytes in the mapped file, read-only, no copy."""
        tensor = self.tensors[name]
        return memoryview(self._buffer)[tensor.offset : tensor.offset + tensor.nbytes]


class _Reader:
    """A cursor over the mapped file that never reads past its end."""

    def __init__(self, buffer: mmap.mmap, where: str) -> None:
        self.buffer = buffer
        self.where = where
        self.offset = 0
        self.size = len(buffer)

    def fail(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.where}: {what}")

    def take(self, nbytes: int) -> int:
        """Move on by `nbytes`; returns where they start."""
        start = self.offset
        if nbytes > self.size - start:
            raise self.fail(f"truncated: {nbytes} bytes expected at {start} of {self.size}")
        self.offset = start + nbytes
        return start

    def claim(self, count: int, nbytes_each: int, limit: int, what: str) -> None:
        """Refuse a count that the rest of the file cannot hold."""
        if count > limit or count * nbytes_each > self.size - self.offset:
            raise self.fail(f"{count} {what} announced, more than the file can hold")

    def scalar(self, fmt: str) -> Any:
        return struct.unpack_from(fmt, self.buffer, self.take(struct.calcsize(fmt)))[0]

    def string(self, limit: int | None = None) -> str:
        nbytes = self.scalar("<Q")
        if limit is not None and nbytes > limit:
            raise self.fail(f"a name of {nbytes} bytes; at most {limit} are allowed")
        start = self.take(nbytes)
        return _decode(self.buffer[start : start + nbytes], self.where)

    def name(self, limit: int) -> str:
        text = self.string(limit)
        if not text or "\0" in text:
            raise self.fail("an empty name, or one with a NUL character")
        return text

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.fail(f"value type {kind} does not exist")
        value: bool | int | float = self.scalar(_SCALARS[kind][0])
        return self.boolean(value) if kind == _BOOL else value

    def boolean(self, value: float) -> bool:
        if value not in (0, 1):
            raise self.fail(f"{value} is not a truth value")
        return bool(value)

    def array(self) -> Value:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind == _STRING:
            return self.string_array(count)
        if kind not in _SCALARS:
            raise self.fail(f"arrays of value type {kind} do not exist")
        dtype = np.dtype(_SCALARS[kind][1])
        self.claim(count, dtype.itemsize, self.size, "array items")
        start = self.take(count * dtype.itemsize)
        values = np.frombuffer(self.buffer, dtype, count, start)
        if kind != _BOOL:
            return values
        if (values > 1).any():
            raise self.fail("an array of truth values holds something else")
        return values.view(np.bool_)

    def string_array(self, count: int) -> StringArray:
        self.claim(count, 8, MAX_STRINGS, "strings")
        starts, ends = array("Q"), array("Q")
        unpack, buffer, offset, size = _LENGTH.unpack_from, self.buffer, self.offset, self.size
        for _ in range(count):
            start = offset + 8
            if start > size:
                raise self.fail("truncated inside an array of strings")
            offset = start + unpack(buffer, offset)[0]
            if offset > size:
                raise self.fail("truncated inside an array of strings")
            starts.append(start)
            ends.append(offset)
        self.offset = offset
        return StringArray(buffer, starts, ends, self.where)


_LENGTH = struct.Struct("<Q")


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < len(MAGIC):
                raise CorruptFileError(f"{path}: not a GGUF file (only {size} bytes)")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BundleNotFoundError(f"cannot read {path}: {error}") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{where}: text that is not UTF-8: {data[:40]!r}") from error


def _read_version(reader: _Reader) -> int:
    start = reader.take(len(MAGIC))
    magic = reader.buffer[start : reader.offset]
    if magic != MAGIC:
        raise reader.fail(f"not a GGUF file (it starts with {magic!r})")
    version: int = reader.scalar("<I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        found = "big-endian" if swapped in VERSIONS else f"version {version}"
        raise UnsupportedModelError(
            f"{reader.where}: a {found} GGUF file; pliant reads little-endian versions 2 and 3"
        )
    return version


def _read_metadata(reader: _Reader, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = reader.name(MAX_KEY)
        if key in metadata:
            raise reader.fail(f"metadata key {key!r} appears twice")
        metadata[key] = reader.value(reader.scalar("<I"))
    return metadata


def _alignment(reader: _Reader, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise reader.fail(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> list[TensorInfo]:
    entries = [_read_tensor(reader, alignment) for _ in range(count)]
    data = -(-reader.offset // alignment) * alignment
    return [TensorInfo(t.name, t.shape, t.type, data + t.offset, t.nbytes) for t in entries]


def _read_tensor(reader: _Reader, alignment: int) -> TensorInfo:
    """One entry of the tensor list; its offset still counts from the start of the data."""
    name = reader.name(MAX_TENSOR_NAME)
    dims = reader.scalar("<I")
    if not 1 <= dims <= MAX_DIMS:
        raise reader.fail(f"tensor {name!r} has {dims} dimensions")
    shape = tuple(reader.scalar("<Q") for _ in range(dims))
    number, offset = reader.scalar("<I"), reader.scalar("<Q")
    if number not in TYPE_SIZES:
        raise UnsupportedModelError(
            f"{reader.where}: tensor {name!r} has type {number}, which this version does not know"
        )
    kind = GgmlType(number)
    if min(shape) < 1 or prod(shape) > MAX_ELEMENTS:
        raise reader.fail(f"tensor {name!r} has the impossible shape {shape}")
    if shape[0] % TYPE_SIZES[kind].block != 0:
        raise reader.fail(f"tensor {name!r}: rows of {shape[0]} are not whole {kind.name} blocks")
    if offset % alignment != 0:
        raise reader.fail(f"tensor {name!r} starts at {offset}, which is not aligned")
    return TensorInfo(name, shape, kind, offset, row_size(kind, shape[0]) * prod(shape[1:]))


def _check_layout(reader: _Reader, tensors: Sequence[TensorInfo]) -> None:
    names: set[str] = set()
    end = 0
    for tensor in sorted(tensors, key=lambda t: t.offset):
        if tensor.name in names:
            raise reader.fail(f"tensor {tensor.name!r} appears twice")
        if tensor.offset < end:
            raise reader.fail(f"tensor {tensor.name!r} overlaps another one")
        end = tensor.offset + tensor.nbytes
        if end > reader.size:
            raise reader.fail(f"truncated: tensor {tensor.name!r} ends at {end} of {reader.size}")
        names.add(tensor.name)
