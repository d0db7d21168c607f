"""Read the primitive values of a GGUF file, never past its end.

Counts and lengths are checked against the bytes that are left before anything is allocated.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pliant.errors import CorruptFileError

MAX_STRINGS = 1 << 22
MAX_TEXT = 1 << 24
MAX_ARRAY = 1 << 28

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
_LENGTH = struct.Struct("<Q")

Value: TypeAlias = "bool | int | float | str | StringArray | npt.NDArray[Any]"


class StringArray(Sequence[str]):
    """An array of strings in the file, decoded when asked for.

    Reading an item that is not UTF-8 raises CorruptFileError; `raw` gives its bytes.
    """

    def __init__(self, buffer: mmap.mmap, positions: array[int], where: str) -> None:
        # Of each string's length field, and where the last string ends.
        self._positions = positions
        self._buffer = buffer
        self._where = where

    def __len__(self) -> int:
        return len(self._positions) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = self._positions[index] + _LENGTH.size
        return _decode(self._buffer[start : self._positions[index + 1]], self._where)

    def raw(self) -> list[bytes]:
        """The bytes of each string."""
        first, size = self._positions[0], _LENGTH.size
        # Slicing bytes is much faster than slicing the mapped file.
        data = self._buffer[first : self._positions[-1]]
        return [data[a - first + size : b - first] for a, b in pairwise(self._positions)]


class Cursor:
    """A position in the mapped file; `where` names the file in errors."""

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

    def string(self, limit: int = MAX_TEXT) -> str:
        nbytes = self.scalar("<Q")
        if nbytes > limit:
            raise self.fail(f"text of {nbytes} bytes where at most {limit} are allowed")
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
        self.claim(count, dtype.itemsize, MAX_ARRAY, "array items")
        start = self.take(count * dtype.itemsize)
        values = np.frombuffer(self.buffer, dtype, count, start)
        if kind != _BOOL:
            return values
        if (values > 1).any():
            raise self.fail("an array of truth values holds something else")
        return values.view(np.bool_)

    def string_array(self, count: int) -> StringArray:
        self.claim(count, _LENGTH.size, MAX_STRINGS, "strings")
        positions = array("Q")
        add, unpack, buffer, offset = (
            positions.append,
            _LENGTH.unpack_from,
            self.buffer,
            self.offset,
        )
        limit = min(self.size, offset + MAX_ARRAY)
        last = limit - _LENGTH.size
        for _ in range(count):
            if offset > last:
                raise self.fail("an array of strings goes on past the end")
            add(offset)
            offset += _LENGTH.size + unpack(buffer, offset)[0]
        if offset > limit:
            raise self.fail("an array of strings goes on past the end")
        add(offset)
        self.offset = offset
        return StringArray(buffer, positions, self.where)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{where}: text that is not UTF-8: {data[:40]!r}") from error
