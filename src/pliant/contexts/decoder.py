"""Compressed sections of one layer into a slot's cache, by a small ggml graph.

All heads of up to MAX_TOKENS tokens of several chunks go through one graph: ggml's decoders,
keys back to their channels' centres and scales, and the cache's own rounding to its type.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pliant.contexts.chunk import BLOCK_TYPES, MAX_TOKENS, SIDE_BYTES, ChunkFormat
from pliant.contexts.planes import read_channels
from pliant.engine.kv import KvCache
from pliant.ggml.backend import Backend, GraphAllocator
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.memory import ALIGNMENT, Buffer
from pliant.ggml.tensor import Tensor, bytes_at
from pliant.ggml.types import GgmlType, row_size

_MAX_CHUNKS = 64
_MAX_GRAPHS = 32
_NODES = 32


@dataclass(frozen=True)
class Sections:
    """Sections uint8 [heads, section bytes] of one layer of a chunk, and the cache row of its
    first token."""

    first_row: int
    data: NDArray[np.uint8]


class _Shape(NamedTuple):
    """What a graph fixes. `chunks` follow each other within a head."""

    key_type: GgmlType
    value_type: GgmlType
    heads: int
    chunks: int
    tokens: int

    @property
    def planes(self) -> int:
        return self.heads * self.chunks


class _Graph:
    """Reads its inputs from the start of `staging`."""

    def __init__(self, kv: KvCache, staging: Buffer, shape: _Shape, head_dim: int) -> None:
        self._staging = staging
        self._used = 0
        self._c = Context(max_tensors=_NODES, graph_size=_NODES)
        self.address = self._c.new_graph(_NODES)
        plane = (head_dim * shape.tokens, shape.planes)
        self._numbers = self._input(GgmlType.I32, shape.planes)
        self._rows = self._input(GgmlType.I64, shape.chunks * shape.tokens)
        self._centres, self._scales = (
            self._input(GgmlType.F32, head_dim, 1, shape.planes) for _ in range(2)
        )
        self._keys = self._input(shape.key_type, *plane)
        self._values = self._input(shape.value_type, *plane)
        keys = self._c.get_rows(self._keys, self._numbers)
        keys = self._c.reshape(keys, head_dim, shape.tokens, shape.planes)
        keys = self._c.add(self._c.mul(keys, self._scales), self._centres)
        values = self._c.get_rows(self._values, self._numbers)
        self._shape = shape
        self._targets = [self._store(kv, plane, shape.heads, head_dim) for plane in (keys, values)]

    def fill(self, batch: Sequence[Sections], format_: ChunkFormat) -> None:
        shape, side = self._shape, format_.side_bytes
        stop = side + format_.key_bytes
        data = np.stack([sections.data for sections in batch], axis=1)
        self._array(self._keys)[:] = data[..., side:stop].reshape(-1)
        self._array(self._values)[:] = data[..., stop:].reshape(-1)
        codes = np.ascontiguousarray(data[..., :side]).view(np.int8)
        centres, scales = read_channels(codes.reshape(shape.planes, SIDE_BYTES, -1))
        self._centres.numpy()[0, :, 0] = centres
        self._scales.numpy()[0, :, 0] = scales
        self._numbers.numpy()[:] = np.arange(shape.planes)
        first = np.array([sections.first_row for sections in batch])
        self._rows.numpy().reshape(len(batch), -1)[:] = first[:, None] + np.arange(shape.tokens)

    def use_layer(self, keys: Tensor, values: Tensor) -> None:
        """Let the graph write to these cache tensors."""
        for tensors, cache in zip(self._targets, (keys, values), strict=True):
            assert cache.data is not None
            for tensor in tensors:
                tensor.point_to(cache.data)

    def close(self) -> None:
        self._c.close()

    def _store(
        self, kv: KvCache, plane: Tensor, heads: int, head_dim: int
    ) -> tuple[Tensor, Tensor]:
        """Write a plane [.., tokens of all chunks, heads] into the rows; any layer's cache."""
        c, cache = self._c, kv.keys[0]
        shape = (head_dim, cache.shape[1], heads)
        target = c.view(cache, shape, (kv.row_bytes, kv.head_bytes))
        tokens = self._shape.chunks * self._shape.tokens
        stored = c.set_rows(target, c.reshape(plane, head_dim, tokens, heads), self._rows)
        bind().build_forward_expand(self.address, stored.address)
        return target, stored

    def _input(self, type_: GgmlType, *shape: int) -> Tensor:
        tensor = self._c.new_tensor(type_, *shape)
        self._staging.place(tensor, self._used)
        self._used += _aligned(tensor.nbytes)
        return tensor

    @staticmethod
    def _array(tensor: Tensor) -> NDArray[np.uint8]:
        assert tensor.data is not None
        return bytes_at(tensor.data, tensor.nbytes)


class LayerDecoder:
    """Owns the graphs, and the memory they share. Not thread-safe.

    One thread: decoding waits for memory, and a second thread would wait for the core that
    another program has.
    """

    def __init__(self, kv: KvCache, num_kv_heads: int, head_dim: int) -> None:
        self._kv = kv
        self._head_dim = head_dim
        self._backend = Backend(threads=1)
        self._allocator = GraphAllocator()
        self._graphs: OrderedDict[_Shape, _Graph] = OrderedDict()
        self._staging = Buffer.zeroed(_staging_bytes(num_kv_heads, head_dim))

    @property
    def nbytes(self) -> int:
        """Memory for inputs and intermediate results."""
        return self._staging.size + self._allocator.nbytes

    def decode(self, layer: int, format_: ChunkFormat, sections: Sequence[Sections]) -> None:
        """Write sections, all of one format and number of heads, into layer `layer`."""
        remaining = list(sections)
        most = min(_MAX_CHUNKS, MAX_TOKENS // format_.num_tokens)
        while remaining:
            count = min(most, 1 << (len(remaining).bit_length() - 1))
            batch, remaining = remaining[:count], remaining[count:]
            heads = len(batch[0].data)
            types = format_.key_type, format_.value_type
            graph = self._get(_Shape(*types, heads, count, format_.num_tokens))
            graph.fill(batch, format_)
            graph.use_layer(self._kv.keys[layer], self._kv.values[layer])
            self._backend.compute(graph.address)

    def close(self) -> None:
        self._drop()
        self._allocator.close()
        self._backend.close()
        self._staging.close()

    def _get(self, shape: _Shape) -> _Graph:
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
            return graph
        graph = _Graph(self._kv, self._staging, shape, self._head_dim)
        generation = self._allocator.generation
        try:
            self._allocator.allocate(graph.address)
        finally:
            if self._allocator.generation != generation:
                self._drop()
        while len(self._graphs) >= _MAX_GRAPHS:
            self._graphs.popitem(last=False)[1].close()
        self._graphs[shape] = graph
        return graph

    def _drop(self) -> None:
        """The shared memory moved, or goes."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()


def _staging_bytes(num_kv_heads: int, head_dim: int) -> int:
    """Enough for the inputs of any batch."""
    types = {type_ for pair in BLOCK_TYPES.values() for type_ in pair}
    token_bytes = 2 * max(row_size(type_, 256 * head_dim) for type_ in types) // 256
    planes = num_kv_heads * _MAX_CHUNKS
    described = planes * (4 + 2 * 4 * head_dim)
    return described + MAX_TOKENS * (num_kv_heads * token_bytes + 8) + 16 * ALIGNMENT


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
