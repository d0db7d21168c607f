"""After an answer, compress its new chunks and write them: evicting a slot then only drops memory.

One thread, one chunk at a time, so that little memory is in use that the budget does not know of.
A call of the same context takes precedence: it is saved when that call has ended.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level
from pliant.contexts.bits import assign_bits
from pliant.contexts.chunk import LOSSLESS, section_format
from pliant.contexts.chunks import ChunkInfo
from pliant.contexts.codec import Bits, ChunkCodec
from pliant.contexts.density import head_densities
from pliant.contexts.headers import read_header, to_stored
from pliant.contexts.identity import CHUNK_TOKENS, ChunkKey
from pliant.contexts.journal import ContextId
from pliant.contexts.memory import Memory
from pliant.contexts.options import ContextOptions
from pliant.contexts.resident import ResidentSlot
from pliant.contexts.spans import ChunkSpan
from pliant.contexts.store import Store
from pliant.engine.engine import Engine
from pliant.errors import ChunkError
from pliant.ggml.memory import trim_heap

logger = logging.getLogger(__name__)

_DEFAULT_BITS = 8
_TRIM_JOBS = 4


@dataclass(frozen=True)
class Unsaved:
    """A context as a call left it in its slot: all of it in `spans`; `outdated` are the keys that
    a longer or rewritten history replaced. `level` is what the call `epoch` ran at."""

    context: ContextId
    slot: ResidentSlot
    epoch: int
    tokens: Sequence[int]
    spans: Sequence[ChunkSpan]
    outdated: Sequence[ChunkKey]
    level: Level


@dataclass
class SwapStats:
    """Chunks written, and jobs that failed; `probe_ms` and `encode_ms` are in all."""

    chunks: int = 0
    failures: int = 0
    probe_ms: float = 0.0
    encode_ms: float = 0.0


class Swapper:
    """Owns the thread; `submit` what a call left, `flush` to wait for all of it."""

    def __init__(
        self,
        engine: Engine,
        codec: ChunkCodec,
        memory: Memory,
        store: Store,
        options: ContextOptions,
    ) -> None:
        self.stats = SwapStats()
        self._engine = engine
        self._codec = codec
        self._memory = memory
        self._store = store
        self._options = options
        self._jobs: queue.Queue[Unsaved | None] = queue.Queue()
        self._encoding = threading.Lock()
        self._storing = threading.Lock()
        self._untrimmed = 0
        self._unsynced: set[ContextId] = set()
        self._thread = threading.Thread(target=self._work, name="pliant-swapout", daemon=True)
        self._thread.start()

    def submit(self, unsaved: Unsaved) -> None:
        self._jobs.put(unsaved)

    def flush(self) -> None:
        """Wait until all that was submitted is saved."""
        self._jobs.join()

    def close(self) -> None:
        """Save the rest and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No slot is read meanwhile, and none whose state changed is read afterwards."""
        with self._encoding:
            yield

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Nothing is stored meanwhile, and nothing afterwards of a slot that was dropped."""
        with self._storing:
            yield

    def wait_for_encoder(self) -> None:
        """Return when no slot is being read: what a call does before it writes its own."""
        with self.paused():
            pass

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._save(job)
            except Exception:
                # KV is a cache: what was not saved is computed again.
                self.stats.failures += 1
                logger.warning("a context's KV was not saved", exc_info=True)
            finally:
                self._memory.settle(job.slot, job.epoch)
            self._untrimmed += 1
            if self._jobs.empty():
                self._sync()
                self._trim()
            self._jobs.task_done()
        self._jobs.task_done()

    def _sync(self) -> None:
        """Only when nobody waits for a slot to be saved: syncing takes long, and what a power
        failure loses is computed again."""
        for context in self._unsynced:
            self._store.sync(context)
        self._unsynced.clear()

    def _trim(self) -> None:
        """Encoding takes and frees memory of many sizes, of which the heap would keep ever more."""
        if self._untrimmed >= _TRIM_JOBS:
            trim_heap()
            self._untrimmed = 0

    def _save(self, job: Unsaved) -> None:
        stored = {span.key: self._store.info(span.key) for span in job.spans}
        known = [span.key for span in job.spans if stored[span.key] is not None]
        new = [
            span
            for span in job.spans
            if stored[span.key] is None and job.slot.has(span.start, span.stop, span.level)
        ]
        with self.storing():
            if self._memory.is_saving(job.slot, job.epoch):
                self._store.share(job.context, known)
        with self._timed("probe_ms"):
            bits = self._choose_bits(job, new, [info for info in stored.values() if info])
        for span, chosen in zip(new, bits, strict=True):
            if not self._save_chunk(job, span, chosen):
                return
        if job.outdated:
            self._store.release(job.context, job.outdated)
        for key in job.outdated:
            self._memory.forget(key)
        self._memory.touch(span.key for span in job.spans)
        self._unsynced.add(job.context)

    def _save_chunk(self, job: Unsaved, span: ChunkSpan, bits: Bits) -> bool:
        """False if a call has the slot meanwhile."""
        heads = self._heads(span)
        with self._encoding, self._timed("encode_ms"):
            if not self._memory.is_saving(job.slot, job.epoch):
                return False
            num_tokens = span.stop - span.start
            chunk = self._codec.encode(job.slot.number, span.start, num_tokens, heads, bits)
        with self.storing():
            if not self._memory.is_saving(job.slot, job.epoch):
                return False
            self._store.put(job.context, span.key, to_stored(chunk, span.level))
            self._memory.keep(span.key, chunk)
        self.stats.chunks += 1
        return True

    def _choose_bits(
        self, job: Unsaved, spans: Sequence[ChunkSpan], stored: Sequence[ChunkInfo]
    ) -> list[Bits]:
        """Of each chunk. What does not fill one gets what the others of its level have."""
        chosen: dict[float, Sequence[int]] = {}
        if self._options.bits is None:
            for info in stored:
                format_ = read_header(info, self._codec)
                if format_ is not None and not format_.is_lossless:
                    chosen[info.level] = format_.bits
            if any(span.is_whole for span in spans) and self._memory.is_saving(job.slot, job.epoch):
                chosen.update(self._assign(job, spans))
        default = self._options.bits or _DEFAULT_BITS
        return [self._fitting(span, chosen.get(span.level, default)) for span in spans]

    def _assign(self, job: Unsaved, spans: Sequence[ChunkSpan]) -> dict[float, Sequence[int]]:
        """Bits of the sections of chunks, by the chunks' level."""
        tokens = job.tokens[: job.spans[-1].stop]
        layers = head_densities(self._engine, job.level, job.slot.number, tokens)
        a, kv_type = self._engine.architecture, self._engine.options.kv_type
        formats = {n: section_format(n, CHUNK_TOKENS, a.head_dim, kv_type) for n in (8, 4, 2)}
        nbytes = {bits: format_.nbytes for bits, format_ in formats.items()}
        chosen: dict[float, Sequence[int]] = {}
        for span in {span.level: span for span in spans}.values():
            pairs = zip(layers, self._heads(span), strict=True)
            densities = [density for layer, heads in pairs for density in _first(layer, heads)]
            average = self._options.average_bits
            chosen[span.level] = assign_bits(densities, nbytes, formats[8].num_values, average)
        return chosen

    def _fitting(self, span: ChunkSpan, bits: Bits) -> Bits:
        """These bits, or lossless if the tokens are not whole blocks."""
        try:
            self._codec.format(self._heads(span), span.stop - span.start, bits)
        except ChunkError:
            return LOSSLESS
        return bits

    def _heads(self, span: ChunkSpan) -> list[int]:
        return [layer.kv_heads for layer in self._engine.bundle.level(span.level).plan.layers]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        elapsed_ms = 1000 * (time.perf_counter() - begin)
        setattr(self.stats, name, getattr(self.stats, name) + elapsed_ms)


def _first(densities: NDArray[np.float32], heads: int) -> list[float]:
    """Of a layer's first heads; those that the probed level has not count as the others do."""
    known = [float(density) for density in densities[:heads]]
    return known + [sum(known) / max(1, len(known))] * (heads - len(known))
