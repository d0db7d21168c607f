"""A strict reader of GGUF files that trusts nothing in them.

Every count and length is checked against the bytes that are left before anything is allocated,
and every tensor against the file. Long arrays stay in the mapped file and are decoded on demand:
a vocabulary of 128k tokens opens in a fraction of a second.
"""

from __future__ import annotations

import mmap
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from reprlib import repr as shorten
from types import MappingProxyType

from pliant.bundle.cursor import Cursor, Value
from pliant.errors import BundleNotFoundError, CorruptFileError, UnsupportedModelError
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_TENSOR_NAME = 63
MAX_KEY = 65535
MIN_ALIGNMENT = 8
MAX_ENTRIES = 1 << 16
MAX_ELEMENTS = 1 << 62

# Smallest entry: key length, one character, type, one byte; name length, one character,
# number of dimensions, one dimension, type, offset.
_MIN_PAIR = 8 + 1 + 4 + 1
_MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `shape` is in ggml's order (ne0, the contiguous one, first);
    `offset` counts bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A checked GGUF file, mapped into memory.

    `metadata` values are bool, int, float, str, StringArray or a read-only numpy array.
    """

    path: Path
    version: int
    alignment: int
    size: int
    metadata: Mapping[str, Value] = field(repr=False)
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    _buffer: mmap.mmap = field(repr=False)

    @staticmethod
    def open(path: str | Path) -> GgufFile:
        """Map and check a file.

        Raises BundleNotFoundError if it cannot be read, CorruptFileError if it is not a whole,
        consistent GGUF file, UnsupportedModelError for other versions, byte orders or types.
        """
        path = Path(path)
        buffer = _map(path)
        reader = Cursor(buffer, str(path))
        version = _read_version(reader)
        tensor_count, pair_count = reader.scalar("<Q"), reader.scalar("<Q")
        reader.claim(pair_count, _MIN_PAIR, MAX_ENTRIES, "metadata entries")
        metadata = _read_metadata(reader, pair_count)
        alignment = _alignment(reader, metadata)
        reader.claim(tensor_count, _MIN_TENSOR, MAX_ENTRIES, "tensors")
        tensors = _read_tensors(reader, tensor_count, alignment)
        _check_layout(reader, tensors, alignment)
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

    def release(self) -> None:
        """Give back the memory of what was read; it is read again when it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._buffer.madvise(mmap.MADV_DONTNEED)


def _map(path: Path) -> mmap.mmap:
    try:
        status = path.stat()
        # Opening a pipe or a device could block or never end.
        if not stat.S_ISREG(status.st_mode):
            raise BundleNotFoundError(f"{path} is not a file")
        if status.st_size < len(MAGIC):
            raise CorruptFileError(f"{path}: not a GGUF file (only {status.st_size} bytes)")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BundleNotFoundError(f"cannot read {path}: {error}") from error


def _read_version(reader: Cursor) -> int:
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


def _read_metadata(reader: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key = reader.name(MAX_KEY)
        if key in metadata:
            raise reader.fail(f"metadata key {shorten(key)} appears twice")
        metadata[key] = reader.value(reader.scalar("<I"))
    return metadata


def _alignment(reader: Cursor, metadata: Mapping[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < MIN_ALIGNMENT or alignment & (alignment - 1):
        raise reader.fail(f"general.alignment is {alignment!r}, not a power of two from 8 up")
    return alignment


def _read_tensors(reader: Cursor, count: int, alignment: int) -> list[TensorInfo]:
    entries = [_read_tensor(reader, alignment) for _ in range(count)]
    data = -(-reader.offset // alignment) * alignment
    return [TensorInfo(t.name, t.shape, t.type, data + t.offset, t.nbytes) for t in entries]


def _read_tensor(reader: Cursor, alignment: int) -> TensorInfo:
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


def _check_layout(reader: Cursor, tensors: Sequence[TensorInfo], alignment: int) -> None:
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
    left = reader.size - -(-end // alignment) * alignment
    if tensors and left > 0:
        raise reader.fail(f"{left} bytes follow the last tensor")
