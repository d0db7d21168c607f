"""Runs passes of the tiny language model: a cached graph, its inputs, and ggml's threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.engine.threads import FreeCores, physical_cores
from pliant.errors import RequestError
from pliant.ggml.backend import Backend, GraphAllocator
from pliant.ggml.tensor import Tensor
from pliant.tlm.config import FRAME
from pliant.tlm.format import TlmFile
from pliant.tlm.graph import Parts, TlmGraph
from pliant.tlm.inputs import MAX_DECIDING, PassShape, TlmInputs
from pliant.tlm.weights import TlmWeights

# Products are at full speed from some hundred tokens on; more only take memory.
PASS_TOKENS = 1024
# Lengths of windows come in these steps, so that graphs are used again.
LENGTH_STEP = 16
_MAX_GRAPHS = 64

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PassResult:
    """Logits: of keeping each token [windows, length], and the decision's; None if not asked.

    `hidden` [windows, length, hidden] is the trunk's output, where neither head was asked.
    """

    hidden: Floats | None
    scores: Floats | None
    prompt_ratios: Floats | None
    levels: Floats | None


class PassRunner:
    """Owns weights and graphs; `run` may be called from several threads, one at a time computes."""

    def __init__(self, file: TlmFile, threads: int | None) -> None:
        self._config = file.config
        self.max_tokens = max(PASS_TOKENS, MAX_DECIDING * file.config.window)
        self._weights = TlmWeights(file)
        self._inputs = TlmInputs(file.config, self.max_tokens)
        self._parts = Parts(file.config, self._weights, self._inputs)
        self._allocator = GraphAllocator()
        self._graphs: OrderedDict[PassShape, TlmGraph] = OrderedDict()
        self._threads = threads or physical_cores()
        self._free_cores = FreeCores()
        self._backend = Backend(self._threads)
        self._lock = threading.Lock()
        self._closed = False
        self._reserve()

    @property
    def nbytes(self) -> int:
        """Memory of intermediate results."""
        return self._allocator.nbytes

    def length(self, tokens: int) -> int:
        """Of a window with so many tokens of a text: with [CLS], [SEP] and padding."""
        return min(-(-(tokens + FRAME) // LENGTH_STEP) * LENGTH_STEP, self._config.window)

    def windows_per_pass(self, length: int) -> int:
        """At least the deciding ones."""
        return self.max_tokens // length

    def run(
        self, shape: PassShape, windows: Sequence[Sequence[int]], slo: tuple[int, int]
    ) -> PassResult:
        """Compute windows of at most `shape.length` - 2 tokens each."""
        with self._lock:
            if self._closed:
                raise RequestError("the tiny language model is closed")
            graph = self._graph(shape)
            self._inputs.write(shape, windows, slo)
            self._backend.threads = min(self._threads, self._free_cores.count())
            self._backend.compute(graph.address)
            return _result(graph, shape)

    def close(self) -> None:
        """Free everything. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._drop()
            self._allocator.close()
            self._backend.close()
            self._inputs.close()
            self._weights.close()

    def _reserve(self) -> None:
        """Take the memory of the largest graph now, so that it need not move later."""
        window = self._config.window
        windows = self.windows_per_pass(window)
        self._build(PassShape(windows, window, is_scored=True, deciding=MAX_DECIDING)).close()

    def _graph(self, shape: PassShape) -> TlmGraph:
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._build(shape)
            while len(self._graphs) >= _MAX_GRAPHS:
                self._graphs.popitem(last=False)[1].close()
            self._graphs[shape] = graph
        self._graphs.move_to_end(shape)
        return graph

    def _build(self, shape: PassShape) -> TlmGraph:
        graph = TlmGraph(self._parts, shape)
        generation = self._allocator.generation
        try:
            self._allocator.allocate(graph.address)
        finally:
            if self._allocator.generation != generation:
                self._drop()
        return graph

    def _drop(self) -> None:
        """The shared memory moved, or goes: nothing built in it can run any more."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()


def _result(graph: TlmGraph, shape: PassShape) -> PassResult:
    sides = shape.windows, shape.length
    has_heads = shape.is_scored or shape.deciding > 0
    return PassResult(
        hidden=None if has_heads else _copied(graph.hidden, *sides, -1),
        scores=_copied(graph.scores, *sides),
        prompt_ratios=_copied(graph.prompt_ratios, -1),
        levels=_copied(graph.levels, -1),
    )


def _copied(tensor: Tensor | None, *shape: int) -> Floats | None:
    return None if tensor is None else tensor.numpy().reshape(shape).copy()
