"""Forward passes of any plan over one set of weights."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Bundle, Plan
from pliant.engine.graph import Model
from pliant.engine.graphs import KV_BUCKET, GraphCache
from pliant.engine.inputs import Inputs
from pliant.engine.kv import KvCache
from pliant.engine.layout import LayoutPolicy
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span, SpanShape
from pliant.engine.threads import ThreadGovernor, physical_cores
from pliant.engine.weights import Weights
from pliant.errors import ContextOverflowError, PlanError, RequestError
from pliant.ggml.backend import Backend
from pliant.ggml.cpu import cpu_features

MAX_BATCH = 512
DEFAULT_CONTEXT = 8192
_WARM_SECONDS = 0.05


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of the mapped file, of weight copies beside it, and of intermediate results."""

    mapped: int
    copied: int
    compute: int


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
        policy = LayoutPolicy(
            options.layout, bundle.gguf.path.stat().st_size, "avx512_vnni" in cpu_features()
        )
        self._weights = Weights(bundle, policy)
        self._kv = KvCache(self.architecture, self.num_slots, self.context_length, options.kv_type)
        window = self.architecture.sliding_window
        self._inputs = Inputs(MAX_BATCH, self.context_length, window)
        model = Model(self.architecture, self._weights, self._kv, self._inputs)
        self._graphs = GraphCache(model, MAX_BATCH)
        self._threads = ThreadGovernor(options.threads or physical_cores())
        self._backend = Backend(self._threads.limit)
        self._plans: dict[Plan, Plan] = {}
        self._plan: Plan | None = None
        self._lock = threading.Lock()
        self._closed = False
        plans = [self._known(level.plan) for level in reversed(bundle.levels)]
        self._graphs.warm(plans, self.context_length, _WARM_SECONDS)

    @property
    def threads(self) -> int:
        """Most threads a forward pass uses."""
        return self._threads.limit

    @property
    def memory(self) -> MemoryUse:
        return MemoryUse(
            self._weights.mapped_bytes, self._weights.copied_bytes, self._graphs.nbytes
        )

    def forward(self, plan: Plan, spans: Sequence[Span]) -> NDArray[np.float32]:
        """Compute spans of at most MAX_BATCH tokens together, at the size `plan`.

        Returns the logits wanted, float32 [outputs, vocab], in the order of the spans. Keys and
        values land in the spans' slots; rows a span starts after must have been computed before.
        Raises PlanError for a plan the model cannot run, ContextOverflowError for positions past
        the slot, RequestError for other bad spans.
        """
        with self._lock:
            if self._closed:
                raise RequestError("the model is closed")
            plan = self._known(plan)
            shapes = self._shapes(spans)
            rows = [span.slot * self.context_length for span in spans]
            graph = self._graphs.get(plan, shapes)
            graph.use_slots(rows)
            self._inputs.write(spans, [shape.kv_length for shape in shapes], rows)
            self._backend.threads = self._threads.begin()
            self._backend.compute(graph.address)
            self._threads.end()
            return graph.logits.copy()

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot's keys and values into another slot."""
        self._check_slot(source)
        self._check_slot(target)
        if not 0 <= length <= self.context_length:
            raise RequestError(f"length is {length}; a slot holds 0..{self.context_length} tokens")
        with self._lock:
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
            self._weights.close()

    def _known(self, plan: Plan) -> Plan:
        """The plan checked before that equals `plan`, so that its identity can stand for it.

        Comparing plans layer by layer would take longer than the rest of a step's Python.
        """
        if plan is self._plan:
            return plan
        known = self._plans.get(plan)
        if known is None:
            plan.validate(self.architecture)
            if not any(layer.kv_heads or layer.ff for layer in plan.layers):
                raise PlanError("the plan runs nothing")
            known = self._plans[plan] = plan
        self._plan = known
        return known

    def _shapes(self, spans: Sequence[Span]) -> tuple[SpanShape, ...]:
        """What the graph must fit; raises what `forward` says of bad spans."""
        shapes = []
        slots = set()
        total = 0
        for span in spans:
            tokens = span.tokens
            count = len(tokens)
            end = span.start + count
            if count < 1 or span.start < 0:
                raise RequestError("a span needs at least one token and a start of at least 0")
            if end > self.context_length:
                raise ContextOverflowError(
                    f"{end} tokens do not fit the context of {self.context_length}",
                    needed_tokens=end,
                    available_tokens=self.context_length,
                )
            if min(tokens) < 0 or max(tokens) >= self.architecture.vocab_size:
                raise RequestError(
                    f"token ids must be in 0..{self.architecture.vocab_size - 1}, "
                    f"got {min(tokens)}..{max(tokens)}"
                )
            self._check_slot(span.slot)
            slots.add(span.slot)
            total += count
            kv_length = min(-(-end // KV_BUCKET) * KV_BUCKET, self.context_length)
            shapes.append(SpanShape(count, kv_length, span.num_outputs))
        if not 1 <= total <= MAX_BATCH:
            raise RequestError(f"a batch holds 1 to {MAX_BATCH} tokens, got {total}")
        if len(slots) != len(shapes):
            raise RequestError("two spans of one batch are in the same slot")
        return tuple(shapes)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.num_slots:
            raise RequestError(f"slot is {slot}; there are {self.num_slots}, from 0")


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
