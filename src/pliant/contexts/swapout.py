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

from pliant.bundle import Level
from pliant.contexts.bits import Candidate, Spent, assign_bits
from pliant.contexts.chunk import LOSSLESS, ChunkFormat
from pliant.contexts.chunks import ChunkInfo
from pliant.contexts.codec import ChunkCodec
from pliant.contexts.density import attention_received
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

_REST_BITS = 8
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
        self._unsynced.add(job.context)

    def _save_chunk(self, job: Unsaved, span: ChunkSpan, bits: int) -> bool:
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
    ) -> list[int]:
        whole = [span for span in spans if span.is_whole]
        if self._options.bits is not None:
            chosen = dict.fromkeys((span.key for span in whole), self._options.bits)
        elif whole and self._memory.is_saving(job.slot, job.epoch):
            chosen = self._assign(job, whole, stored)
        else:
            chosen = {}
        return [chosen.get(span.key) or self._rest_bits(span) for span in spans]

    def _assign(
        self, job: Unsaved, spans: Sequence[ChunkSpan], stored: Sequence[ChunkInfo]
    ) -> dict[ChunkKey, int]:
        """By density, under the average of all chunks of the context."""
        received = attention_received(
            self._engine, job.level, job.slot.number, job.tokens[: job.spans[-1].stop]
        )
        candidates = [
            Candidate(float(received[span.start : span.stop].sum()), *self._sizes(span))
            for span in spans
        ]
        formats = [read_header(info, self._codec) for info in stored]
        known = [f for f in formats if f is not None and f.num_tokens == CHUNK_TOKENS]
        spent = Spent(sum(f.num_values for f in known), sum(f.nbytes for f in known))
        bits = assign_bits(candidates, self._options.average_bits, spent)
        return {span.key: chosen for span, chosen in zip(spans, bits, strict=True)}

    def _sizes(self, span: ChunkSpan) -> tuple[int, dict[int, int]]:
        """Keys and values of a whole chunk, and its bytes by bits."""
        formats = {bits: self._format(span, bits) for bits in (8, 4, 2)}
        return formats[8].num_values, {bits: found.nbytes for bits, found in formats.items()}

    def _rest_bits(self, span: ChunkSpan) -> int:
        """What is left over is small, is read again soon and need not be whole blocks."""
        bits = self._options.bits or _REST_BITS
        try:
            self._format(span, bits)
        except ChunkError:
            return LOSSLESS
        return bits

    def _format(self, span: ChunkSpan, bits: int) -> ChunkFormat:
        return self._codec.format(self._heads(span), span.stop - span.start, bits)

    def _heads(self, span: ChunkSpan) -> list[int]:
        return [layer.kv_heads for layer in self._engine.bundle.level(span.level).plan.layers]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        elapsed_ms = 1000 * (time.perf_counter() - begin)
        setattr(self.stats, name, getattr(self.stats, name) + elapsed_ms)
