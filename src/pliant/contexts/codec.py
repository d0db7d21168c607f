"""Chunks of a slot's keys and values to bytes, and back into a slot."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pliant.contexts.chunk import ChunkFormat, EncodedChunk, SectionFormat, check_fits
from pliant.contexts.decoder import Decoder, Sections, most_sections
from pliant.contexts.planes import encode_sections
from pliant.engine.engine import Engine
from pliant.errors import ChunkError, RequestError
from pliant.ggml.quantize import dequantize

# Decoding waits for memory: few threads use it up.
_MAX_THREADS = 4

_MAX_FORMATS = 256
# Fewer are decoded sooner than another thread has begun.
_SECTIONS_PER_THREAD = 64

Bits = int | Sequence[int]
_Task = Callable[[Decoder], None]


@dataclass(frozen=True)
class LayerPart:
    """Sections of the first heads of one layer of a chunk, for the slot's positions from `start`
    on: what `EncodedChunk.layer` gives, or those bytes read from a store."""

    start: int
    format: ChunkFormat
    sections: bytes | memoryview


class _Checked(NamedTuple):
    """A part whose bytes are what its format says; `numbers` are its sections'."""

    format: ChunkFormat
    layer: int
    numbers: range
    first_row: int
    first_cell: int
    data: NDArray[np.uint8]


class _Shared:
    """Tasks that several threads take, made as they are taken."""

    def __init__(self, tasks: Iterator[_Task]) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()

    def take(self) -> _Task | None:
        with self._lock:
            return next(self._tasks, None)


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
        threads = min(engine.threads, _MAX_THREADS)
        self._decoders = [Decoder(engine.kv, architecture.head_dim) for _ in range(threads)]
        self._formats: dict[tuple[object, ...], ChunkFormat] = {}
        self._free: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._decoders:
            self._free.put(decoder)
        self._helpers = ThreadPoolExecutor(threads, "pliant-decode")

    @property
    def nbytes(self) -> int:
        """Memory the codec keeps for decoding."""
        return sum(decoder.nbytes for decoder in self._decoders)

    def format(self, kv_heads: Sequence[int], num_tokens: int, bits: Bits) -> ChunkFormat:
        """The format of a chunk of this engine; `kv_heads` per layer, `bits` of all sections or
        of each.

        Raises ChunkError for what cannot be encoded: other bits, or so few tokens that they are
        not whole blocks.
        """
        heads = tuple(kv_heads)
        key = heads, num_tokens, bits if isinstance(bits, int) else tuple(bits)
        format_ = self._formats.get(key)
        if format_ is None:
            each = (bits,) * sum(heads) if isinstance(bits, int) else tuple(bits)
            head_dim = self._architecture.head_dim
            format_ = ChunkFormat(each, num_tokens, heads, head_dim, self._kv_type)
            check_fits(format_, self._architecture, self._kv_type)
            if len(self._formats) >= _MAX_FORMATS:
                self._formats.clear()
            self._formats[key] = format_
        return format_

    def encode(
        self, slot: int, start: int, num_tokens: int, kv_heads: Sequence[int], bits: Bits
    ) -> EncodedChunk:
        """The chunk of `num_tokens` positions from `start` on, of the first `kv_heads` (per
        layer) heads.

        Raises ChunkError as `format` does and for numbers that are not finite, RequestError for
        positions outside the slot.
        """
        format_ = self.format(kv_heads, num_tokens, bits)
        first = self._first_row(slot, start, num_tokens)
        sections = [
            section
            for layer, heads in enumerate(format_.kv_heads)
            if heads
            for section in self._encode_layer(format_, layer, first)
        ]
        return EncodedChunk(format_, b"".join(section.data for section in sections))

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
        parts = {
            layer: [
                LayerPart(start, chunk.format, chunk.layer(layer, heads)) for start, chunk in chunks
            ]
            for layer, heads in self._layers(layers, kv_heads)
        }
        self.decode_layers(slot, parts, kv_heads)

    def decode_layers(
        self, slot: int, parts: Mapping[int, Sequence[LayerPart]], kv_heads: Sequence[int]
    ) -> None:
        """As `decode`, of layers of which just the sections of `kv_heads` (per layer of the
        model) heads are at hand. They are shared out among the codec's threads.

        Raises, before anything is written, ChunkError for parts of another model or cache type
        and for bytes that are not so many sections, RequestError for positions outside the slot.
        """
        checked = [
            part
            for layer, heads in self._layers(parts, kv_heads)
            for part in self._check(slot, layer, parts[layer], heads)
        ]
        tasks = _Shared(self._tasks(checked))
        sections = sum(len(part.numbers) for part in checked)
        helpers = min(len(self._decoders), -(-sections // _SECTIONS_PER_THREAD)) - 1
        futures = [self._helpers.submit(self._work, tasks) for _ in range(helpers)]
        self._work(tasks)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Free graphs and buffers. Idempotent; before the engine is closed."""
        self._helpers.shutdown()
        for decoder in self._decoders:
            decoder.close()

    def _layers(self, layers: Iterable[int], kv_heads: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Layers with their number of heads."""
        for layer in layers:
            if not 0 <= layer < min(len(kv_heads), self._architecture.num_layers):
                raise ChunkError(f"there is no layer {layer} to decode")
            yield layer, kv_heads[layer]

    def _work(self, tasks: _Shared) -> None:
        """Do tasks until none is left; another thread may take some of them."""
        decoder = self._free.get()
        try:
            while (task := tasks.take()) is not None:
                task(decoder)
        finally:
            self._free.put(decoder)

    def _encode_layer(
        self, format_: ChunkFormat, layer: int, first: int
    ) -> list[NDArray[np.uint8]]:
        """A layer's sections, head by head."""
        heads, head_bytes = format_.kv_heads[layer], self._engine.kv.head_bytes
        rows = self._engine.kv.rows[2 * layer : 2 * layer + 2, first : first + format_.num_tokens]
        cells = rows[..., : heads * head_bytes].reshape(2, format_.num_tokens, heads, head_bytes)
        planes = np.ascontiguousarray(cells.transpose(0, 2, 1, 3))
        if format_.is_lossless:
            return list(np.concatenate(planes.reshape(2, heads, -1), axis=1))
        keys, values = self._floats(planes)
        formats = [format_.sections[i] for i in format_.numbers(layer, heads)]
        found: dict[int, NDArray[np.uint8]] = {}
        for section in dict.fromkeys(formats):
            alike = [head for head in range(heads) if formats[head] is section]
            encoded = encode_sections(keys[alike], values[alike], section.type)
            found.update(zip(alike, encoded, strict=True))
        return [found[head] for head in range(heads)]

    def _floats(self, planes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [keys and values, heads, tokens, head_dim] of the cache's bytes."""
        if self._kv_type == "f16":
            return planes.view(np.float16).astype(np.float32)
        floats = dequantize(planes.reshape(-1, planes.shape[-1]), self._engine.kv.type)
        return floats.reshape(*planes.shape[:-1], -1)

    def _check(
        self, slot: int, layer: int, parts: Sequence[LayerPart], kv_heads: int
    ) -> list[_Checked]:
        checked = []
        for part in parts:
            format_ = part.format
            check_fits(format_, self._architecture, self._kv_type)
            numbers = format_.numbers(layer, kv_heads)
            where = format_.byte_range(numbers)
            if len(part.sections) != where.stop - where.start:
                raise ChunkError(
                    f"{kv_heads} heads of layer {layer} take {where.stop - where.start} bytes in "
                    f"a chunk of {format_.mean_bits} bits, not {len(part.sections)}"
                )
            first = self._first_row(slot, part.start, format_.num_tokens)
            kv, heads = self._engine.kv, self._architecture.num_kv_heads
            cell = 2 * layer * kv.plane_cells + first * heads
            data = np.frombuffer(part.sections, np.uint8)
            checked.append(_Checked(format_, layer, numbers, first, cell, data))
        return checked

    def _tasks(self, checked: Sequence[_Checked]) -> Iterator[_Task]:
        """Sections of one format together, whichever layer they are of."""
        found: dict[SectionFormat, Sections] = {}
        for part in checked:
            if part.format.is_lossless:
                yield partial(self._copy, part)
                continue
            for section, places in _layout(part.format, part.numbers).items():
                sections = found.setdefault(section, Sections([], []))
                sections.data.extend([part.data[where] for _, where in places])
                sections.cells.extend([part.first_cell + head for head, _ in places])
                most = most_sections(section)
                while len(sections.data) >= most:
                    batch = Sections(sections.data[:most], sections.cells[:most])
                    sections = Sections(sections.data[most:], sections.cells[most:])
                    found[section] = sections
                    yield partial(_decode, section, batch)
        for section, rest in found.items():
            if rest.data:
                yield partial(_decode, section, rest)

    def _copy(self, part: _Checked, _: Decoder) -> None:
        """Bytes of the cache into the cache."""
        kv, heads, tokens = self._engine.kv, len(part.numbers), part.format.num_tokens
        planes = part.data.reshape(heads, 2, tokens, kv.head_bytes).transpose(1, 2, 0, 3)
        rows = kv.rows[2 * part.layer : 2 * part.layer + 2, part.first_row :][:, :tokens]
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


@lru_cache(maxsize=1024)
def _layout(format_: ChunkFormat, numbers: range) -> dict[SectionFormat, list[tuple[int, slice]]]:
    """Of sections of one layer, by format: their heads, and where they lie in these sections."""
    found: dict[SectionFormat, list[tuple[int, slice]]] = defaultdict(list)
    start = 0
    for head, number in enumerate(numbers):
        section = format_.sections[number]
        found[section].append((head, slice(start, start + section.nbytes)))
        start += section.nbytes
    return found


def _decode(format_: SectionFormat, batch: Sections, decoder: Decoder) -> None:
    decoder.decode(format_, batch)
