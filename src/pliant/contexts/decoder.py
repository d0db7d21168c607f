"""Compressed sections into the cache, by a small ggml graph.

Sections of any layers, heads and chunks, of one format, go through one graph: ggml's decoder, keys
back to their channels' centres and scales, and the cache's own rounding to its type. A few sections
at a time, so that what is between these steps stays in the core's own cache.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pliant.contexts.chunk import BLOCK_TYPES, MAX_TOKENS, SIDE_BYTES, SectionFormat
from pliant.contexts.planes import read_channels
from pliant.engine.kv import KvCache
from pliant.ggml.backend import Backend, GraphAllocator
from pliant.ggml.context import Context
from pliant.ggml.declarations import bind
from pliant.ggml.memory import ALIGNMENT, Buffer
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

# Numbers of keys that a graph decodes at most, and how many of them at a time.
_MAX_VALUES = 512 << 10
_MAX_SECTIONS = 128
_TILE_VALUES = 64 << 10
_MAX_GRAPHS = 64
_INPUTS = 8
_NODES_PER_TILE = 24


class Sections(NamedTuple):
    """Bytes of sections, and for each the cell (`KvCache.cells`) of its first token's keys."""

    data: list[NDArray[np.uint8]]
    cells: list[int]


class _Graph:
    """Decodes `count` sections, which lie one after the other in `staging` as they are stored."""

    def __init__(self, kv: KvCache, staging: Buffer, format_: SectionFormat, count: int) -> None:
        self.count = count
        self._format = format_
        self._staging = staging
        self._used = 0
        self._plane_cells = kv.plane_cells
        self._heads = kv.row_bytes // kv.head_bytes
        tile = min(count, max(1, _TILE_VALUES // (format_.num_tokens * format_.head_dim)))
        tiles = [range(start, min(start + tile, count)) for start in range(0, count, tile)]
        nodes = _INPUTS + _NODES_PER_TILE * len(tiles)
        self._c = Context(max_tensors=nodes, graph_size=nodes)
        self.address = self._c.new_graph(nodes)
        self._numbers = self._input(GgmlType.I32, tile)
        rows = count * format_.num_tokens
        self._key_rows, self._value_rows = (self._input(GgmlType.I64, rows) for _ in range(2))
        channels = format_.head_dim, 1, count
        self._centres, self._scales = (self._input(GgmlType.F32, *channels) for _ in range(2))
        self._sections = self._stage()
        keys, values = (self._planes(number) for number in range(2))
        for part in tiles:
            self._store(kv.cells, self._keys(keys, part), self._key_rows, part)
            self._store(kv.cells, self._values(values, part), self._value_rows, part)

    def fill(self, batch: Sections) -> None:
        """Stage up to `count` sections; where there are fewer, the last is decoded repeatedly."""
        format_, missing = self._format, self.count - len(batch.data)
        data = batch.data + batch.data[-1:] * missing
        cells = np.array(batch.cells + batch.cells[-1:] * missing)
        np.concatenate(data, out=self._sections.reshape(-1))
        codes = self._sections[:, : format_.side_bytes].view(np.int8)
        centres, scales = read_channels(codes.reshape(self.count, SIDE_BYTES, -1))
        self._centres.numpy()[0, :, 0] = centres
        self._scales.numpy()[0, :, 0] = scales
        self._numbers.numpy()[:] = np.arange(self._numbers.shape[0])
        steps = np.arange(0, format_.num_tokens * self._heads, self._heads)
        rows = (cells[:, None] + steps).reshape(-1)
        self._key_rows.numpy()[:] = rows
        self._value_rows.numpy()[:] = rows + self._plane_cells

    def close(self) -> None:
        self._c.close()

    def _keys(self, stored: Tensor, part: range) -> Tensor:
        """Keys [head_dim, tokens, sections]."""
        c, format_ = self._c, self._format
        plane = self._values(stored, part)
        plane = c.reshape(plane, format_.head_dim, format_.num_tokens, len(part))
        stride = 4 * format_.head_dim
        centres, scales = (
            c.view(
                tensor,
                (format_.head_dim, 1, len(part)),
                (stride, stride),
                part.start * stride,
            )
            for tensor in (self._centres, self._scales)
        )
        return c.add(c.mul(plane, scales), centres)

    def _values(self, stored: Tensor, part: range) -> Tensor:
        """Some sections' planes, decoded; as they are stored they lie a section apart."""
        c, stride = self._c, self._format.nbytes
        shape = self._format.num_tokens * self._format.head_dim, len(part)
        rows = c.view(stored, shape, (stride,), part.start * stride)
        return c.get_rows(rows, c.view(self._numbers, (len(part),)))

    def _store(self, cells: Tensor, plane: Tensor, rows: Tensor, part: range) -> None:
        c, format_ = self._c, self._format
        count = len(part) * format_.num_tokens
        numbers = c.view(rows, (count,), (), part.start * format_.num_tokens * 8)
        stored = c.set_rows(cells, c.reshape(plane, format_.head_dim, count), numbers)
        bind().build_forward_expand(self.address, stored.address)

    def _stage(self) -> NDArray[np.uint8]:
        """Where the sections go, [count, bytes]."""
        nbytes = self.count * self._format.nbytes
        staged = self._staging.bytes()[self._used : self._used + nbytes]
        return staged.reshape(self.count, -1)

    def _planes(self, number: int) -> Tensor:
        """The staged bytes from where the first section's keys (0), or values (1), begin: to be
        viewed with a section's length as stride."""
        format_ = self._format
        begin = format_.side_bytes + number * format_.plane_bytes
        size = TYPE_SIZES[format_.type]
        blocks = -(-(self._sections.size - begin) // size.nbytes)
        tensor = self._c.new_tensor(format_.type, size.block, blocks)
        self._staging.place(tensor, self._used + begin)
        return tensor

    def _input(self, type_: GgmlType, *shape: int) -> Tensor:
        tensor = self._c.new_tensor(type_, *shape)
        self._staging.place(tensor, self._used)
        self._used += _aligned(tensor.nbytes)
        return tensor


class Decoder:
    """Owns the graphs, and the memory they share. Not thread-safe.

    Its graphs run in the thread that calls: threads that decode need not wait for each other.
    """

    def __init__(self, kv: KvCache, head_dim: int) -> None:
        self._kv = kv
        self._backend = Backend(threads=1)
        self._allocator = GraphAllocator()
        self._graphs: OrderedDict[tuple[SectionFormat, int], _Graph] = OrderedDict()
        self._staging = Buffer.zeroed(_staging_bytes(head_dim))

    @property
    def nbytes(self) -> int:
        """Memory for inputs and intermediate results."""
        return self._staging.size + self._allocator.nbytes

    def decode(self, format_: SectionFormat, batch: Sections) -> None:
        """Write sections of one format, up to `most_sections`."""
        graph = self._get(format_, _round_up(len(batch.data)))
        graph.fill(batch)
        self._backend.compute(graph.address)

    def close(self) -> None:
        self._drop()
        self._allocator.close()
        self._backend.close()
        self._staging.close()

    def _get(self, format_: SectionFormat, count: int) -> _Graph:
        graph = self._graphs.get((format_, count))
        if graph is not None:
            self._graphs.move_to_end((format_, count))
            return graph
        graph = _Graph(self._kv, self._staging, format_, count)
        generation = self._allocator.generation
        try:
            self._allocator.allocate(graph.address)
        finally:
            if self._allocator.generation != generation:
                self._drop()
        while len(self._graphs) >= _MAX_GRAPHS:
            self._graphs.popitem(last=False)[1].close()
        self._graphs[format_, count] = graph
        return graph

    def _drop(self) -> None:
        """The shared memory moved, or goes."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()


def most_sections(format_: SectionFormat) -> int:
    """How many are decoded at once: a power of two."""
    values = format_.num_tokens * format_.head_dim
    return 1 << min(_MAX_SECTIONS, max(1, _MAX_VALUES // values)).bit_length() - 1


def _round_up(count: int) -> int:
    """To few numbers, so that few graphs are needed: powers of two and halfway between them."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power


def _staging_bytes(head_dim: int) -> int:
    """Enough for the inputs of any batch."""
    tokens = max(_MAX_VALUES // head_dim, MAX_TOKENS)
    token_bytes = 2 * max(row_size(type_, 256 * head_dim) for type_ in BLOCK_TYPES.values()) // 256
    described = _MAX_SECTIONS * (4 + (SIDE_BYTES + 8) * head_dim)
    return described + tokens * (token_bytes + 16) + 1024


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
