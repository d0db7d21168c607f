"""What an encoded chunk looks like: bits, sections and their sizes. No native code.

A chunk is some tokens of one slot, all layers, of the KV heads of the level they were computed
at. It is a row of sections, one per layer and KV head, layer by layer and head by head, all of
equal size: one layer, and of it a prefix of heads, is one contiguous piece of the payload.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from pliant.bundle import Architecture
from pliant.engine.options import KvType
from pliant.errors import ChunkError
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

LOSSLESS = 16
MAX_TOKENS = 1024
BITS = (LOSSLESS, 8, 4, 2)

# Keys and values are ggml blocks over a head's tokens, one token behind the other. Noise in keys
# costs an answer about five times what noise in values does, so the least bits are for values.
BLOCK_TYPES = {
    8: (GgmlType.Q8_0, GgmlType.Q8_0),
    4: (GgmlType.Q4_K, GgmlType.IQ4_XS),
    2: (GgmlType.Q3_K, GgmlType.Q2_K),
}
CACHE_TYPES: dict[KvType, GgmlType] = {"f16": GgmlType.F16, "q8_0": GgmlType.Q8_0}
# Per channel of the keys: its centre and its scale, a byte each.
SIDE_BYTES = 2


@dataclass(frozen=True)
class ChunkFormat:
    """What must be known to read a payload.

    `kv_heads` are per layer, of the level the chunk was computed at; `kv_type` is the type of the
    cache it came from and goes to. Raises ChunkError for what cannot be encoded.
    """

    bits: int
    num_tokens: int
    kv_heads: tuple[int, ...]
    head_dim: int
    kv_type: KvType

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ChunkError(f"bits is {self.bits!r}; it must be one of {BITS}")
        if self.kv_type not in get_args(KvType):
            raise ChunkError(f"kv_type is {self.kv_type!r}; it must be f16 or q8_0")
        if not self.kv_heads or min(self.kv_heads) < 0:
            raise ChunkError(f"a chunk has 0 or more KV heads per layer, not {self.kv_heads}")
        values = self.head_dim if self.bits == LOSSLESS else self.num_tokens * self.head_dim
        block = max(TYPE_SIZES[type_].block for type_ in (self.key_type, self.value_type))
        if not 1 <= self.num_tokens <= MAX_TOKENS:
            raise ChunkError(f"a chunk has 1 to {MAX_TOKENS} tokens, not {self.num_tokens}")
        if self.head_dim < 1 or values % block:
            raise ChunkError(
                f"{self.num_tokens} tokens of head size {self.head_dim} are not whole blocks of "
                f"{block}: {self.bits} bits need another number of tokens"
            )

    @property
    def key_type(self) -> GgmlType:
        return self._types[0]

    @property
    def value_type(self) -> GgmlType:
        return self._types[1]

    @property
    def side_bytes(self) -> int:
        """Of a section: what is kept of the keys' channels."""
        return 0 if self.bits == LOSSLESS else SIDE_BYTES * self.head_dim

    @cached_property
    def key_bytes(self) -> int:
        """Of a section: the keys' blocks."""
        return self._plane_bytes(self.key_type)

    @cached_property
    def section_bytes(self) -> int:
        """Of one KV head in one layer: centres and scales of the keys, keys, values."""
        return self.side_bytes + self.key_bytes + self._plane_bytes(self.value_type)

    @cached_property
    def num_sections(self) -> int:
        return sum(self.kv_heads)

    @property
    def nbytes(self) -> int:
        return self.num_sections * self.section_bytes

    @property
    def num_values(self) -> int:
        """Keys and values in the chunk, each counted by itself."""
        return 2 * self.num_sections * self.num_tokens * self.head_dim

    @property
    def bits_per_value(self) -> float:
        """What a key or value takes, everything included."""
        return 8.0 * self.section_bytes / (2 * self.num_tokens * self.head_dim)

    def sections(self, layer: int, kv_heads: int) -> range:
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
        return slice(sections.start * self.section_bytes, sections.stop * self.section_bytes)

    @property
    def _types(self) -> tuple[GgmlType, GgmlType]:
        if self.bits == LOSSLESS:
            return CACHE_TYPES[self.kv_type], CACHE_TYPES[self.kv_type]
        return BLOCK_TYPES[self.bits]

    def _plane_bytes(self, type_: GgmlType) -> int:
        if self.bits == LOSSLESS:
            return row_size(type_, self.head_dim) * self.num_tokens
        return row_size(type_, self.head_dim * self.num_tokens)

    @cached_property
    def _first_sections(self) -> tuple[int, ...]:
        return tuple(sum(self.kv_heads[:layer]) for layer in range(len(self.kv_heads)))


@dataclass(frozen=True)
class EncodedChunk:
    """A whole chunk. Raises ChunkError if the payload has another size than the format says."""

    format: ChunkFormat
    payload: bytes | memoryview

    def __post_init__(self) -> None:
        if len(self.payload) != self.format.nbytes:
            raise ChunkError(
                f"the chunk's payload has {len(self.payload)} bytes; {self.format.num_sections} "
                f"sections of {self.format.section_bytes} are {self.format.nbytes}"
            )

    def layer(self, layer: int, kv_heads: int) -> memoryview:
        """The sections of a layer's first `kv_heads` heads."""
        chosen = self.format.sections(layer, kv_heads)
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
