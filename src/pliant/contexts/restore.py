"""Bring what a call needs of its context back into the slot.

Chunks in memory are decoded, chunks on the disk read and decoded, the others computed again; the
planner may have some of those on the disk computed, too. This goes in steps, and a thread reads
ahead what the next step needs: some layers of all chunks where there is something to compute, else
some chunks, which lie side by side in a pack. What cannot be read is computed: no state of the disk
makes a restore fail or a position usable that is not complete.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from pliant.bundle import Level
from pliant.contexts.chunk import ChunkFormat, EncodedChunk
from pliant.contexts.chunks import StoredSections, cut
from pliant.contexts.codec import ChunkCodec, LayerPart
from pliant.contexts.costs import RestoreCosts
from pliant.contexts.headers import read_header
from pliant.contexts.identity import ChunkKey
from pliant.contexts.memory import Memory
from pliant.contexts.planner import Piece, RestorePlan, plan_restore, runs_of
from pliant.contexts.reading import Located
from pliant.contexts.resident import ResidentSlot
from pliant.contexts.spans import ChunkSpan
from pliant.contexts.store import Store
from pliant.engine.engine import Engine
from pliant.engine.span import Span
from pliant.errors import ChunkError
from pliant.slo.latency import LatencyModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestoreReport:
    """What a restore did: tokens and milliseconds, predicted and taken."""

    from_memory: int = 0
    from_disk: int = 0
    recomputed: int = 0
    read_bytes: int = 0
    predicted_ms: float = 0.0
    ms: float = 0.0


@dataclass(frozen=True)
class _Source:
    """A missing chunk: in memory as `chunk`, on the disk in `format` at a `place`, or nowhere."""

    span: ChunkSpan
    chunk: EncodedChunk | None = None
    format: ChunkFormat | None = None
    place: Located | None = None


@dataclass
class _Work:
    """An attempt: `parts` are what was read, by chunk and layer; it `keeps` them all, or drops a
    layer's when they are decoded."""

    level: Level
    sources: list[_Source]
    plan: RestorePlan
    parts: dict[tuple[ChunkKey, int], memoryview] = field(default_factory=dict)
    failed: set[ChunkKey] = field(default_factory=set)
    keeps: bool = True

    def chosen(self, recompute: bool) -> list[_Source]:
        pairs = zip(self.sources, self.plan.recompute, strict=True)
        return [source for source, again in pairs if again is recompute]

    @property
    def read(self) -> list[_Source]:
        return [source for source in self.chosen(False) if source.format is not None]

    @property
    def kv_heads(self) -> list[int]:
        return [layer.kv_heads for layer in self.level.plan.layers]


class _Step(NamedTuple):
    """What is read (before), then decoded, then computed: of these chunks these layers."""

    read: Sequence[_Source]
    held: Sequence[_Source]
    layers: range


class Restorer:
    """Restores slots of one engine; one call at a time per slot."""

    def __init__(
        self, engine: Engine, codec: ChunkCodec, memory: Memory, store: Store, costs: RestoreCosts
    ) -> None:
        self._engine = engine
        self._codec = codec
        self._memory = memory
        self._store = store
        self._costs = costs
        self._reader = ThreadPoolExecutor(2, "pliant-restore")

    def close(self) -> None:
        self._reader.shutdown()

    def use_latency(self, latency: LatencyModel) -> None:
        """Plan with what this device was measured to take."""
        self._costs = replace(self._costs, latency=latency)

    def predict_ms(self, missing: Sequence[tuple[Level, Sequence[ChunkSpan]]]) -> list[float]:
        """For each level what a restore of its missing chunks for a call at it would take."""
        look_up = cache(self._look_up)
        plans = (
            self._plan([_usable(span, level, look_up) for span in spans], level)
            for level, spans in missing
        )
        return [plan.predicted_ms for plan in plans]

    def is_lost(self, span: ChunkSpan, level: Level) -> bool:
        """Whether a chunk can only be computed again for a call at `level`."""
        source = self._find(span, level)
        return source.chunk is None and source.format is None

    def restore(
        self, slot: ResidentSlot, tokens: Sequence[int], missing: Sequence[ChunkSpan], level: Level
    ) -> RestoreReport:
        """Make the positions of the chunks `missing` usable at `level`; the slot expects `tokens`
        and has all positions between. Memory for them is the caller's to hold.
        """
        started = time.perf_counter()
        lost: set[ChunkKey] = set()
        for span in missing:
            slot.mark(span.start, span.stop, 0)
        while True:
            sources = [
                _Source(span) if span.key in lost else self._find(span, level) for span in missing
            ]
            work = _Work(level, sources, self._plan(sources, level))
            self._attempt(slot, tokens, work)
            if not work.failed:
                break
            lost |= work.failed
        for span in missing:
            slot.mark(span.start, span.stop, level.ratio)
        self._keep(work)
        return _report(work, 1000 * (time.perf_counter() - started))

    def _find(self, span: ChunkSpan, level: Level) -> _Source:
        return _usable(span, level, self._look_up)

    def _look_up(self, span: ChunkSpan) -> _Source:
        chunk = self._memory.chunk(span.key)
        if chunk is not None:
            return _Source(span, chunk=chunk)
        place = self._store.locate(span.key)
        if place is None:
            return _Source(span)
        return _Source(span, format=read_header(place.head.info, self._codec), place=place)

    def _plan(self, sources: Sequence[_Source], level: Level) -> RestorePlan:
        costs, num_layers = self._costs, self._engine.architecture.num_layers
        heads = [layer.kv_heads for layer in level.plan.layers]
        pieces = [_piece(source, heads, costs) for source in sources]
        return plan_restore(pieces, costs.storage, costs.compute(level), num_layers)

    def _attempt(self, slot: ResidentSlot, tokens: Sequence[int], work: _Work) -> None:
        """Restore with all that is read in memory at once or, where it does not fit, with two of
        as many steps as there are; where that does not fit either, nothing is read."""
        read = work.read
        sizes = [_read_bytes(source, work.kv_heads) for source in read]
        num_layers = self._engine.architecture.num_layers
        two = 2 * max(sizes, default=0)
        if any(work.plan.recompute):
            two = -(-2 * sum(sizes) // num_layers)
        most = max(num_layers, len(read))
        for keeps, steps, nbytes in ((True, work.plan.steps, sum(sizes)), (False, most, two)):
            with self._memory.buffer(nbytes) as is_held:
                if is_held:
                    work.keeps = keeps
                    work.plan = replace(work.plan, steps=steps)
                    self._try(slot, tokens, work)
                    return
        work.failed.update(source.span.key for source in read)

    def _try(self, slot: ResidentSlot, tokens: Sequence[int], work: _Work) -> None:
        try:
            self._run(slot, tokens, work)
        except ChunkError as error:
            logger.warning("stored KV cannot be decoded and will be computed again: %s", error)
            work.failed.update(source.span.key for source in work.read)

    def _run(self, slot: ResidentSlot, tokens: Sequence[int], work: _Work) -> None:
        """The pipeline; leaves when a chunk that was to be read turns out to be lost."""
        pieces = [Piece(s.span.start, s.span.stop, None) for s in work.sources]
        spans = [
            Span(slot.number, tokens[start:stop], start, "none")
            for start, stop in runs_of(pieces, work.plan.recompute)
        ]
        compute = self._engine.layer_steps(work.level, spans)
        pending: list[Future[None]] = []
        steps = _steps(work)
        try:
            self._read(work, steps[0])
            for step, following in zip(steps, [*steps[1:], None], strict=True):
                if pending:
                    pending.pop().result()
                if work.failed:
                    return
                if following is not None and following.read:
                    pending = [self._reader.submit(self._read, work, following)]
                self._decode(slot, work, step)
                for layer in step.layers if spans else ():
                    compute.compute(layer)
        finally:
            for future in pending:
                future.exception()
            compute.close()

    def _read(self, work: _Work, step: _Step) -> None:
        heads, layers = work.kv_heads, step.layers
        wanted = [(_place(source), _sections(source, layers, heads)) for source in step.read]
        for source, outcome in zip(step.read, self._store.read_many(wanted), strict=True):
            key, format_ = source.span.key, source.format
            if not isinstance(outcome, StoredSections):
                work.failed.add(key)
                continue
            assert format_ is not None
            lengths = [format_.layer_bytes(layer, heads[layer]) for layer in layers]
            parts = cut(outcome.joined(), lengths)
            work.parts.update(zip([(key, layer) for layer in layers], parts, strict=True))

    def _decode(self, slot: ResidentSlot, work: _Work, step: _Step) -> None:
        parts = {
            layer: [*_held_parts(step.held, layer, heads), *_read_parts(work, step.read, layer)]
            for layer in step.layers
            if (heads := work.kv_heads[layer])
        }
        self._codec.decode_layers(slot.number, parts, work.kv_heads)

    def _keep(self, work: _Work) -> None:
        """What was read in full stays in memory, compressed."""
        for source in work.read if work.keeps else []:
            assert source.format is not None
            is_whole = list(source.format.kv_heads) == work.kv_heads
            if is_whole and self._memory.keeps(source.format):
                key, layers = source.span.key, range(len(work.kv_heads))
                payload = b"".join(work.parts.pop((key, layer)) for layer in layers)
                self._memory.keep(key, EncodedChunk(source.format, payload))


def _held_parts(held: Sequence[_Source], layer: int, heads: int) -> Iterator[LayerPart]:
    for source in held:
        assert source.chunk is not None
        yield LayerPart(source.span.start, source.chunk.format, source.chunk.layer(layer, heads))


def _read_parts(work: _Work, read: Sequence[_Source], layer: int) -> Iterator[LayerPart]:
    for source in read:
        assert source.format is not None
        part = source.span.key, layer
        data = work.parts[part] if work.keeps else work.parts.pop(part)
        yield LayerPart(source.span.start, source.format, data)


def _usable(span: ChunkSpan, level: Level, look_up: Callable[[ChunkSpan], _Source]) -> _Source:
    """What of a chunk can be used at `level`: nothing of one that was computed below it."""
    return _Source(span) if span.level < level.ratio else look_up(span)


def _piece(source: _Source, heads: Sequence[int], costs: RestoreCosts) -> Piece:
    span = source.span
    found = source.format if source.chunk is None else source.chunk.format
    if found is None:
        return Piece(span.start, span.stop, None)
    nbytes = 0 if source.chunk is not None else _read_bytes(source, heads)
    return Piece(span.start, span.stop, nbytes, costs.decode_ms(found, heads))


def _read_bytes(source: _Source, heads: Sequence[int]) -> int:
    assert source.format is not None
    return source.format.head_bytes(heads)


def _place(source: _Source) -> Located:
    assert source.place is not None
    return source.place


def _sections(source: _Source, layers: range, heads: Sequence[int]) -> list[int]:
    assert source.format is not None
    return [s for layer in layers for s in source.format.numbers(layer, heads[layer])]


def _steps(work: _Work) -> list[_Step]:
    read, num_layers = work.read, len(work.kv_heads)
    held = [source for source in work.chosen(False) if source.chunk is not None]
    if any(work.plan.recompute):
        return [_Step(read, held, layers) for layers in _groups(num_layers, work.plan.steps)]
    layers = range(num_layers)
    groups = [read[g.start : g.stop] for g in _groups(len(read), work.plan.steps)]
    return [
        *([_Step([], held, layers)] if held or not read else []),
        *(_Step(group, [], layers) for group in groups if group),
    ]


def _groups(count: int, steps: int) -> Iterator[range]:
    """As many groups of equal size, as far as they are; no more than `count`, but one."""
    steps = max(1, min(steps, count))
    edges = [round(step * count / steps) for step in range(steps + 1)]
    for start, stop in pairwise(edges):
        yield range(start, stop)


def _report(work: _Work, ms: float) -> RestoreReport:
    def count(sources: Sequence[_Source]) -> int:
        return sum(source.span.stop - source.span.start for source in sources)

    kept = work.chosen(False)
    read = [source for source in kept if source.chunk is None]
    return RestoreReport(
        count([source for source in kept if source.chunk is not None]),
        count(read),
        count(work.chosen(True)),
        sum(_read_bytes(source, work.kv_heads) for source in read),
        work.plan.predicted_ms,
        ms,
    )
