"""Chunks of a slot's keys and values to bytes, and back into a slot."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.contexts.chunk import LOSSLESS, ChunkFormat, EncodedChunk, check_fits
from pliant.contexts.decoder import LayerDecoder, Sections
from pliant.contexts.planes import encode_sections
from pliant.engine.engine import Engine
from pliant.errors import ChunkError, RequestError
from pliant.ggml.quantize import dequantize


@dataclass(frozen=True)
class LayerPart:
    """Sections of the first heads of one layer of a chunk, for the slot's positions from `start`
    on: what `EncodedChunk.layer` gives, or those bytes read from a store."""

    start: int
    format: ChunkFormat
    sections: bytes | memoryview


class ChunkCodec:
    """Encodes and decodes chunks of one engine's slots.

    Safe to use from several threads. The engine must stay open, and nobody may write the
    positions that are encoded, or use those that are decoded, meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        architecture = engine.architecture
        self._engine = engine
        self._architecture = architecture
        self._kv_type = engine.options.kv_type
        self._lock = threading.Lock()
        self._decoder = LayerDecoder(engine.kv, architecture.num_kv_heads, architecture.head_dim)

    @property
    def nbytes(self) -> int:
        """Memory the codec keeps for decoding."""
        return self._decoder.nbytes

    def format(self, kv_heads: Sequence[int], num_tokens: int, bits: int) -> ChunkFormat:
        """The format of a chunk of this engine; `kv_heads` per layer.

        Raises ChunkError for what cannot be encoded: other bits, or so few tokens that they are
        not whole blocks.
        """
        head_dim = self._architecture.head_dim
        format_ = ChunkFormat(bits, num_tokens, tuple(kv_heads), head_dim, self._kv_type)
        check_fits(format_, self._architecture, self._kv_type)
        return format_

    def encode(
        self, slot: int, start: int, num_tokens: int, kv_heads: Sequence[int], bits: int
    ) -> EncodedChunk:
        """The chunk of `num_tokens` positions from `start` on, of the first `kv_heads` (per
        layer) heads.

        Raises ChunkError as `format` does and for numbers that are not finite, RequestError for
        positions outside the slot.
        """
        format_ = self.format(kv_heads, num_tokens, bits)
        first = self._first_row(slot, start, num_tokens)
        layers = [
            self._encode_layer(format_, layer, first).reshape(-1)
            for layer, heads in enumerate(format_.kv_heads)
            if heads
        ]
        return EncodedChunk(format_, b"".join(layer.data for layer in layers))

    def decode(
        self,
        slot: int,
        chunks: Sequence[tuple[int, EncodedChunk]],
        layers: range,
        kv_heads: Sequence[int],
    ) -> None:
        """Write chunks, each with the position it starts at, into a slot: of `layers` the first
        `kv_heads` (per layer of the model) heads. Many at once are faster than one by one.

        Raises, before anything is written, what `decode_layer` raises.
        """
        work = []
        for layer in layers:
            if not 0 <= layer < min(len(kv_heads), self._architecture.num_layers):
                raise ChunkError(f"there is no layer {layer} to decode")
            parts = [
                LayerPart(start, chunk.format, chunk.layer(layer, kv_heads[layer]))
                for start, chunk in chunks
            ]
            work.append((layer, self._check(slot, layer, parts, kv_heads[layer])))
        for layer, checked in work:
            self._write(layer, checked)

    def decode_layer(
        self, slot: int, layer: int, parts: Sequence[LayerPart], kv_heads: int
    ) -> None:
        """As `decode`, for one layer of which just the sections of `kv_heads` heads are at hand.

        Raises, before anything is written, ChunkError for parts of another model or cache type
        and for bytes that are not `kv_heads` sections, RequestError for positions outside the
        slot.
        """
        self._write(layer, self._check(slot, layer, parts, kv_heads))

    def close(self) -> None:
        """Free graphs and buffers. Idempotent; before the engine is closed."""
        with self._lock:
            self._decoder.close()

    def _encode_layer(self, format_: ChunkFormat, layer: int, first: int) -> NDArray[np.uint8]:
        """Sections uint8 [heads, section bytes]."""
        heads, head_bytes = format_.kv_heads[layer], self._engine.kv.head_bytes
        rows = self._engine.kv.rows[2 * layer : 2 * layer + 2, first : first + format_.num_tokens]
        cells = rows[..., : heads * head_bytes].reshape(2, format_.num_tokens, heads, head_bytes)
        planes = np.ascontiguousarray(cells.transpose(0, 2, 1, 3))
        if format_.bits == LOSSLESS:
            return np.concatenate(planes.reshape(2, heads, -1), axis=1)
        keys, values = self._floats(planes)
        return encode_sections(keys, values, format_.key_type, format_.value_type)

    def _floats(self, planes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [keys and values, heads, tokens, head_dim] of the cache's bytes."""
        if self._kv_type == "f16":
            return planes.view(np.float16).astype(np.float32)
        floats = dequantize(planes.reshape(-1, planes.shape[-1]), self._engine.kv.type)
        return floats.reshape(*planes.shape[:-1], -1)

    def _check(
        self, slot: int, layer: int, parts: Sequence[LayerPart], kv_heads: int
    ) -> list[tuple[ChunkFormat, Sections]]:
        checked = []
        for part in parts:
            format_ = part.format
            check_fits(format_, self._architecture, self._kv_type)
            expected = len(format_.sections(layer, kv_heads)) * format_.section_bytes
            if len(part.sections) != expected:
                raise ChunkError(
                    f"{kv_heads} heads of layer {layer} take {expected} bytes in a chunk of "
                    f"{format_.bits} bits, not {len(part.sections)}"
                )
            first = self._first_row(slot, part.start, format_.num_tokens)
            data = np.frombuffer(part.sections, np.uint8).reshape(kv_heads, format_.section_bytes)
            checked.append((format_, Sections(first, data)))
        return checked

    def _write(self, layer: int, checked: Sequence[tuple[ChunkFormat, Sections]]) -> None:
        by_format: dict[tuple[int, int], list[tuple[ChunkFormat, Sections]]] = defaultdict(list)
        for format_, sections in checked:
            if format_.bits == LOSSLESS:
                self._copy(layer, format_, sections)
            elif len(sections.data):
                by_format[format_.bits, format_.num_tokens].append((format_, sections))
        with self._lock:
            for alike in by_format.values():
                self._decoder.decode(layer, alike[0][0], [sections for _, sections in alike])

    def _copy(self, layer: int, format_: ChunkFormat, sections: Sections) -> None:
        """Bytes of the cache into the cache."""
        kv, heads, tokens = self._engine.kv, len(sections.data), format_.num_tokens
        planes = sections.data.reshape(heads, 2, tokens, kv.head_bytes).transpose(1, 2, 0, 3)
        rows = kv.rows[2 * layer : 2 * layer + 2, sections.first_row :][:, :tokens]
        cells = rows[..., : heads * kv.head_bytes].reshape(2, tokens, heads, kv.head_bytes)
        cells[:] = planes

    def _first_row(self, slot: int, start: int, num_tokens: int) -> int:
        engine = self._engine
        if not 0 <= slot < engine.num_slots:
            raise RequestError(f"slot is {slot}; there are {engine.num_slots}, from 0")
        if start < 0 or start + num_tokens > engine.context_length:
            raise RequestError(
                f"positions {start} to {start + num_tokens} are not in a slot of "
                f"{engine.context_length} tokens"
            )
        return engine.kv.first_row(slot) + start
