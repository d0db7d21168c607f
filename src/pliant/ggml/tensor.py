"""A tensor: its address in ggml's memory, and the shape and type Python checks against."""

import ctypes
import struct
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pliant.errors import TensorError
from pliant.ggml.declarations import TensorStruct
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

_NUMPY_TYPES: dict[GgmlType, Any] = {
    GgmlType.F32: np.float32,
    GgmlType.F16: np.float16,
    GgmlType.I32: np.int32,
    GgmlType.I64: np.int64,
}


# The start of struct ggml_tensor: type, buffer, ne[4], nb[4].
_HEAD = struct.Struct("i4xQ4q4Q")
_TYPES = {int(type_): type_ for type_ in GgmlType}
_ONES = (1, 1, 1, 1)


class Tensor(NamedTuple):
    """`shape` and `strides` (bytes) are in ggml's order, fastest dimension first, 4 of each.

    A named tuple, and read in one piece, because a graph makes hundreds of them.
    """

    address: int
    type: GgmlType
    shape: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]

    @classmethod
    def at(cls, address: int | None) -> "Tensor":
        """Read a tensor that ggml just made. Raises TensorError if it made none."""
        if not address:
            raise TensorError("ggml could not make a tensor: its context is full")
        kind, _, *sizes = _HEAD.unpack(ctypes.string_at(address, _HEAD.size))
        return cls(address, _TYPES[kind], tuple(sizes[:4]), tuple(sizes[4:]))

    @property
    def nbytes(self) -> int:
        return row_size(self.type, self.shape[0]) * prod(self.shape[1:])

    @property
    def data(self) -> int | None:
        """Address of the tensor's memory, None before it has some."""
        address: int | None = TensorStruct.from_address(self.address).data
        return address

    def point_to(self, data: int) -> None:
        """Let the tensor use other memory of the same layout (another slot's cache, say)."""
        TensorStruct.from_address(self.address).data = data

    @property
    def extent(self) -> int:
        """Bytes from the first to the last element, gaps between rows included."""
        (_, ne1, ne2, ne3), (_, nb1, nb2, nb3) = self.shape, self.strides
        row = row_size(self.type, self.shape[0])
        return row + (ne1 - 1) * nb1 + (ne2 - 1) * nb2 + (ne3 - 1) * nb3

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.type, self.shape)

    def numpy(self) -> NDArray[Any]:
        """The tensor's memory as an array, in numpy's order (slowest dimension first).

        Valid as long as the buffer that holds the tensor. Raises TensorError if the tensor has
        no memory yet, is not contiguous, or is of a quantized type.
        """
        data = self.data
        dtype = _NUMPY_TYPES.get(self.type)
        if data is None or dtype is None or not self.is_contiguous:
            raise TensorError(f"no array view of a {self.describe()}: unallocated or not plain")
        values: NDArray[Any] = bytes_at(data, self.nbytes).view(dtype)
        return values.reshape(self.shape[::-1])

    def describe(self) -> str:
        """For messages: type and shape without trailing ones."""
        dims = list(self.shape)
        while len(dims) > 1 and dims[-1] == 1:
            dims.pop()
        return f"{self.type.name} tensor [{', '.join(map(str, dims))}]"


def bytes_at(address: int, nbytes: int) -> NDArray[np.uint8]:
    """The memory at `address` as an array; the caller keeps its owner alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def contiguous_strides(
    type_: GgmlType, shape: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    nb0 = TYPE_SIZES[type_].nbytes
    nb1 = row_size(type_, shape[0])
    return nb0, nb1, nb1 * shape[1], nb1 * shape[1] * shape[2]


def pad_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """`shape` with trailing ones up to ggml's four dimensions."""
    if not 1 <= len(shape) <= 4 or min(shape) < 1:
        raise TensorError(f"a tensor has 1 to 4 dimensions of at least 1, got {list(shape)}")
    ne0, ne1, ne2, ne3 = shape + _ONES[len(shape) :]
    return ne0, ne1, ne2, ne3
