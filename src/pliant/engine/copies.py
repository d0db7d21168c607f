"""Faster copies of weight matrices, in column segments, rearranged or as they are.

All copies of a kind share one buffer: huge pages cover it, which small buffers cannot have.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pliant.bundle import TensorInfo
from pliant.ggml.context import Context
from pliant.ggml.memory import ALIGNMENT, Buffer, write
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import row_size


@dataclass(frozen=True)
class Segment:
    """Columns `start`..`stop` of a matrix as a tensor of their own."""

    start: int
    stop: int
    tensor: Tensor
    repacked: bool


class Copies:
    """Owns the copies. `add` all of them, then `fill` once; before that they have no memory."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._planned: dict[bool, list[tuple[TensorInfo, tuple[Segment, ...]]]] = defaultdict(list)
        self._buffers: list[Buffer] = []
        self.nbytes = 0

    def add(self, info: TensorInfo, edges: Sequence[int], repacked: bool) -> tuple[Segment, ...]:
        """Copy the matrix `info`, cut at `edges` (0 and all columns included)."""
        rows = info.shape[1]
        segments = tuple(
            Segment(start, stop, self._context.new_tensor(info.type, stop - start, rows), repacked)
            for start, stop in pairwise(edges)
        )
        self._planned[repacked].append((info, segments))
        self.nbytes += sum(segment.tensor.nbytes for segment in segments)
        return segments

    def fill(self, path: Path) -> None:
        """Read the matrices from the file, past the mapping, whose pages would be resident."""
        for repacked, matrices in self._planned.items():
            size = sum(_aligned(s.tensor.nbytes) for _, segments in matrices for s in segments)
            buffer = Buffer.allocate(size + ALIGNMENT, repacked=repacked)
            self._buffers.append(buffer)
            offset = -buffer.base % ALIGNMENT
            for info, segments in matrices:
                data = np.fromfile(path, np.uint8, info.nbytes, offset=info.offset)
                columns = data.reshape(info.shape[1], -1)
                for segment in segments:
                    buffer.place(segment.tensor, offset)
                    offset += _aligned(segment.tensor.nbytes)
                    first, last = (row_size(info.type, n) for n in (segment.start, segment.stop))
                    write(segment.tensor, np.ascontiguousarray(columns[:, first:last]))
        self._planned.clear()

    def close(self) -> None:
        for buffer in self._buffers:
            buffer.close()
        self._buffers.clear()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
