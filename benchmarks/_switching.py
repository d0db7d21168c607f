"""Context managers that are compared, on one engine: what a switch to a context costs with each.

Keys and values are random numbers: only their number matters here. Emulated storage makes
pliant's reads really wait, and all that pliant does is timed. For the others only the least is
counted: reading and decoding overlapped perfectly, writing free, and nothing for bookkeeping.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from pliant.contexts.chunk import LOSSLESS, EncodedChunk
from pliant.contexts.codec import Bits, ChunkCodec
from pliant.contexts.costs import RestoreCosts
from pliant.contexts.identity import CHUNK_TOKENS, KeySpace
from pliant.contexts.memory import Memory
from pliant.contexts.options import ContextOptions
from pliant.contexts.restore import Restorer
from pliant.contexts.spans import chunk_spans
from pliant.contexts.storage import EmulatedDisk, StorageProfile
from pliant.contexts.store import Store
from pliant.contexts.swapout import Swapper, Unsaved
from pliant.engine.engine import Engine


@dataclass
class Workload:
    """Contexts by number: their tokens now. `grow` is what a call adds to one."""

    engine: Engine
    lengths: dict[int, int]
    grow: int
    tokens: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        vocab = self.engine.architecture.vocab_size
        most = self.engine.context_length
        self.tokens = {c: rng.integers(5, vocab, most).tolist() for c in self.lengths}

    def extend(self, context: int) -> int:
        """The context's length after a call."""
        most = self.engine.context_length
        self.lengths[context] = min(most, self.lengths[context] + self.grow)
        return self.lengths[context]


class Manager(Protocol):
    def switch(self, context: int) -> float:
        """Milliseconds until all of the context's keys and values can be attended to."""

    def ended(self, context: int) -> None:
        """A call was answered, and the context is longer now. Not timed."""

    def close(self) -> None: ...


class WholeContexts:
    """Contexts stay in memory in f16 as long as they fit, least recently used first out; `bring`
    says what one that is out costs, in milliseconds by its length."""

    def __init__(self, work: Workload, budget: int, bring: Callable[[int], float]) -> None:
        self._work = work
        self._budget = budget
        self._bring = bring
        self._resident: OrderedDict[int, int] = OrderedDict()
        for context in work.lengths:
            self.ended(context)

    def switch(self, context: int) -> float:
        if context in self._resident:
            return 0.0
        self.ended(context)
        return self._bring(self._work.lengths[context])

    def ended(self, context: int) -> None:
        self._resident.pop(context, None)
        self._resident[context] = self._work.engine.kv_bytes(self._work.lengths[context])
        while sum(self._resident.values()) > self._budget:
            self._resident.popitem(last=False)

    def close(self) -> None: ...


class Chunks:
    """vLLM-S and vLLM-SQ: chunks of all contexts in one LRU queue, in f16, which is attended to
    where it lies, or in 8 bits, which is decoded into a slot that holds one context."""

    def __init__(
        self,
        work: Workload,
        budget: int,
        storage: StorageProfile,
        bits: int,
        decode_ms: Callable[[int], float],
    ) -> None:
        """`decode_ms` is what so many tokens take; in f16, copying them."""
        self._work = work
        self._budget = budget
        self._storage = storage
        self._in_place = bits == 16
        self._token_bytes = work.engine.kv_bytes(1) * (1.0 if bits == 16 else 8.5 / 16)
        self._decode_ms = decode_ms
        self._lru: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._used = 0.0
        self._decoded: int | None = None
        for context in work.lengths:
            self.ended(context)

    def switch(self, context: int) -> float:
        if context == self._decoded:
            return 0.0
        length = self._work.lengths[context]
        chunks = self._chunks(context)
        missing = [key for key in chunks if key not in self._lru]
        tokens = sum(min(CHUNK_TOKENS, length - number * CHUNK_TOKENS) for _, number in missing)
        read_ms = 1000 * self._storage.read_s(int(tokens * self._token_bytes), bool(missing))
        self.ended(context)
        return max(read_ms, self._decode_ms(tokens if self._in_place else length))

    def ended(self, context: int) -> None:
        for key in self._chunks(context):
            self._used -= self._lru.pop(key, 0.0)
            self._lru[key] = CHUNK_TOKENS * self._token_bytes
            self._used += self._lru[key]
        slot_bytes = 0
        if not self._in_place:
            self._decoded = context
            slot_bytes = self._work.engine.kv_bytes(self._work.lengths[context])
        while self._lru and self._used + slot_bytes > self._budget:
            self._used -= self._lru.popitem(last=False)[1]

    def _chunks(self, context: int) -> list[tuple[int, int]]:
        return [(context, n) for n in range(-(-self._work.lengths[context] // CHUNK_TOKENS))]

    def close(self) -> None: ...


class MixedCodec(ChunkCodec):
    """Encodes each kind of chunk once, as all have the same numbers, with the bits that the
    built-in model's heads got under the default average (kv_formats.py)."""

    SHARES: ClassVar = {2: 0.32, 4: 0.56, 8: 0.12}

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        rng = np.random.default_rng(2)
        heads = sum(layer.kv_heads for layer in engine.bundle.levels[-1].plan.layers)
        drawn = rng.choice(list(self.SHARES), heads, p=list(self.SHARES.values()))
        self._mix = tuple(int(bits) for bits in drawn)
        self._encoded: dict[tuple[int, Bits], EncodedChunk] = {}

    def encode(
        self, slot: int, start: int, num_tokens: int, kv_heads: Sequence[int], bits: Bits
    ) -> EncodedChunk:
        if bits != LOSSLESS:
            bits = self._mix
        key = num_tokens, bits
        if key not in self._encoded:
            self._encoded[key] = super().encode(slot, start, num_tokens, kv_heads, bits)
        return self._encoded[key]


class Pliant:
    """pliant's own parts, as calls use them; the journal and the answer are left out."""

    def __init__(
        self,
        work: Workload,
        budget: int,
        storage: StorageProfile,
        costs: RestoreCosts,
        folder: Path,
    ) -> None:
        engine = work.engine
        self._work = work
        self._level = engine.bundle.levels[-1]
        self._space = KeySpace.of(engine)
        self._codec = MixedCodec(engine)
        self._store = Store(folder, quota_bytes=64 << 30, device=EmulatedDisk(storage))
        self._memory = Memory(engine, range(engine.num_slots), budget, costs.worth(engine))
        self._restorer = Restorer(engine, self._codec, self._memory, self._store, costs)
        # Bits are the codec's to choose: random numbers have no density to measure.
        options = ContextOptions(memory_bytes=budget, bits=8)
        self._swapper = Swapper(engine, self._codec, self._memory, self._store, options)
        rng = np.random.default_rng(1)
        shape = (engine.kv.rows.shape[0], engine.context_length, engine.kv.row_bytes // 2)
        row = rng.standard_normal(shape[2], dtype=np.float32).astype(np.float16)
        self._filling = np.broadcast_to(row.view(np.uint8), (*shape[:2], engine.kv.row_bytes))
        for context in work.lengths:
            self._run(context, 0)

    def switch(self, context: int) -> float:
        tokens = self._work.tokens[context][: self._work.lengths[context]]
        spans = chunk_spans(self._space, tokens, [1.0] * len(tokens))
        begin = time.perf_counter()
        room = min(self._work.engine.context_length, len(tokens) + self._work.grow)
        with self._memory.running(f"{context:032x}", room) as slot:
            slot.expect(tokens)
            self._memory.hold(slot, len(tokens))
            missing = slot.missing(spans, 1.0)
            if missing:
                self._restorer.restore(slot, tokens, missing, self._level)
            elapsed_ms = 1000 * (time.perf_counter() - begin)
            epoch = slot.epoch
        self._memory.settle(slot, epoch)
        return elapsed_ms

    def ended(self, context: int) -> None:
        self._run(context, max(0, self._work.lengths[context] - self._work.grow))

    def check(self) -> tuple[int, int]:
        """Most bytes ever tracked, and the budget."""
        self._memory.check()
        return self._memory.use.peak, self._memory.use.budget

    def close(self) -> None:
        self._swapper.close()
        self._restorer.close()
        self._codec.close()
        self._store.close()
        for slot in range(self._work.engine.num_slots):
            self._work.engine.release_slot(slot)

    def _run(self, context: int, start: int) -> None:
        """A call that adds the tokens from `start` on, and is saved."""
        length, engine = self._work.lengths[context], self._work.engine
        tokens = self._work.tokens[context][:length]
        with self._memory.running(f"{context:032x}", length) as slot:
            self._swapper.wait_for_encoder()
            slot.expect(tokens)
            self._memory.hold(slot, length)
            first = slot.number * engine.context_length
            engine.kv.rows[:, first + start : first + length] = self._filling[:, start:length]
            slot.append(tokens[start:], start, 1.0)
            epoch = slot.epoch
        spans = chunk_spans(self._space, tokens, [1.0] * length)
        outdated = []
        if start % CHUNK_TOKENS:
            before = chunk_spans(self._space, tokens[:start], [1.0] * start)
            outdated = [before[-1].key]
        job = Unsaved(f"{context:032x}", slot, epoch, tokens, spans, outdated, self._level)
        self._swapper.submit(job)
        self._swapper.flush()
