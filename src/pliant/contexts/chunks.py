"""Chunks as the store takes them and gives them back. It does not know what the bytes mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice, pairwise

from pliant.contexts.identity import ChunkKey

MAX_SECTIONS = 1 << 16
MAX_HEADER_BYTES = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 30


@dataclass(frozen=True)
class StoredChunk:
    """A compressed chunk on its way to the disk.

    `payload` is any buffer of bytes; `sections` are the lengths in bytes of the parts that can be
    read alone, in order, which add up to it. `level` says whose heads they are, `bits` how many
    each number was compressed to; where two offer the same chunk, the one with more bits is kept.
    `header` is the codec's own, of a few bytes, read whenever the chunk is looked up.
    """

    payload: bytes | bytearray | memoryview
    sections: tuple[int, ...]
    bits: int
    level: float
    header: bytes = b""

    def __post_init__(self) -> None:
        size = memoryview(self.payload).nbytes
        if sum(self.sections) != size or not all(length > 0 for length in self.sections):
            raise ValueError(f"sections of {sum(self.sections)} bytes in a payload of {size}")
        if not 0 < size <= MAX_PAYLOAD_BYTES or len(self.sections) > MAX_SECTIONS:
            raise ValueError(f"a payload of {size} bytes in {len(self.sections)} sections")
        if len(self.header) > MAX_HEADER_BYTES or not 0 < self.bits <= 32:
            raise ValueError(f"{self.bits} bits, a header of {len(self.header)} bytes")


@dataclass(frozen=True)
class ChunkInfo:
    """What is known of a stored chunk without reading it; fields as in `StoredChunk`."""

    key: ChunkKey
    bits: int
    level: float
    header: bytes
    sections: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the payload."""
        return sum(self.sections)


@dataclass(frozen=True)
class StoredSections:
    """Sections of a chunk as they were written: each was compared with its checksum.

    `runs` are the bytes of sections that follow each other in the chunk, in the order of
    `indices`, each with how many sections it is.
    """

    info: ChunkInfo
    indices: tuple[int, ...]
    runs: tuple[tuple[int, memoryview], ...]

    @property
    def nbytes(self) -> int:
        return sum(len(data) for _, data in self.runs)

    def joined(self) -> memoryview:
        """All of them, one behind the other."""
        if len(self.runs) == 1:
            return self.runs[0][1]
        return memoryview(b"".join(run for _, run in self.runs))

    @cached_property
    def data(self) -> tuple[memoryview, ...]:
        """Section by section."""
        lengths = iter([self.info.sections[index] for index in self.indices])
        return tuple(
            part for count, run in self.runs for part in cut(run, list(islice(lengths, count)))
        )


def cut(data: memoryview, lengths: Sequence[int]) -> list[memoryview]:
    """Parts of these lengths, one behind the other."""
    ends = accumulate(lengths, initial=0)
    return [data[start:end] for start, end in pairwise(ends)]
