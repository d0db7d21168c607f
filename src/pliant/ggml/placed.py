"""Tensors that keep what is in them from one graph to the next, such as inputs.

ggml's graph allocator uses the memory that it gives to a tensor again for others.
"""

from pliant.ggml.context import Context
from pliant.ggml.memory import ALIGNMENT, Buffer
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import GgmlType


class PlacedTensors:
    """Owns at most `max_tensors` tensors, each in memory of its own."""

    def __init__(self, max_tensors: int) -> None:
        self._context = Context(max_tensors)
        self._buffers: list[Buffer] = []

    def new(self, type_: GgmlType, *shape: int) -> Tensor:
        """Zeros, valid until `close`; they take physical memory once they are written."""
        tensor = self._context.new_tensor(type_, *shape)
        buffer = Buffer.zeroed(tensor.nbytes + ALIGNMENT)
        buffer.place(tensor, 0)
        self._buffers.append(buffer)
        return tensor

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._context.close()
        for buffer in self._buffers:
            buffer.close()
