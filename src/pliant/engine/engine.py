"""Forward passes of any plan over one set of weights."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Bundle, Level, Plan
from pliant.engine.adapters import AdapterPool
from pliant.engine.graph import Graph, Model, Size
from pliant.engine.graphs import KV_BUCKET, GraphCache
from pliant.engine.inputs import Inputs
from pliant.engine.kv import KvCache
from pliant.engine.layerwise import LayerBatch, LayerGraph, LayerSteps, split_spans
from pliant.engine.layout import LayoutPolicy
from pliant.engine.options import EngineOptions
from pliant.engine.probe import attention_power
from pliant.engine.span import Limits, Span, SpanShape
from pliant.engine.threads import ThreadGovernor, physical_cores
from pliant.engine.weights import Weights
from pliant.errors import PlanError, RequestError, UnknownLevelError
from pliant.ggml.backend import Backend
from pliant.ggml.cpu import cpu_features

MAX_BATCH = 512
DEFAULT_CONTEXT = 8192
_WARM_SECONDS = 0.05


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of the mapped file, of weight copies beside it, of intermediate results, and of the
    adapters that are loaded."""

    mapped: int
    copied: int
    compute: int
    adapters: int


@dataclass
class _Pass:
    """A graph about to be computed. The rest is what a decode step needs to follow another."""

    asked: Plan | Level
    graph: Graph
    logits: NDArray[np.float32]
    slot: int
    next_position: int
    kv_length: int


class Engine:
    """Owns weights, KV slots and graphs. `forward` may be called from several threads."""

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        """Raises RequestError for options the model cannot have, GgmlError without memory."""
        options = options or EngineOptions()
        self.bundle = bundle
        self.options = options
        self.architecture = bundle.architecture
        self.num_slots = options.slots
        self.context_length = _context_length(bundle, options)
        self._limits = Limits(
            self.num_slots, self.context_length, self.architecture.vocab_size, MAX_BATCH, KV_BUCKET
        )
        policy = LayoutPolicy(
            options.layout, bundle.gguf.path.stat().st_size, "avx512_vnni" in cpu_features()
        )
        self._weights = Weights(bundle, policy)
        self._kv = KvCache(self.architecture, self.num_slots, self.context_length, options.kv_type)
        window = self.architecture.sliding_window
        self._inputs = Inputs(MAX_BATCH, self.context_length, window)
        self._model = Model(self.architecture, self._weights, self._kv, self._inputs)
        self._graphs = GraphCache(self._model, MAX_BATCH)
        self._threads = ThreadGovernor(options.threads or physical_cores())
        self._backend = Backend(self._threads.limit)
        self._adapters = AdapterPool()
        self._sizes: dict[Plan | Level, Size] = {}
        self._last: tuple[Plan | Level, Size] | None = None
        self._step: _Pass | None = None
        self._written: LayerBatch | None = None
        self._lock = threading.Lock()
        self._closed = False
        sizes = [self._size(level) for level in reversed(bundle.levels)]
        self._graphs.warm(sizes, self.context_length, _WARM_SECONDS)

    @property
    def threads(self) -> int:
        """Most threads a forward pass uses."""
        return self._threads.limit

    @property
    def memory(self) -> MemoryUse:
        return MemoryUse(
            self._weights.mapped_bytes,
            self._weights.copied_bytes,
            self._graphs.nbytes,
            self._adapters.nbytes,
        )

    @property
    def kv(self) -> KvCache:
        """The slots' keys and values, valid while the engine is open; RequestError once it is not.

        Who writes to a slot sees to it that no forward pass uses it meanwhile.
        """
        if self._closed:
            raise RequestError("the model is closed")
        return self._kv

    def forward(self, size: Plan | Level, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Compute spans of at most MAX_BATCH tokens together, at a level, adapter included, or at
        any plan, bare.

        Returns the logits wanted, float32 [outputs, vocab], in the order of the spans. Keys and
        values land in the spans' slots; rows a span starts after must have been computed before.
        A decode step reuses the array of the step before it in the same slot: copy to keep.
        Raises PlanError for a plan the model cannot run, UnknownLevelError for a level whose
        adapter is not in the bundle, ContextOverflowError for positions past
        the slot, RequestError for other bad spans.
        """
        with self._lock:
            self._check_open()
            work = self._advance(size, spans) or self._prepare(size, spans)
            self._run(work.graph.address)
            return work.logits

    def layer_steps(self, size: Plan | Level, spans: Sequence[Span]) -> LayerSteps:
        """Compute keys and values of spans of one slot, in ascending order, a layer at a time.

        They may be of any number of tokens and leave gaps: what lies in a gap must be in the slot
        before a layer is computed, but only of that layer. Other passes can run between layers.
        Raises as `forward`.
        """
        self._check_open()
        if not spans:
            return LayerSteps(self, size, [])
        with self._lock:
            self._size(size)
            batches = []
            for batch in split_spans(spans, MAX_BATCH):
                shapes = self._limits.shapes(batch, one_slot=True)
                rows = [span.slot * self.context_length for span in batch]
                batches.append(LayerBatch(batch, shapes, rows, self.architecture.hidden_size))
            return LayerSteps(self, size, batches)

    def compute_layer(self, asked: Plan | Level, index: int, batch: LayerBatch) -> None:
        """Layer `index` over a batch of `layer_steps`, which calls this."""
        with self._lock:
            self._check_open()
            size = self._size(asked)
            layer, is_last = size.plan.layers[index], index == len(size.plan.layers) - 1
            if (is_last or (index and not layer.ff)) and not layer.kv_heads:
                return
            self._step = None
            if size.adapter is not None:
                self._adapters.use(size.adapter)
            graph = LayerGraph(self._model, size, index, batch)
            try:
                self._graphs.allocate(graph.address)
                graph.use_slots()
                if self._written is not batch:
                    lengths = [shape.kv_length for shape in batch.shapes]
                    self._inputs.write(batch.spans, lengths, batch.rows)
                    self._written = batch
                self._run(graph.address)
            finally:
                graph.close()
            batch.swap()

    def kv_bytes(self, num_tokens: int) -> int:
        """Memory that so many tokens take in a slot."""
        return num_tokens * self._kv.token_bytes

    def release_slot(self, slot: int, start: int = 0) -> None:
        """Give back the memory of a slot's positions from `start` on; they read as zeros.

        Does not wait for passes over other slots."""
        self._limits.check_slot(slot)
        self._check_open()
        self._kv.release(slot, start)

    def attention_power(self, size: Plan | Level, span: Span) -> list[NDArray[np.float32]]:
        """How strongly the queries of `span` attend to each position up to its end: per layer
        float32 [kv_heads, positions], the mean of the squared attention weights over the queries
        that share a KV head.

        The span's keys and values must be in its slot; nothing is written there. Takes about the
        time of computing the span. Raises as `forward` does.
        """
        with self._lock:
            self._check_open()
            self._step = self._written = None
            chosen, (shape,) = self._size(size), self._limits.shapes([span])
            first_row = self._kv.first_row(span.slot)
            if chosen.adapter is not None:
                self._adapters.use(chosen.adapter)
            self._inputs.write([span], [shape.kv_length], [first_row])
            self._backend.threads = self._threads.begin()
            power = attention_power(self._model, chosen, shape, first_row, self._backend)
            self._threads.end()
            return [layer[:, : span.start + len(span.tokens)] for layer in power]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot's keys and values into another slot."""
        self._limits.check_slot(source)
        self._limits.check_slot(target)
        if not 0 <= length <= self.context_length:
            raise RequestError(f"length is {length}; a slot holds 0..{self.context_length} tokens")
        with self._lock:
            self._check_open()
            self._kv.copy(source, target, length)

    def close(self) -> None:
        """Free everything. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._graphs.close()
            self._backend.close()
            self._inputs.close()
            self._kv.close()
            self._adapters.close()
            self._weights.close()

    def _run(self, graph: int) -> None:
        self._backend.threads = self._threads.begin()
        self._backend.compute(graph)
        self._threads.end()

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError("the model is closed")

    def _advance(self, asked: Plan | Level, spans: Sequence[Span]) -> _Pass | None:
        """The last pass with its inputs moved on, if `spans` is the decode step after it.

        Most passes are such steps, and little but four numbers changes from one to the next.
        """
        step, span = self._step, spans[0] if len(spans) == 1 else None
        if step is None or span is None or asked is not step.asked or span.slot != step.slot:
            return None
        if span.start != step.next_position or span.outputs != "last" or len(span.tokens) != 1:
            return None
        token = span.tokens[0]
        if span.start >= step.kv_length or not 0 <= token < self.architecture.vocab_size:
            return None
        self._inputs.advance(token)
        step.next_position += 1
        return step

    def _prepare(self, asked: Plan | Level, spans: Sequence[Span]) -> _Pass:
        """The graph for any batch, with its inputs written."""
        self._step = self._written = None
        size = self._size(asked)
        shapes = self._limits.shapes(spans)
        rows = [span.slot * self.context_length for span in spans]
        graph = self._graphs.get(size, shapes)
        if size.adapter is not None:
            self._adapters.use(size.adapter)
        graph.use_slots(rows)
        self._inputs.write(spans, [shape.kv_length for shape in shapes], rows)
        first, kv_length = spans[0], shapes[0].kv_length
        work = _Pass(asked, graph, graph.new_logits(), first.slot, first.start + 1, kv_length)
        if shapes == (SpanShape(1, kv_length, 1),):
            self._step = work
        return work

    def _size(self, asked: Plan | Level) -> Size:
        """The size checked before that equals what is asked for; its identity stands for it.

        Comparing plans layer by layer would take longer than the rest of a step's Python.
        """
        if self._last is not None and self._last[0] is asked:
            return self._last[1]
        size = self._sizes.get(asked)
        if size is None:
            size = self._sizes[asked] = self._check_size(asked)
        self._last = asked, size
        return size

    def _check_size(self, asked: Plan | Level) -> Size:
        if isinstance(asked, Level):
            return self._check_level(asked)
        asked.validate(self.architecture)
        if not any(layer.kv_heads or layer.ff for layer in asked.layers):
            raise PlanError("the plan runs nothing")
        return Size(asked)

    def _check_level(self, level: Level) -> Size:
        bare = self._size(level.plan)
        if level.adapter is None:
            return bare
        adapter = self.bundle.adapters.get(level.adapter)
        if adapter is None:
            raise UnknownLevelError(f"{self.bundle.name} has no adapter {level.adapter!r}")
        adapter.check_fits(self.architecture, level.plan)
        return Size(level.plan, self._adapters.add(adapter, self.architecture, level.plan))


def _context_length(bundle: Bundle, options: EngineOptions) -> int:
    architecture = bundle.architecture
    limit = architecture.context_length
    if options.context_length is None:
        # A longer context would take the rotary factors that serve short texts worse.
        best = architecture.rope_original_context if architecture.has_long_factors else limit
        return min(limit, best, DEFAULT_CONTEXT)
    if options.context_length > limit:
        raise RequestError(
            f"context_length is {options.context_length}; the model was made for at most {limit}"
        )
    return options.context_length
