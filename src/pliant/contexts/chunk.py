"""What an encoded chunk looks like: bits, sections and their sizes. No native code.

A chunk is some tokens of one slot, all layers, of the KV heads of the level they were computed
at. It is a row of sections, one per layer and KV head, layer by layer and head by head: one layer,
and of it a prefix of heads, is one contiguous piece of the payload.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import get_args

from pliant.bundle import Architecture
from pliant.engine.options import KvType
from pliant.errors import ChunkError
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

LOSSLESS = 16
MAX_TOKENS = 1024
BITS = (LOSSLESS, 8, 4, 2)

# Of keys and of values: ggml blocks over a head's tokens, one token behind the other. These are
# the types that ggml decodes quickest; 16 bits are the cache's own bytes.
BLOCK_TYPES = {8: GgmlType.Q8_0, 4: GgmlType.Q4_K, 2: GgmlType.Q2_K}
CACHE_TYPES: dict[KvType, GgmlType] = {"f16": GgmlType.F16, "q8_0": GgmlType.Q8_0}
# Per channel of the keys: its centre and its scale, a byte each.
SIDE_BYTES = 2


@dataclass(frozen=True)
class SectionFormat:
    """One KV head in one layer: what is kept of the keys' channels, keys, values."""

    type: GgmlType
    num_tokens: int
    head_dim: int
    side_bytes: int
    plane_bytes: int

    @property
    def nbytes(self) -> int:
        return self.side_bytes + 2 * self.plane_bytes

    @property
    def num_values(self) -> int:
        """Keys and values, each counted by itself."""
        return 2 * self.num_tokens * self.head_dim


@cache
def section_format(bits: int, num_tokens: int, head_dim: int, kv_type: KvType) -> SectionFormat:
    """Raises ChunkError for what cannot be encoded."""
    if bits not in BITS:
        raise ChunkError(f"bits is {bits!r}; it must be one of {BITS}")
    if kv_type not in get_args(KvType):
        raise ChunkError(f"kv_type is {kv_type!r}; it must be f16 or q8_0")
    if not 1 <= num_tokens <= MAX_TOKENS:
        raise ChunkError(f"a chunk has 1 to {MAX_TOKENS} tokens, not {num_tokens}")
    is_lossless = bits == LOSSLESS
    type_ = CACHE_TYPES[kv_type] if is_lossless else BLOCK_TYPES[bits]
    row, rows = (head_dim, num_tokens) if is_lossless else (num_tokens * head_dim, 1)
    block = TYPE_SIZES[type_].block
    if head_dim < 1 or row % block:
        raise ChunkError(
            f"{num_tokens} tokens of head size {head_dim} are not whole blocks of {block}: "
            f"{bits} bits need another number of tokens"
        )
    side_bytes = 0 if is_lossless else SIDE_BYTES * head_dim
    return SectionFormat(type_, num_tokens, head_dim, side_bytes, row_size(type_, row) * rows)


@dataclass(frozen=True)
class ChunkFormat:
    """What must be known to read a payload.

    `bits` are per section; LOSSLESS is for all of them or none. `kv_heads` are per layer, of the
    level the chunk was computed at; `kv_type` is the type of the cache it came from and goes to.
    Raises ChunkError for what cannot be encoded.
    """

    bits: tuple[int, ...]
    num_tokens: int
    kv_heads: tuple[int, ...]
    head_dim: int
    kv_type: KvType

    def __post_init__(self) -> None:
        if not self.kv_heads or min(self.kv_heads) < 0:
            raise ChunkError(f"a chunk has 0 or more KV heads per layer, not {self.kv_heads}")
        if len(self.bits) != sum(self.kv_heads):
            raise ChunkError(f"{len(self.bits)} sections' bits for {sum(self.kv_heads)} KV heads")
        found = set(self.bits)
        for bits in found or {LOSSLESS}:
            section_format(bits, self.num_tokens, self.head_dim, self.kv_type)
        if LOSSLESS in found and len(found) > 1:
            raise ChunkError("a chunk is lossless as a whole or not at all")

    @cached_property
    def sections(self) -> tuple[SectionFormat, ...]:
        size = self.num_tokens, self.head_dim, self.kv_type
        return tuple(section_format(bits, *size) for bits in self.bits)

    @property
    def is_lossless(self) -> bool:
        return LOSSLESS in self.bits

    @cached_property
    def mean_bits(self) -> int:
        """The nominal bits of its sections on average, rounded."""
        return round(sum(self.bits) / len(self.bits)) if self.bits else LOSSLESS

    @property
    def num_sections(self) -> int:
        return len(self.bits)

    @cached_property
    def nbytes(self) -> int:
        return self._offsets[-1]

    @cached_property
    def num_values(self) -> int:
        """Keys and values in the chunk, each counted by itself."""
        return sum(section.num_values for section in self.sections)

    @property
    def bits_per_value(self) -> float:
        """What a key or value takes, everything included."""
        return 8.0 * self.nbytes / self.num_values

    def numbers(self, layer: int, kv_heads: int) -> range:
        """Numbers of the sections of a layer's first `kv_heads` heads; they follow each other.

        Raises ChunkError if the chunk does not have them.
        """
        if not 0 <= layer < len(self.kv_heads) or not 0 <= kv_heads <= self.kv_heads[layer]:
            raise ChunkError(
                f"the chunk has no {kv_heads} KV heads in layer {layer}; per layer it has "
                f"{', '.join(map(str, self.kv_heads))}"
            )
        first = self._first_sections[layer]
        return range(first, first + kv_heads)

    def byte_range(self, sections: range) -> slice:
        """Where sections that follow each other lie in the payload."""
        return slice(self._offsets[sections.start], self._offsets[sections.stop])

    def layer_bytes(self, layer: int, kv_heads: int) -> int:
        """Of the sections of a layer's first `kv_heads` heads."""
        part = self.byte_range(self.numbers(layer, kv_heads))
        return int(part.stop - part.start)

    def head_bytes(self, heads: Sequence[int]) -> int:
        """Of the first `heads` (per layer) heads."""
        return sum(self.layer_bytes(layer, count) for layer, count in enumerate(heads))

    @cached_property
    def _offsets(self) -> tuple[int, ...]:
        return tuple(accumulate((section.nbytes for section in self.sections), initial=0))

    @cached_property
    def _first_sections(self) -> tuple[int, ...]:
        return tuple(accumulate(self.kv_heads[:-1], initial=0))


@dataclass(frozen=True)
class EncodedChunk:
    """A whole chunk. Raises ChunkError if the payload has another size than the format says."""

    format: ChunkFormat
    payload: bytes | memoryview

    def __post_init__(self) -> None:
        if len(self.payload) != self.format.nbytes:
            raise ChunkError(
                f"the chunk's payload has {len(self.payload)} bytes; its "
                f"{self.format.num_sections} sections are {self.format.nbytes}"
            )

    def layer(self, layer: int, kv_heads: int) -> memoryview:
        """The sections of a layer's first `kv_heads` heads."""
        chosen = self.format.numbers(layer, kv_heads)
        return memoryview(self.payload)[self.format.byte_range(chosen)]


def check_fits(format_: ChunkFormat, architecture: Architecture, kv_type: KvType) -> None:
    """Raise ChunkError unless chunks of this format are of such a model and cache."""
    if (format_.head_dim, format_.kv_type) != (architecture.head_dim, kv_type):
        raise ChunkError("the chunk is of another model or of another type of cache")
    heads = format_.kv_heads
    if len(heads) != architecture.num_layers or max(heads) > architecture.num_kv_heads:
        raise ChunkError(
            f"the model has {architecture.num_layers} layers of {architecture.num_kv_heads} KV "
            f"heads, the chunk {len(heads)} of up to {max(heads)}"
        )
