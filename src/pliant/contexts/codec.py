"""Chunks of a slot's keys and values to bytes, and back into a slot."""

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.contexts.chunk import ChunkFormat, EncodedChunk
from pliant.engine.engine import Engine


@dataclass(frozen=True)
class LayerPart:
    """Sections of the first heads of one layer of a chunk, for the slot's positions from `start`
    on: what `EncodedChunk.layer` gives, or those bytes read from a store."""

    start: int
    format: ChunkFormat
    sections: bytes | memoryview


class ChunkCodec:
    """Encodes and decodes chunks of one engine's slots.

    One decoding at a time; encoding may run in another thread. The engine must stay open, and
    nobody may write the positions that are encoded or use those that are decoded meanwhile.
    """

    def __init__(self, engine: Engine, threads: int | None = None) -> None: ...

    def encode(
        self, slot: int, start: int, num_tokens: int, kv_heads: Sequence[int], bits: int
    ) -> EncodedChunk:
        """The chunk of `num_tokens` positions from `start` on; `kv_heads` per layer."""
        raise NotImplementedError

    def decode(
        self,
        slot: int,
        chunks: Sequence[tuple[int, EncodedChunk]],
        layers: range,
        kv_heads: Sequence[int],
    ) -> None:
        """Write chunks, each with the position it starts at, into a slot: of `layers` the first
        `kv_heads` (per layer of the model) heads. Many at once are faster than one by one."""
        raise NotImplementedError

    def decode_layer(
        self, slot: int, layer: int, parts: Sequence[LayerPart], kv_heads: int
    ) -> None:
        """As `decode`, for one layer, of which only the first `kv_heads` heads are at hand."""
        raise NotImplementedError

    def close(self) -> None:
        """Free graphs and buffers. Idempotent."""
