"""One graph over a few tensors, computed at once."""

import numpy as np

from pliant.ggml.backend import Backend, GraphAllocator
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.memory import Buffer, write
from pliant.ggml.quantize import quantize
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import GgmlType


class Bench:
    """Tensors with data, and one graph over them."""

    def __init__(self) -> None:
        self.context = Context(max_tensors=64, graph_size=64)
        self.graph = self.context.new_graph(64)
        self.buffers: list[Buffer] = []

    def put(self, data: np.ndarray, *, repacked: bool = False, type_: GgmlType | None = None):
        kinds = {"float32": GgmlType.F32, "int32": GgmlType.I32, "int64": GgmlType.I64}
        kind = kinds.get(str(data.dtype), GgmlType.F16)
        shape = data.shape[::-1]
        if type_ is not None:
            kind, data = type_, quantize(data, type_)
        tensor = self.context.new_tensor(kind, *shape)
        buffer = Buffer.allocate(tensor.nbytes + 64, repacked=repacked)
        buffer.place(tensor, 0)
        write(tensor, np.ascontiguousarray(data))
        self.buffers.append(buffer)
        return tensor

    def run(self, result: Tensor) -> np.ndarray:
        bind().build_forward_expand(self.graph, result.address)
        allocator, backend = GraphAllocator(), Backend(threads=1)
        allocator.allocate(self.graph)
        backend.compute(self.graph)
        values = np.squeeze(Tensor.at(result.address).numpy()).copy()
        backend.close()
        allocator.close()
        return values
