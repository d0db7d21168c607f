"""One built graph for batches of many lengths.

Building a graph takes milliseconds of Python, which every prompt of a new length would wait for.
But shapes, strides and offsets of its tensors are linear in the number of tokens, and all else is
the same: two graphs tell them for every length, and one of them is rewritten in place. Its memory
is laid out for the longest batch, where shorter ones fit.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.ggml.context import Context
from pliant.ggml.declarations import TensorStruct
from pliant.ggml.tensor import bytes_at

Words = NDArray[np.int64]

_POINTERS = ("src", "view_src")
_SIZES = ("ne", "nb", "view_offs")


@dataclass(frozen=True)
class _Snapshot:
    """The tensors of a context, one per row: 64-bit sizes, pointers as seen from the context's
    first tensor, and 32-bit words of the operation."""

    sizes: Words
    pointers: Words
    operations: NDArray[np.int32]


class Stretch:
    """Sets a graph made for `long` tokens to any number from `short` to `long`."""

    def __init__(self, context: Context, slopes: Words, long: int) -> None:
        """`slopes` [tensors, sizes]: what each size grows by per token."""
        addresses = np.array(context.tensors())
        self._long = self._now = long
        self._memory, first = _memory(addresses)
        rows, columns = slopes.nonzero()
        self._places = first[rows] + _columns(_SIZES)[columns]
        self._slopes = slopes[rows, columns]
        self._values = self._memory[self._places]
        moved = slopes[:, -1].nonzero()[0]  # views whose offset grows
        self._data_places = first[moved] + _columns(("data",))[0]
        self._data_slopes = slopes[moved, -1]
        self._data: Words | None = None

    def set(self, length: int) -> None:
        """The graph's memory must be allocated by now, once."""
        if self._data is None:
            self._data = self._memory[self._data_places]
        if length == self._now:
            return
        less = self._long - length
        self._memory[self._places] = self._values - less * self._slopes
        self._memory[self._data_places] = self._data - less * self._data_slopes
        self._now = length


def find_stretch(long: Context, long_length: int, short: Context, length: int) -> Stretch | None:
    """From the same graph built for two lengths; None if they differ in more than sizes."""
    one, other = _snapshot(long), _snapshot(short)
    if one.sizes.shape != other.sizes.shape or not np.array_equal(one.pointers, other.pointers):
        return None
    slopes, rest = np.divmod(one.sizes - other.sizes, long_length - length)
    is_view = slopes[:, -1] != 0  # an offset is noted among the operation's words, too
    if rest.any() or (one.operations != other.operations)[~is_view].any():
        return None
    return Stretch(long, slopes, long_length)


def _snapshot(context: Context) -> _Snapshot:
    addresses = np.array(context.tensors())
    memory, first = _memory(addresses)
    pointers = memory[first[:, None] + _columns(_POINTERS)]
    inside = (pointers >= addresses[0]) & (pointers <= addresses[-1])
    halves = memory.view(np.int32)
    start = TensorStruct.op.offset // 4
    count = (TensorStruct.flags.offset - TensorStruct.op.offset) // 4
    return _Snapshot(
        memory[first[:, None] + _columns(_SIZES)],
        np.where(inside, pointers - addresses[0], pointers),
        halves[2 * first[:, None] + start + np.arange(count)],
    )


def _memory(addresses: Words) -> tuple[Words, Words]:
    """All tensors' structs as 64-bit words, and the word that each begins at."""
    size = int(addresses[-1] - addresses[0]) + ctypes.sizeof(TensorStruct)
    return bytes_at(int(addresses[0]), size).view(np.int64), (addresses - addresses[0]) // 8


def _columns(names: tuple[str, ...]) -> Words:
    """The words of these fields within a struct."""
    fields = [getattr(TensorStruct, name) for name in names]
    return np.concatenate(
        [np.arange(field.offset // 8, (field.offset + field.size) // 8) for field in fields]
    )
