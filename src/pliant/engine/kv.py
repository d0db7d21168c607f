"""The KV cache: keys and values of every slot, one row per token, all heads side by side.

A sub-model with fewer KV heads uses a prefix of each row, so what it wrote stays usable for every
smaller level. Pages take physical memory only once written.
"""

from math import lcm

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Architecture
from pliant.engine.options import KvType
from pliant.engine.views import Views
from pliant.errors import UnsupportedModelError
from pliant.ggml.context import Context
from pliant.ggml.memory import ALIGNMENT, Buffer, release_pages
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

_TYPES: dict[KvType, GgmlType] = {"f16": GgmlType.F16, "q8_0": GgmlType.Q8_0}


class KvCache:
    """Per layer K and V [kv_heads * head_dim, slots * context_length].

    `cells` is all of it, each head of each row by itself [head_dim, .. * plane_cells]: keys of
    layer i begin `2 * i * plane_cells` cells in, values a plane later. `rows` is all of it as bytes
    [2 * layers, slots * context_length, row_bytes]: keys of layer i at 2 * i, values at 2 * i + 1;
    valid until the cache is closed.
    """

    def __init__(
        self, architecture: Architecture, slots: int, context_length: int, kv_type: KvType
    ) -> None:
        self.type = _TYPES[kv_type]
        self.slots = slots
        self.context_length = context_length
        if architecture.head_dim % TYPE_SIZES[self.type].block:
            raise UnsupportedModelError(
                f"kv_type {kv_type} needs a head size in multiples of "
                f"{TYPE_SIZES[self.type].block}; this model's is {architecture.head_dim}: use f16"
            )
        width = architecture.num_kv_heads * architecture.head_dim
        rows = slots * context_length
        self.row_bytes = row_size(self.type, width)
        self.head_bytes = row_size(self.type, architecture.head_dim)
        step = lcm(ALIGNMENT, self.head_bytes)
        size = -(-self.row_bytes * rows // step) * step
        count = 2 * architecture.num_layers
        self.token_bytes = self.row_bytes * count
        self._views = Views()
        self._buffer = Buffer.zeroed(size * count)
        self._context = Context(max_tensors=count + 1)
        self.plane_cells = size // self.head_bytes
        tensors = []
        for index in range(count):
            tensor = self._context.new_tensor(self.type, width, rows)
            self._buffer.place(tensor, index * size)
            tensors.append(tensor)
        cells = count * self.plane_cells
        self.cells = self._context.new_tensor(self.type, architecture.head_dim, cells)
        self._buffer.place(self.cells, 0)
        self.keys: list[Tensor] = tensors[0::2]
        self.values: list[Tensor] = tensors[1::2]
        planes = self._buffer.bytes()[: size * count].reshape(count, size)[
            :, : self.row_bytes * rows
        ]
        self.rows: NDArray[np.uint8] = planes.reshape(count, rows, self.row_bytes)

    def target(self, cache: Tensor, width: int) -> Tensor:
        """The first `width` columns of every row of a cache tensor, to write into."""
        return self._views.prefix(cache, width, cache.shape[1])

    def first_row(self, slot: int) -> int:
        return slot * self.context_length

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot into another, all layers."""
        first, start = self.first_row(source), self.first_row(target)
        self.rows[:, start : start + length] = self.rows[:, first : first + length]

    def release(self, slot: int, start: int) -> None:
        """Give back the memory of a slot's rows from position `start` on, all layers."""
        first = self.first_row(slot)
        for plane in self.rows:
            rows = plane[first + start : first + self.context_length]
            release_pages(rows.ctypes.data, rows.nbytes)

    def close(self) -> None:
        self._views.close()
        self._context.close()
        self._buffer.close()
