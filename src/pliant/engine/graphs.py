"""Built graphs, kept for the next call of the same shape."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import product
from time import perf_counter

from pliant.bundle import Plan
from pliant.engine.graph import Graph, Model, Size
from pliant.engine.layout import TILED_FROM_TOKENS
from pliant.engine.span import SpanShape
from pliant.ggml.backend import GraphAllocator

KV_BUCKET = 256
_STEP_TOKENS = 16
# A step's graph takes 0.1 to 0.2 MiB and is built again in less than a millisecond.
_MAX_STEPS = 96
_MAX_PROMPTS = 32
# From here on one graph serves prompts of all lengths (`ggml.stretch`); layouts no longer change.
_SHORT_PROMPT = TILED_FROM_TOKENS

_Key = tuple[int, tuple[SpanShape, ...]]


class GraphCache:
    """Owns graphs and the memory of intermediate results they share.

    Steps (few tokens) and prompts are kept apart, so that prompts of many lengths do not drive
    out the steps that every answer needs. Sizes are told apart by identity: give the same object.
    """

    def __init__(self, model: Model, max_batch: int) -> None:
        self._model = model
        self._allocator = GraphAllocator()
        self._steps: OrderedDict[_Key, Graph] = OrderedDict()
        self._prompts: OrderedDict[_Key, Graph] = OrderedDict()
        self._rigid: set[_Key] = set()  # that cannot be stretched
        self._max_batch = max_batch
        self._reserve(max_batch)

    @property
    def nbytes(self) -> int:
        """Memory reserved for intermediate results."""
        return self._allocator.nbytes

    def get(self, size: Size, shapes: tuple[SpanShape, ...]) -> Graph:
        if len(shapes) == 1 and shapes[0].outputs <= 1 and shapes[0].length >= _SHORT_PROMPT:
            graph = self._stretched(size, shapes[0])
            if graph is not None:
                graph.set_length(shapes[0].length)
                return graph
        is_step = sum([shape.length for shape in shapes]) <= _STEP_TOKENS
        graphs, limit = (self._steps, _MAX_STEPS) if is_step else (self._prompts, _MAX_PROMPTS)
        key = (id(size), shapes)
        graph = graphs.get(key)
        if graph is None:
            graph = self._build(size, shapes)
            _keep(graphs, limit, key, graph)
        graphs.move_to_end(key)
        return graph

    def _stretched(self, size: Size, shape: SpanShape) -> Graph | None:
        """One graph for prompts of all lengths with this padded KV length, if there can be one."""
        length = min(self._max_batch, shape.kv_length)
        longest = shape._replace(length=length)
        key = (id(size), (longest,))
        if length == _SHORT_PROMPT or key in self._rigid:
            return None
        graph = self._prompts.get(key)
        if graph is None:
            graph = self._build(size, (longest,))
            short = Graph(self._model, size, (shape._replace(length=_SHORT_PROMPT),))
            can_stretch = graph.stretch(length, short, _SHORT_PROMPT)
            short.close()
            if not can_stretch:
                graph.close()
                self._rigid.add(key)
                return None
            _keep(self._prompts, _MAX_PROMPTS, key, graph)
        self._prompts.move_to_end(key)
        return graph

    def warm(self, sizes: Iterable[Size], context_length: int, seconds: float) -> None:
        """Build decode steps and prompts beforehand: for short contexts at once, longer ones in
        `seconds`.

        Raises PlanError for a plan that the weights cannot run.
        """
        begin = perf_counter()
        lengths = range(KV_BUCKET, context_length + KV_BUCKET, KV_BUCKET)
        for length, size in product(lengths, list(sizes)):
            is_late = perf_counter() - begin >= seconds or len(self._steps) >= _MAX_STEPS
            if length > KV_BUCKET and is_late:
                return
            kv_length = min(length, context_length)
            self.get(size, (SpanShape(1, kv_length, 1),))
            if len(self._prompts) < _MAX_PROMPTS and kv_length >= _SHORT_PROMPT:
                self._stretched(size, SpanShape(_SHORT_PROMPT, kv_length, 1))

    def close(self) -> None:
        self._drop()
        self._allocator.close()

    def _reserve(self, max_batch: int) -> None:
        """Take the memory of the largest graph now, so that it need not move later."""
        architecture = self._model.architecture
        kv_length = self._model.kv.context_length
        length = min(max_batch, kv_length)
        shapes = (SpanShape(length, kv_length, 1),)
        graph = self._build(Size(Plan.full(architecture)), shapes)
        assert graph.hidden is not None
        self._allocator.use_huge_pages(graph.hidden)
        graph.close()

    def _build(self, size: Size, shapes: tuple[SpanShape, ...]) -> Graph:
        graph = Graph(self._model, size, shapes)
        self.allocate(graph.address)
        return graph

    def allocate(self, graph: int) -> None:
        """Give the intermediate results of the graph at this address memory, until the next one
        is computed."""
        generation = self._allocator.generation
        try:
            self._allocator.allocate(graph)
        finally:
            if self._allocator.generation != generation:
                self._drop()

    def _drop(self) -> None:
        """The shared memory moved, or goes: nothing built in it can run any more."""
        for graph in (*self._steps.values(), *self._prompts.values()):
            graph.close()
        self._steps.clear()
        self._prompts.clear()


def _keep(graphs: OrderedDict[_Key, Graph], limit: int, key: _Key, graph: Graph) -> None:
    """Make room for one more by closing those not used for longest."""
    while len(graphs) >= limit:
        graphs.popitem(last=False)[1].close()
    graphs[key] = graph
